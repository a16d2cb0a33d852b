"""Rows with named columns, from JSONL, Parquet or a hub data set, checked one by one: a bad row is named by file and
line or by its number."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from ebft.config import doors
from ebft.config.schema import ColumnsDataConfig, FileDataConfig, HubDataConfig, RowsDataConfig, UserError
from ebft.config.stored import data_file
from ebft.data.bad_rows import COPY, MALFORMED, UNTESTABLE, BadCell, BadRow, Sieve
from ebft.data.compressed import lines
from ebft.data.documents import Document
from ebft.data.questions import Untestable, document, wanted_columns
from ebft.data.raw_row import RawRow
from ebft.output.hub import check_data_set

Named = tuple[str, Any]  # how an error names a row, and what the source holds there

READ_BATCH_ROWS = 1000


def read_jsonl(config: FileDataConfig, path: str, sieve: Sieve) -> Iterator[Document]:
    return _documents(config, enumerated(f"{path}:", lines(data_file(path))), sieve, _parse)


def read_parquet(config: FileDataConfig, path: str, sieve: Sieve) -> Iterator[Document]:
    return _documents(config, _parquet_rows(config, data_file(path)), sieve)


def read_hub(config: HubDataConfig, split: str, sieve: Sieve) -> Iterator[Document]:
    return _documents(config, _hub_rows(config, split), sieve)


def read_function(config: RowsDataConfig, reference: str, key: str, sieve: Sieve) -> Iterator[Document]:
    return _documents(config, _function_rows(reference, key), sieve)


def enumerated(place: str, rows: Iterable[Any]) -> Iterator[Named]:
    return ((f"{place}{number}", row) for number, row in enumerate(rows, start=1))


def _function_rows(reference: str, key: str) -> Iterator[Named]:
    function = doors.load(reference, key)
    if not callable(function):
        raise UserError(f"{key}={reference} is {type(function).__name__}; it must be a function that yields rows.")
    try:
        rows = function()
        if not isinstance(rows, Iterable):
            raise UserError(f"{key}={reference} returned {type(rows).__name__}; it must yield rows.")
        yield from enumerated(f"{key}={reference} row ", rows)
    except UserError:
        raise
    except doors.FAULTS as error:
        raise UserError(doors.explained(error, f"{key}={reference} failed")) from error


def _parse(line: bytes, origin: str) -> Any:
    """What a line of JSON holds. Raises BadCell for one that is none."""
    try:
        return json.loads(line.rstrip())
    except json.JSONDecodeError as error:
        problem, fix = f"is not valid JSON ({error.msg} at column {error.colno})", "write one object a line"
    except UnicodeDecodeError as error:
        problem, fix = f"is not UTF-8 ({error.reason})", "re-encode the file"
    except RecursionError:
        problem, fix = "nests its brackets too deeply to be read", "write one object of columns and cells a line"
    except ValueError:  # Python's limit on the digits of a whole number
        problem, fix = f"holds a number of more than {sys.get_int_max_str_digits():,} digits", "write it as a text"
    raise BadCell(BadRow(MALFORMED, f"{origin} {problem}", fix))


def _parquet_rows(config: FileDataConfig, path: Path) -> Iterator[Named]:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        _check_columns(config, file.schema_arrow.names, str(path))
        batches = file.iter_batches(READ_BATCH_ROWS, columns=_read_columns(config))
        rows = (row for batch in batches for row in batch.to_pylist())
        yield from enumerated(f"{path} row ", rows)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"{path} cannot be read as Parquet ({_first_line(error)}); write it again or correct data.path."
        ) from error


def _hub_rows(config: HubDataConfig, split: str) -> Iterator[Named]:
    import datasets

    is_file = Path(config.path).is_file()
    check_data_set(config.path, config.revision)
    label = f"{config.path} split {split}" if is_slice(split) or not is_file else config.path
    try:
        if is_file:
            kind = "parquet" if config.path.endswith(".parquet") else "json"
            dataset = datasets.load_dataset(kind, data_files=config.path, split=split if is_slice(split) else "train")
        else:
            dataset = datasets.load_dataset(config.path, config.name, revision=config.revision, split=split)
    except (OSError, ValueError, RecursionError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"Cannot load {label} ({_first_line(error)}); check data.path, data.name, data.revision, the split's "
            "name, and the network."
        ) from error
    _check_columns(config, dataset.column_names, label)
    rows = (
        row
        for batch in dataset.select_columns(_read_columns(config) or dataset.column_names).iter(READ_BATCH_ROWS)
        for row in _transposed(batch)
    )
    yield from enumerated(f"{label} row ", rows)


def is_slice(split: str) -> bool:
    """Whether a split names parts of `train`, which is all that a file has, such as train[10:510]."""
    return split.startswith("train[")


def _read_columns(config: ColumnsDataConfig) -> list[str] | None:
    """The columns to read: those that are named; None, for all of them, where a user's own task may read any."""
    return None if doors.is_door(config.task) else list(wanted_columns(config))


