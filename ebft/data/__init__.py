"""Rows of text from the standard library, generated, from disk or from the hub, tokenised and laid out as rows of equal
length."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ebft.config.schema import (
    ColumnsDataConfig,
    DataConfig,
    FileDataConfig,
    HubDataConfig,
    MixtureDataConfig,
    RowsDataConfig,
    UserError,
)
from ebft.data.columns import read_function, read_hub, read_jsonl, read_parquet
from ebft.data.documents import Document, held_out, in_hash_order, in_part, of_question
from ebft.data.epochs import order, steps_per_epoch
from ebft.data.rows import Rows, num_tokens, to_rows
from ebft.data.stdlib import read_stdlib
from ebft.tasks import Question, parses
from ebft.tasks.code_qa import questions as code_qa
from ebft.tasks.translation import questions as translation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Data", "Questions", "Rows", "load", "order", "read", "steps_per_epoch"]

EMBEDDED: dict[str, Callable[[], Iterator[Document]]] = {
    "stdlib": read_stdlib,
    "code_qa": lambda: map(of_question, code_qa.questions()),
    "translation": lambda: map(of_question, translation.questions()),
}


@dataclass(frozen=True)
class Questions:
    """What a verifier can judge: one padded row of prompt and answer a question, and the questions in the rows'
    order."""

    rows: Rows
    items: Sequence[Question]

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Data:
    train: Rows
    validation: Rows
    train_questions: Questions | None  # None: nothing here can be verified
    validation_questions: Questions | None
    # with data.drop_long_pairs, data.drop_untestable and data.drop_failing_references
    num_dropped: int


def load(
    config: DataConfig,
    tokenizer: "PreTrainedTokenizerBase",
    train_questions: bool = True,
    validation_questions: bool = True,
    drop_failing: Callable[[Sequence[Question]], Sequence[bool]] | None = None,
) -> Data:
    """Both sides as rows of tokens, and the questions of those sides that are to be asked about. `drop_failing` runs
    reference answers and says whose fail, for data.drop_failing_references; None leaves them untried.

    Raises UserError for a missing or malformed source, a side without documents, a pair that fits no row, a tokenizer
    without EOS.
    """
    sides = read(config)
    kept = [_kept(side, config, tokenizer, drop_failing) for side in sides]
    train, validation = (to_rows(side, config, tokenizer) for side in kept)
    for_training = _questions(kept[0], train, config, tokenizer) if train_questions else None
    for_validation = _questions(kept[1], validation, config, tokenizer) if validation_questions else None
    return Data(train, validation, for_training, for_validation, sum(map(len, sides)) - sum(map(len, kept)))


def _kept(
    documents: list[Document],
    config: DataConfig,
    tokenizer: "PreTrainedTokenizerBase",
    drop_failing: Callable[[Sequence[Question]], Sequence[bool]] | None,
) -> list[Document]:
    """What the config's choices to drop leave of a side. Raises UserError if that is nothing."""
    kept = documents
    if isinstance(config, ColumnsDataConfig) and config.drop_untestable:
        kept = [document for document in kept if document.question is not None]
    if config.drop_long_pairs:
        kept = _that_fit(kept, config, tokenizer)
    if isinstance(config, ColumnsDataConfig) and config.drop_failing_references and drop_failing is not None:
        asked = [document for document in kept if document.question is not None]
        dropped = drop_failing([document.question for document in asked if document.question is not None])
        failing = {id(document) for document, drops in zip(asked, dropped, strict=True) if drops}
        kept = [document for document in kept if id(document) not in failing]
    if not kept:
        raise UserError(
            f"data.source={config.source} keeps none of the {len(documents)} documents of one side; to see what is "
            "wrong with them, set "
            "data.drop_long_pairs=false and, where they are set, data.drop_untestable=false and "
            "data.drop_failing_references=false."
        )
    return kept


def _that_fit(documents: list[Document], config: DataConfig, tokenizer: "PreTrainedTokenizerBase") -> list[Document]:
    lengths = num_tokens(documents, tokenizer)
    return [
        document
        for document, length in zip(documents, lengths, strict=True)
        if not document.prompt or length <= config.sequence_length
    ]


