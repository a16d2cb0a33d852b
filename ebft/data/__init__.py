"""Rows of text from the standard library, generated, from disk or from the hub, tokenised and laid out as rows of equal
length."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path

from ebft.config.schema import (
    ColumnsDataConfig,
    DataConfig,
    FileDataConfig,
    HubDataConfig,
    MixtureDataConfig,
    PackagesDataConfig,
    RowsDataConfig,
    UserError,
)
from ebft.data.bad_rows import FAILING, LONG, SHOWN, UNTESTABLE, BadRows, Sieve, counted, too_long
from ebft.data.chat import ChatTemplate
from ebft.data.columns import is_slice, read_function, read_hub, read_jsonl, read_parquet
from ebft.data.documents import Document, held_out, in_both_directions, in_hash_order, in_part, of_question
from ebft.data.epochs import order, steps_per_epoch
from ebft.data.packages import read_packages
from ebft.data.rows import Rows, num_tokens, share_that_cuts_a_word, to_rows
from ebft.data.stdlib import read_stdlib
from ebft.data.tokenization import Tokenization
from ebft.tasks import Question, parses
from ebft.tasks.code_qa import questions as code_qa
from ebft.tasks.translation import questions as translation

__all__ = ["Data", "Questions", "Rows", "Tokenization", "load", "order", "read", "steps_per_epoch"]

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

    def prompt(self, number: int) -> list[int]:
        """The tokens before the answer."""
        return self.rows.tokens[number, : int(self.rows.completion_mask[number].int().argmax())].tolist()

    @cached_property
    def digest(self) -> str:
        """Of the rows and of what the answers are judged by."""
        judged = ((item.tests, item.references, item.direction, item.texts()) for item in self.items)
        return sha256("\n".join([self.rows.digest, *map(repr, judged)]).encode()).hexdigest()


@dataclass(frozen=True)
class Data:
    train: Rows
    validation: Rows
    train_questions: Questions | None  # None: nothing here can be verified
    validation_questions: Questions | None
    dropped: Mapping[str, int]  # rows by what was wrong with them, with data.bad_rows=drop and data.drop_untestable
    # share of prompts that end in a space which the tokenizer joins with the word behind it
    prompts_cut_a_word: float
    tokenization: Tokenization  # with the end of a turn where rows are conversations
    has_conversations: bool

    def digests(self) -> dict[str, str]:
        """By side, with its questions if there are any."""
        sides = {
            "training": (self.train, self.train_questions),
            "held-out": (self.validation, self.validation_questions),
        }
        return {
            name: rows.digest + ("" if questions is None else questions.digest)
            for name, (rows, questions) in sides.items()
        }

    @property
    def num_dropped(self) -> int:
        return sum(self.dropped.values())


def load(
    config: DataConfig,
    tokenization: Tokenization,
    train_questions: bool = True,
    validation_questions: bool = True,
    drop_failing: Callable[[Sequence[Question]], Sequence[bool]] | None = None,
) -> Data:
    """Both sides as rows of tokens, and the questions of those sides that are to be asked about. `drop_failing` runs
    reference answers and says whose fail, for data.drop_failing_references; None leaves them untried.

    Raises UserError for a missing or malformed source, for all bad rows that are not to be dropped, a side without
    documents, a tokenizer without EOS.
    """
    sides, sieves = _read(config)
    has_conversations = any(document.messages for side in sides for document in side)
    if has_conversations:
        assert isinstance(config, ColumnsDataConfig), "only rows hold conversations"
        chat = ChatTemplate.of(config, tokenization.tokenizer)
        tokenization = tokenization.ending_with(chat.end, config)
        sides = chat.written_all(sides[0], sieves[0]), chat.written_all(sides[1], sieves[1])
    _refuse(sides, sieves, config, tokenization)
    dropped = sum((sieve.dropped for sieve in sieves), Counter[str]())
    kept = [_kept(side, config, tokenization, dropped, drop_failing) for side in sides]
    train, validation = _rows_of(kept, config, tokenization)
    for_training = _questions(kept[0], train, config, tokenization) if train_questions else None
    for_validation = _questions(kept[1], validation, config, tokenization) if validation_questions else None
    cut = share_that_cuts_a_word([*kept[0], *kept[1]], tokenization)
    return Data(train, validation, for_training, for_validation, dropped, cut, tokenization, has_conversations)


def _refuse(
    sides: Sequence[list[Document]], sieves: Sequence[Sieve], config: DataConfig, tokenization: Tokenization
) -> None:
    """Raises UserError for rows that are refused, among them those that would be found too long afterwards."""
    errors = [error for sieve in sieves if (error := sieve.error()) is not None]
    if errors and config.layout == "padded" and config.bad_rows == "refuse":
        for side in sides:
            lengths = zip(side, num_tokens(side, tokenization), strict=True)
            long = [(document, length) for document, length in lengths if not _fits(document, length, config)]
            if long:
                errors.append(BadRows.of(too_long(x.origin, length, config.sequence_length) for x, length in long))
    if errors:
        raise BadRows.joined(errors)


def _rows_of(sides: Sequence[list[Document]], config: DataConfig, tokenization: Tokenization) -> tuple[Rows, Rows]:
    """Rows of both sides. Raises UserError for the pairs of both that fit no row."""
    found, errors = [], []
    for side in sides:
        try:
            found.append(to_rows(side, config, tokenization))
        except BadRows as error:
            errors.append(error)
    if errors:
        raise BadRows.joined(errors)
    train, validation = found
    return train, validation


def _kept(
    documents: list[Document],
    config: DataConfig,
    tokenization: Tokenization,
    dropped: Counter[str],
    drop_failing: Callable[[Sequence[Question]], Sequence[bool]] | None,
) -> list[Document]:
    """What the config's choices to drop leave of a side, the rest counted in `dropped`. Raises UserError if that is
    nothing."""
    tested = documents
    if isinstance(config, ColumnsDataConfig) and config.drop_untestable:
        tested = [document for document in documents if document.question is not None]
    # whether or not this run asks its questions, so that all methods train on the same rows
    drops = config.bad_rows == "drop" and (config.layout == "padded" or config.task is not None)
    kept = _that_fit(tested, config, tokenization) if drops else tested
    dropped.update({UNTESTABLE: len(documents) - len(tested), LONG: len(tested) - len(kept)})
    failed: list[str] = []
    if isinstance(config, ColumnsDataConfig) and config.drop_failing_references and drop_failing is not None:
        asked = [document for document in kept if document.question is not None]
        drops_each = drop_failing([document.question for document in asked if document.question is not None])
        failing = {id(document) for document, fails in zip(asked, drops_each, strict=True) if fails}
        kept = [document for document in kept if id(document) not in failing]
        dropped.update({FAILING: len(failing)})
        failed = [document.origin for document in asked if id(document) in failing]
    if not kept:
        rows = f", {len(failed)} for their reference answers ({_named(failed)})" if failed else ""
        raise UserError(
            f"data.source={config.source} keeps none of the {len(documents)} documents of one side{rows}; to see what "
            "is wrong with them, set data.bad_rows=refuse and, where they are set, data.drop_untestable=false and "
            "data.drop_failing_references=false."
        )
    return kept


def _named(origins: Sequence[str]) -> str:
    return ", ".join(origins[:SHOWN]) + (f" and {len(origins) - SHOWN} more" if len(origins) > SHOWN else "")


def _that_fit(documents: list[Document], config: DataConfig, tokenization: Tokenization) -> list[Document]:
    lengths = zip(documents, num_tokens(documents, tokenization), strict=True)
    return [document for document, length in lengths if _fits(document, length, config)]


def _fits(document: Document, length: int, config: DataConfig) -> bool:
    return not document.prompt or length <= config.sequence_length


def _questions(
    documents: list[Document], rows: Rows, config: DataConfig, tokenization: Tokenization
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
        documents = _that_fit(in_hash_order(functions), padded, tokenization)
    several = any(document.earlier or sum(piece.learned for piece in document.pieces) > 1 for document in documents)
    if several:
        documents = [document.last_turn for document in documents]
    same = config.task != "parses" and config.layout == "padded" and not several
    items = [_as_answered(document.question, tokenization) for document in documents if document.question is not None]
    assert len(items) == len(documents), "a task has questions only"
    if not items:
        raise UserError(
            f"data.source={config.source} holds no question for data.task={config.task} on one of its sides; add "
            "data, or set data.task=null."
        )
    return Questions(rows if same else to_rows(documents, padded, tokenization), items)


def _as_answered(question: Question, tokenization: Tokenization) -> Question:
    """With references as answers are read: without an end token that is written behind their text."""
    if not question.references:
        return question
    ends = [tokenization.decode([token]) for token in tokenization.stop_tokens]
    return replace(question, references=tuple(_without_end(text, ends) for text in question.references))


def _without_end(text: str, ends: Sequence[str]) -> str:
    for end in ends:
        if end.strip() and text.rstrip().endswith(end.rstrip()):
            return _without_end(text.rstrip().removesuffix(end.rstrip()), ends)
    return text


def read(config: DataConfig) -> tuple[list[Document], list[Document]]:
    """The documents for training and those for validation, each side in hash order and limited to its largest number.
    Raises UserError for all bad rows that are not to be dropped."""
    sides, sieves = _read(config)
    errors = [error for sieve in sieves if (error := sieve.error()) is not None]
    if errors:
        raise BadRows.joined(errors)
    return sides


def _read(config: DataConfig) -> tuple[tuple[list[Document], list[Document]], tuple[Sieve, Sieve]]:
    """As `read`, with what was wrong with rows."""
    drops = config.bad_rows == "drop"
    sieves = Sieve(drops), Sieve(drops, keeps_copies=True)
    train, held_out = _sides(config, *sieves)
    validation = in_part(held_out, config.validation_part)
    return (
        _first(train, config.max_train_documents, "training", config, sieves),
        _first(validation, config.max_validation_documents, "validation", config, sieves),
    ), sieves


def _sides(config: DataConfig, sieve: Sieve, own_sieve: Sieve) -> tuple[list[Document], list[Document]]:
    """A side of its own where the config names one, otherwise a split of the whole by hash."""
    if isinstance(config, MixtureDataConfig):
        return _mixed(config)
    whole, own = _whole(config, sieve), _own_validation(config, own_sieve)
    if isinstance(config, ColumnsDataConfig) and config.direction_column is not None:
        whole = iter(in_both_directions(list(whole)))
    return _split(whole, config.validation_fraction) if own is None else (list(whole), list(own))


def _mixed(config: MixtureDataConfig) -> tuple[list[Document], list[Document]]:
    """The sides of its parts; copies are for training only."""
    parts = [
        (_split(_embedded(EMBEDDED[part]), config.validation_fraction), num_copies)
        for part, num_copies in config.parts.items()
        if num_copies
    ]
    train = [document for (side, _), num_copies in parts for document in side * num_copies]
    return train, [document for (_, side), _ in parts for document in side]


def _split(documents: Iterable[Document], fraction: float) -> tuple[list[Document], list[Document]]:
    whole = list(documents)
    keys = held_out(whole, fraction)
    return [document for document in whole if document.key not in keys], [x for x in whole if x.key in keys]


def _whole(config: DataConfig, sieve: Sieve) -> Iterator[Document]:
    if isinstance(config, HubDataConfig):
        return read_hub(config, config.train_split, sieve)
    if isinstance(config, FileDataConfig):
        return _reader(config)(config, config.path, sieve)
    if isinstance(config, RowsDataConfig):
        return read_function(config, config.function, "data.function", sieve)
    if isinstance(config, PackagesDataConfig):
        return read_packages(config.packages, sieve)
    return iter(_embedded(EMBEDDED[config.source]))


@cache
def _embedded(source: Callable[[], Iterator[Document]]) -> tuple[Document, ...]:
    """All documents of a source that the package brings along, made once: a mixture, a further held-out set and the
    next run of this process read the same ones."""
    return tuple(source())


def _own_validation(config: DataConfig, sieve: Sieve) -> Iterator[Document] | None:
    if isinstance(config, HubDataConfig) and config.validation_split is not None:
        if config.validation_path is None and Path(config.path).is_file() and not is_slice(config.validation_split):
            return None  # a file has no other split
        own = (
            config
            if config.validation_path is None
            else replace(config, path=config.validation_path, name=None, revision=None)
        )
        return read_hub(own, config.validation_split, sieve)
    if isinstance(config, FileDataConfig) and config.validation_path is not None:
        return _reader(config)(config, config.validation_path, sieve)
    if isinstance(config, RowsDataConfig) and config.validation_function is not None:
        return read_function(config, config.validation_function, "data.validation_function", sieve)
    return None


def _reader(config: FileDataConfig) -> Callable[[FileDataConfig, str, Sieve], Iterator[Document]]:
    return {"jsonl": read_jsonl, "parquet": read_parquet}[config.source]


def _first(
    documents: Iterable[Document], limit: int | None, side: str, config: DataConfig, sieves: tuple[Sieve, Sieve]
) -> list[Document]:
    """The first in hash order, of which there are none only where bad rows are refused anyway."""
    chosen = in_hash_order(documents)[:limit]
    if chosen or any(sieve.refused for sieve in sieves):
        return chosen
    if dropped := sum((sieve.dropped for sieve in sieves), Counter[str]()):
        raise UserError(
            f"data.source={config.source} leaves no document for {side} once bad rows are dropped "
            f"({counted(dropped)}); set data.bad_rows=refuse to see what is wrong with them."
        )
    raise UserError(
        f"data.source={config.source} leaves no document for {side} at "
        f"data.validation_fraction={config.validation_fraction} and "
        f"data.validation_part={config.validation_part}; change them, add rows, or name a validation set."
    )
