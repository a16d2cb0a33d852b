"""A run's rows as they were made before on this machine (run/by_content.py), under a hash of all that they depend on:
data config, the content of the sources, tokenizer, this package and the libraries.

Kept are rows of what the package generates, of the standard library, of installed packages and of files on disk. Not
kept are those that a hash of files does not decide: a hub's, those that a user's own code has a part in, conversations,
whose template may ask for the date, rows that are tried before they are taken, and those of a slow tokenizer.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from ebft import data
from ebft.config.schema import (
    TASKS,
    DataConfig,
    FileDataConfig,
    GeneratedDataConfig,
    MixtureDataConfig,
    PackagesDataConfig,
    StdlibDataConfig,
)
from ebft.data import Data, Questions, Rows, Tokenization
from ebft.data.packages import source_files
from ebft.data.stdlib import read_stdlib
from ebft.output import cache
from ebft.output.files import sha256_of
from ebft.run import by_content
from ebft.sandbox.programs import Case, Exchange, Tests
from ebft.tasks import Question

FOLDER = "rows"
MOST_BYTES = 1 << 30  # of all entries together
LARGEST_BYTES = MOST_BYTES // 4  # of one


def load(
    config: DataConfig,
    tokenization: Tokenization,
    train_questions: bool,
    validation_questions: bool,
    drop_failing: Callable[[Sequence[Question]], Sequence[bool]],
) -> Data:
    """As `data.load`, whose rows these are, bit for bit."""
    key = _key(config, tokenization, train_questions, validation_questions)
    found = by_content.find(FOLDER, key, lambda state: _data(state, tokenization))
    if found is not None:
        return found
    made = data.load(config, tokenization, train_questions, validation_questions, drop_failing)
    if not made.has_conversations and _num_bytes(made) <= LARGEST_BYTES:
        by_content.keep(FOLDER, key, _state(made), MOST_BYTES)
    return made


def _key(
    config: DataConfig, tokenization: Tokenization, train_questions: bool, validation_questions: bool
) -> str | None:
    """The hash; None where nothing is kept."""
    tokenizer = _tokenizer(tokenization)
    if cache.folder(FOLDER) is None or tokenizer is None or not _is_decided_by_files(config):
        return None
    parts = {
        "config": [type(config).__name__, asdict(config)],
        "questions": [train_questions, validation_questions],
        "sources": [*_sources(config)],
        "tokenizer": tokenizer,
        "tokenization": [tokenization.bos, tokenization.stop_tokens],
        "code": by_content.package_digest(),
        "libraries": by_content.versions(),
    }
    return sha256(json.dumps(parts).encode()).hexdigest()


def _is_decided_by_files(config: DataConfig) -> bool:
    if isinstance(config, FileDataConfig) and config.drop_failing_references:
        return False
    kinds = StdlibDataConfig | PackagesDataConfig | GeneratedDataConfig | MixtureDataConfig | FileDataConfig
    return isinstance(config, kinds) and config.task in (None, *TASKS)


def _sources(config: DataConfig) -> Iterator[str]:
    """Digests of what is read beside this package. Raises UserError as reading does."""
    named = config.parts if isinstance(config, MixtureDataConfig) else [config.source]
    if "stdlib" in named:
        texts = sha256()
        for document in read_stdlib():
            texts.update(f"{document.key}\0{document.completion}\0".encode())
        yield texts.hexdigest()
    if isinstance(config, PackagesDataConfig):
        files = {name: path for package in config.packages for name, path in source_files(package).items()}
        yield from (f"{name} {sha256_of(path)}" for name, path in files.items())
    if isinstance(config, FileDataConfig):
        paths = [Path(path) for path in (config.path, config.validation_path) if path is not None]
        yield from (sha256_of(path) if path.is_file() else "" for path in paths)


def _tokenizer(tokenization: Tokenization) -> str | None:
    """Everything that a fast tokenizer of transformers is; None for another, whose code may do anything."""
    tokenizer = tokenization.tokenizer
    if not tokenizer.is_fast or not type(tokenizer).__module__.startswith("transformers."):
        return None
    settings = json.dumps(tokenizer.init_kwargs, sort_keys=True, default=str)
    specials = str(tokenizer.special_tokens_map)
    parts = [type(tokenizer).__name__, tokenizer.backend_tokenizer.to_str(), settings, specials]
    return sha256("\0".join(parts).encode()).hexdigest()


def _num_bytes(made: Data) -> int:
    """Of the rows' tensors, which are the most of it."""
    questions = [side.rows for side in (made.train_questions, made.validation_questions) if side is not None]
    each = {id(rows): rows for rows in (made.train, made.validation, *questions)}
    tensors = (value for rows in each.values() for value in vars(rows).values() if hasattr(value, "nbytes"))
    return sum(value.nbytes for value in tensors)


def _state(made: Data) -> dict[str, Any]:
    """Numbers, texts, tensors and their containers; questions' rows are None where they are the side's own."""
    sides = {"train": (made.train, made.train_questions), "validation": (made.validation, made.validation_questions)}
    return {
        "dropped": dict(made.dropped),
        "prompts_cut_a_word": made.prompts_cut_a_word,
        **{name: _rows_state(rows) for name, (rows, _) in sides.items()},
        **{
            f"{name}_questions": None
            if questions is None
            else {
                "rows": None if questions.rows is rows else _rows_state(questions.rows),
                "items": [asdict(item) for item in questions.items],
            }
            for name, (rows, questions) in sides.items()
        },
    }


def _rows_state(rows: Rows) -> dict[str, Any]:
    return {item.name: getattr(rows, item.name) for item in fields(rows)}


def _data(state: Mapping[str, Any], tokenization: Tokenization) -> Data:
    """What `_state` was made of. Raises what comes of a file that `keep` did not write."""
    train, validation = Rows(**state["train"]), Rows(**state["validation"])
    return Data(
        train=train,
        validation=validation,
        train_questions=_questions(state["train_questions"], train),
        validation_questions=_questions(state["validation_questions"], validation),
        dropped=Counter(state["dropped"]),
        prompts_cut_a_word=float(state["prompts_cut_a_word"]),
        tokenization=tokenization,
        has_conversations=False,
    )


def _questions(state: Mapping[str, Any] | None, side: Rows) -> Questions | None:
    if state is None:
        return None
    rows = side if state["rows"] is None else Rows(**state["rows"])
    return Questions(rows, [_question(item) for item in state["items"]])


def _question(state: Mapping[str, Any]) -> Question:
    tests = state["tests"]
    return Question(**{**state, "tests": None if tests is None else _tests(tests)})


def _tests(state: Mapping[str, Any]) -> Tests:
    cases, exchanges = (
        tuple(kind(**each) for each in state[name]) for kind, name in ((Case, "cases"), (Exchange, "exchanges"))
    )
    return Tests(**{**state, "cases": cases, "exchanges": exchanges})
