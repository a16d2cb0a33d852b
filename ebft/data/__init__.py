"""Rows of text from the standard library, from disk or from the hub, tokenised and laid out as rows of equal length."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ebft.config import DataConfig, FileDataConfig, HubDataConfig, UserError
from ebft.data.columns import read_hub, read_jsonl, read_parquet
from ebft.data.documents import Document, held_out, in_hash_order, in_part
from ebft.data.epochs import order, steps_per_epoch
from ebft.data.rows import Rows, to_rows
from ebft.data.stdlib import read_stdlib

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Data", "Rows", "load", "order", "read", "steps_per_epoch"]


@dataclass(frozen=True)
class Data:
    train: Rows
    validation: Rows


def load(config: DataConfig, tokenizer: "PreTrainedTokenizerBase") -> Data:
    """Both sides as rows of tokens.

    Raises UserError for a missing or malformed source, a side without documents, a pair that fits no row, a tokenizer without EOS.
    """
    train, validation = read(config)
    return Data(train=to_rows(train, config, tokenizer), validation=to_rows(validation, config, tokenizer))


def read(config: DataConfig) -> tuple[list[Document], list[Document]]:
    """The documents for training and those for validation, each side in hash order and limited to its largest number."""
    train, held_out = _sides(config)
    validation = [document for document in held_out if in_part(document.key, config.validation_part)]
    return (
        _first(train, config.max_train_documents, "training", config),
        _first(validation, config.max_validation_documents, "validation", config),
    )


def _sides(config: DataConfig) -> tuple[list[Document], list[Document]]:
    """A side of its own where the config names one, otherwise a split of the whole by hash."""
    if isinstance(config, HubDataConfig):
        whole = list(read_hub(config, config.train_split))
        own = None if config.validation_split is None else list(read_hub(config, config.validation_split))
    elif isinstance(config, FileDataConfig):
        read_file = {"jsonl": read_jsonl, "parquet": read_parquet}[config.source]
        whole = list(read_file(config, config.path))
        own = None if config.validation_path is None else list(read_file(config, config.validation_path))
    else:
        assert config.source == "stdlib", config.source
        whole, own = list(read_stdlib()), None
    if own is not None:
        return whole, own
    marked = [(held_out(document.key, config.validation_fraction), document) for document in whole]
    return [document for held, document in marked if not held], [document for held, document in marked if held]


def _first(documents: Iterable[Document], limit: int | None, side: str, config: DataConfig) -> list[Document]:
    chosen = in_hash_order(documents)[:limit]
    if not chosen:
        raise UserError(
            f"data.source={config.source} leaves no document for {side} at data.validation_fraction={config.validation_fraction} and "
            f"data.validation_part={config.validation_part}; change them, add rows, or name a validation set."
        )
    return chosen