def _questions(
    documents: list[Document], rows: Rows, config: DataConfig, tokenizer: "PreTrainedTokenizerBase"
) -> Questions | None:
    """The rows themselves where they are padded pairs, otherwise rows of their own."""
    if config.task is None:
        return None
    padded = replace(config, layout="padded", document_masking=False, loss_tokens="completion")
    if config.task == "parses":  # a module's functions; those that fit
        functions = [
            of_question(question)
            for document in documents
            for question in parses.questions(document.key, document.completion)
        ]
        documents = _that_fit(in_hash_order(functions), padded, tokenizer)
    same = config.task != "parses" and config.layout == "padded"
    items = [document.question for document in documents if document.question is not None]
    assert len(items) == len(documents), "a task has questions only"
    if not items:
        raise UserError(
            f"data.source={config.source} holds no question for data.task={config.task} on one of its sides; add "
            "data, or set data.task=null."
        )
    return Questions(rows if same else to_rows(documents, padded, tokenizer), items)


def read(config: DataConfig) -> tuple[list[Document], list[Document]]:
    """The documents for training and those for validation, each side in hash order and limited to its largest
    number."""
    train, held_out = _sides(config)
    validation = [document for document in held_out if in_part(document.key, config.validation_part)]
    return (
        _first(train, config.max_train_documents, "training", config),
        _first(validation, config.max_validation_documents, "validation", config),
    )


def _sides(config: DataConfig) -> tuple[list[Document], list[Document]]:
    """A side of its own where the config names one, otherwise a split of the whole by hash."""
    if isinstance(config, MixtureDataConfig):
        return _mixed(config)
    whole, own = _whole(config), _own_validation(config)
    return _split(whole, config.validation_fraction) if own is None else (list(whole), list(own))


def _mixed(config: MixtureDataConfig) -> tuple[list[Document], list[Document]]:
    """The sides of its parts; copies are for training only."""
    parts = [
        (_split(EMBEDDED[part](), config.validation_fraction), num_copies)
        for part, num_copies in config.parts.items()
        if num_copies
    ]
    train = [document for (side, _), num_copies in parts for document in side * num_copies]
    return train, [document for (_, side), _ in parts for document in side]


def _split(documents: Iterator[Document], fraction: float) -> tuple[list[Document], list[Document]]:
    marked = [(held_out(document.key, fraction), document) for document in documents]
    return [document for held, document in marked if not held], [document for held, document in marked if held]


def _whole(config: DataConfig) -> Iterator[Document]:
    if isinstance(config, HubDataConfig):
        return read_hub(config, config.train_split)
    if isinstance(config, FileDataConfig):
        return _reader(config)(config, config.path)
    if isinstance(config, RowsDataConfig):
        return read_function(config, config.function, "data.function")
    return EMBEDDED[config.source]()


def _own_validation(config: DataConfig) -> Iterator[Document] | None:
    if isinstance(config, HubDataConfig) and config.validation_split is not None:
        if config.validation_path is None and Path(config.path).is_file():
            return None  # a file has no splits
        own = (
            config
            if config.validation_path is None
            else replace(config, path=config.validation_path, name=None, revision=None)
        )
        return read_hub(own, config.validation_split)
    if isinstance(config, FileDataConfig) and config.validation_path is not None:
        return _reader(config)(config, config.validation_path)
    if isinstance(config, RowsDataConfig) and config.validation_function is not None:
        return read_function(config, config.validation_function, "data.validation_function")
    return None


def _reader(config: FileDataConfig) -> Callable[[FileDataConfig, str], Iterator[Document]]:
    return {"jsonl": read_jsonl, "parquet": read_parquet}[config.source]


def _first(documents: Iterable[Document], limit: int | None, side: str, config: DataConfig) -> list[Document]:
    chosen = in_hash_order(documents)[:limit]
    if not chosen:
        raise UserError(
            f"data.source={config.source} leaves no document for {side} at "
            f"data.validation_fraction={config.validation_fraction} and "
            f"data.validation_part={config.validation_part}; change them, add rows, or name a validation set."
        )
    return chosen