def _transposed(batch: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    return (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


def _documents(
    config: ColumnsDataConfig,
    rows: Iterable[Named],
    sieve: Sieve,
    parse: Callable[[Any, str], Any] = lambda row, origin: row,
) -> Iterator[Document]:
    """The documents of the rows that can be used; the sieve takes down the others. Raises UserError for a first row
    that has not the columns that the config names, for then it is the config that is wrong."""
    is_first, directions = not sieve.drops, Counter[str]()
    wanted_columns(config)  # which raises for a malformed template, once and not of each row
    for origin, row in rows:
        if isinstance(row, bytes) and not row.strip():  # a blank line
            continue
        try:
            found = _document(config, parse(row, origin), origin, is_first)
        except _Columns:
            raise
        except UserError as error:
            sieve.add(_bad_row(error))
            continue
        finally:
            is_first = False
        if config.directions is not None:
            assert found.question is not None  # which rules.py has seen to
            directions[found.question.direction] += 1
            if found.question.direction not in config.directions:
                continue
        if sieve.is_copy(_digest(config, found)):
            sieve.add(BadRow(COPY, f"{origin} repeats an earlier row"))
        else:
            yield found
    missing = [direction for direction in config.directions or () if direction not in directions]
    if missing:
        raise UserError(
            f"No row has the direction {' or '.join(missing)} of data.directions; column {config.direction_column} "
            f"holds {', '.join(sorted(directions)) or 'none'}."
        )


class _Columns(UserError):
    """The columns that a config names are not those of the source."""


def _document(config: ColumnsDataConfig, row: Any, origin: str, is_first: bool) -> Document:
    if not isinstance(row, dict):
        problem = f"{origin} holds {type(row).__name__}, not an object of columns and cells"
        raise BadCell(BadRow(MALFORMED, problem, "write one object a row"))
    try:
        _check_columns(config, list(row), origin)
    except _Columns as error:
        if is_first:
            raise
        raise BadCell(BadRow(MALFORMED, *str(error).removesuffix(".").split("; ", 1))) from error
    return document(config, RawRow(origin, row))


def _bad_row(error: UserError) -> BadRow:
    if isinstance(error, BadCell):
        return error.row
    problem, _, fix = str(error).removesuffix(".").partition("; ")
    if isinstance(error, Untestable):
        return BadRow(UNTESTABLE, problem, fix.partition(", or drop all such rows")[0])
    return BadRow(MALFORMED, problem, fix or BadRow.fix)


def _digest(config: ColumnsDataConfig, found: Document) -> bytes:
    """Equal for rows of the same texts: prompt, completion, messages and what judges them; of a user's own task, which
    reads what it likes, all texts of the row."""
    question = found.question
    judged = None if question is None else (question.tests, question.references, question.direction, question.texts())
    return sha256(repr((found.prompt, found.completion, found.messages, judged)).encode()).digest()[:16]


def _check_columns(config: ColumnsDataConfig, found: list[str], origin: str) -> None:
    missing = {column: key for column, key in wanted_columns(config).items() if column not in found}
    if missing:
        raise _Columns(
            f"{origin} has the columns {', '.join(found) or '(none)'} but not {', '.join(missing)}; "
            f"{_fix(set(missing.values()))}."
        )


def _fix(keys: set[str]) -> str:
    if keys & {"data.text_column", "data.prompt_column", "data.completion_column"}:
        return "set data.text_column, or data.prompt_column and data.completion_column"
    return f"correct {' and '.join(sorted(keys))}"
