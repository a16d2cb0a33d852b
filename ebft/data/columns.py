"""Rows with named columns, from JSONL, Parquet or a hub data set, checked one by one: a bad row is named by file and
line or by its number."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ebft.config import doors
from ebft.config.schema import ColumnsDataConfig, FileDataConfig, HubDataConfig, RowsDataConfig, UserError
from ebft.data.documents import Document
from ebft.data.questions import document, wanted_columns
from ebft.data.raw_row import RawRow

Named = tuple[str, Any]  # how an error names a row, and what the source holds there

READ_BATCH_ROWS = 1000


def read_jsonl(config: FileDataConfig, path: str) -> Iterator[Document]:
    return _documents(config, _jsonl_rows(_existing(path)))


def read_parquet(config: FileDataConfig, path: str) -> Iterator[Document]:
    return _documents(config, _parquet_rows(config, _existing(path)))


def read_hub(config: HubDataConfig, split: str) -> Iterator[Document]:
    return _documents(config, _hub_rows(config, split))


def read_function(config: RowsDataConfig, reference: str, key: str) -> Iterator[Document]:
    return _documents(config, _function_rows(reference, key))


def _function_rows(reference: str, key: str) -> Iterator[Named]:
    function = doors.load(reference, key)
    if not callable(function):
        raise UserError(f"{key}={reference} is {type(function).__name__}; it must be a function that yields rows.")
    try:
        for number, row in enumerate(function(), start=1):
            yield f"{key}={reference} row {number}", row
    except UserError:
        raise
    except Exception as error:  # of the user's own code
        raise UserError(doors.explained(error, f"{key}={reference} failed")) from error


def _existing(path: str) -> Path:
    if not Path(path).is_file():
        raise UserError(f"{path} is not a file; correct data.path or data.validation_path.")
    return Path(path)


def _jsonl_rows(path: Path) -> Iterator[Named]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}:{number}", _parse(line, f"{path}:{number}")


def _parse(line: bytes, origin: str) -> Any:
    try:
        return json.loads(line.rstrip())
    except json.JSONDecodeError as error:
        raise UserError(
            f"{origin} is not valid JSON ({error.msg} at column {error.colno}); write one object a line."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{origin} is not UTF-8 ({error.reason}); re-encode the file.") from error


def _parquet_rows(config: FileDataConfig, path: Path) -> Iterator[Named]:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        _check_columns(config, file.schema_arrow.names, str(path))
        batches = file.iter_batches(READ_BATCH_ROWS, columns=_read_columns(config))
        rows = (row for batch in batches for row in batch.to_pylist())
        yield from ((f"{path} row {number}", row) for number, row in enumerate(rows, start=1))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"{path} cannot be read as Parquet ({_first_line(error)}); write it again or correct data.path."
        ) from error


def _hub_rows(config: HubDataConfig, split: str) -> Iterator[Named]:
    import datasets

    is_file = Path(config.path).is_file()
    label = config.path if is_file else f"{config.path} split {split}"
    try:
        if is_file:
            kind = "parquet" if config.path.endswith(".parquet") else "json"
            dataset = datasets.load_dataset(kind, data_files=config.path, split="train")
        else:
            dataset = datasets.load_dataset(config.path, config.name, revision=config.revision, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
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
    yield from ((f"{label} row {number}", row) for number, row in enumerate(rows, start=1))


def _read_columns(config: ColumnsDataConfig) -> list[str] | None:
    """The columns to read: those that are named; None, for all of them, where a user's own task may read any."""
    return None if doors.is_door(config.task) else list(wanted_columns(config))


def _transposed(batch: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    return (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


def _documents(config: ColumnsDataConfig, rows: Iterable[Named]) -> Iterator[Document]:
    for origin, row in rows:
        if not isinstance(row, dict):
            raise UserError(
                f"{origin} holds {type(row).__name__}, not an object of columns and cells; write one object a row."
            )
        _check_columns(config, list(row), origin)
        yield document(config, RawRow(origin, row))


def _check_columns(config: ColumnsDataConfig, found: list[str], origin: str) -> None:
    missing = {column: key for column, key in wanted_columns(config).items() if column not in found}
    if missing:
        raise UserError(
            f"{origin} has the columns {', '.join(found) or '(none)'} but not {', '.join(missing)}; "
            f"{_fix(set(missing.values()))}."
        )


def _fix(keys: set[str]) -> str:
    if keys & {"data.text_column", "data.prompt_column", "data.completion_column"}:
        return "set data.text_column, or data.prompt_column and data.completion_column"
    return f"correct {' and '.join(sorted(keys))}"
