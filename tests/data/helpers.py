"""Configs and a tokenizer small enough to work rows out by hand: one token a word, `a` is 1 to `e` is 5, EOS is 0."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ebft.config.schema import FileDataConfig, HubDataConfig, StdlibDataConfig
from ebft.data.documents import Document
from ebft.data.tokenization import Tokenization

FILES = Path(__file__).parent / "files"


def tokenizer(eos_token: str | None = "<eos>") -> Tokenization:
    return Tokenization.of(stdlib_config(), plain_tokenizer(eos_token))


def plain_tokenizer(eos_token: str | None) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({"<eos>": 0, "a": 1, "b": 2, "c": 3, "d": 4, "e": 5}, unk_token="<eos>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token=eos_token, name_or_path="toy")


def stdlib_config(**changes: Any) -> StdlibDataConfig:
    config = StdlibDataConfig(
        source="stdlib",
        sequence_length=5,
        layout="packed",
        document_masking=False,
        loss_tokens="all",
        bos="auto",
        end_token=None,
        validation_fraction=0.1,
        validation_part="all",
        task=None,
        bad_rows="refuse",
        max_train_documents=None,
        max_validation_documents=None,
    )
    return replace(config, **changes)


NO_COLUMNS = {
    "validation_path": None,
    "text_column": None,
    "messages_column": None,
    "chat_template": "auto",
    "prompt_column": None,
    "prompt_template": None,
    "completion_column": None,
    "border_space": None,
    "tests_column": None,
    "setup_column": None,
    "entry_point_column": None,
    "completes_prompt": False,
    "stdin_column": None,
    "stdout_column": None,
    "drop_untestable": False,
    "drop_failing_references": False,
    "references_column": None,
    "direction_column": None,
    "directions": None,
}


def file_config(path: Path, **changes: Any) -> FileDataConfig:
    return FileDataConfig(
        **{
            **vars(stdlib_config()),
            **NO_COLUMNS,
            "text_column": "text",
            "source": "jsonl",
            "path": str(path),
            **changes,
        }
    )


def hub_config(path: Path, **changes: Any) -> HubDataConfig:
    columns = {"path": str(path), "prompt_column": "question", "completion_column": "answer"}
    splits = {"name": None, "revision": None, "train_split": "train", "validation_split": "test"}
    return HubDataConfig(**{**vars(stdlib_config()), **NO_COLUMNS, **columns, **splits, "source": "hub", **changes})


def text(completion: str) -> Document:
    return Document(key=completion, prompt="", completion=completion, origin="here")


def pair(prompt: str, completion: str) -> Document:
    return Document(key=prompt, prompt=prompt, completion=completion, origin="file.jsonl:7")
