"""Rows with named columns, from JSONL, Parquet or a hub data set, checked one by one: a bad row is named by file and line or by its number."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ebft.config import ColumnsDataConfig, FileDataConfig, HubDataConfig, UserError
from ebft.data.documents import Document

Row = tuple[str, Any]  # how an error names the row, and what the source holds there

READ_BATCH_ROWS = 1000


def read_jsonl(config: FileDataConfig, path: str) -> Iterator[Document]:
    return _documents(config, _jsonl_rows(_existing(path)))


def read_parquet(config: FileDataConfig, path: str) -> Iterator[Document]:
    return _documents(config, _parquet_rows(config, _existing(path)))


def read_hub(config: HubDataConfig, split: str) -> Iterator[Document]:
    return _documents(config, _hub_rows(config, split))


def _existing(path: str) -> Path:
    if not Path(path).is_file():
        raise UserError(f"{path} is not a file; correct data.path or data.validation_path.")
    return Path(path)


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}:{number}", _parse(line, f"{path}:{number}")


def _parse(line: bytes, origin: str) -> Any:
    try:
        return json.loads(line.rstrip())
    except json.JSONDecodeError as error:
        raise UserError(f"{origin} is not valid JSON ({error.msg} at column {error.colno}); write one object a line.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{origin} is not UTF-8 ({error.reason}); re-encode the file.") from error


def _parquet_rows(config: FileDataConfig, path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        _check_columns(config, file.schema_arrow.names, str(path))
        batches = file.iter_batches(READ_BATCH_ROWS, columns=_wanted(config))
        rows = (row for batch in batches for row in batch.to_pylist())
        yield from ((f"{path} row {number}", row) for number, row in enumerate(rows, start=1))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet ({_first_line(error)}); write it again or correct data.path.") from error


def _hub_rows(config: HubDataConfig, split: str) -> Iterator[Row]:
    import datasets

    label = f"{config.path} split {split}"
    try:
        dataset = datasets.load_dataset(config.path, config.name, revision=config.revision, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"Cannot load {label} ({_first_line(error)}); check data.path, data.name, data.revision, the split's name, and the network."
        ) from error
    _check_columns(config, dataset.column_names, label)
    rows = (row for batch in dataset.select_columns(_wanted(config)).iter(READ_BATCH_ROWS) for row in _transposed(batch))
    yield from ((f"{label} row {number}", row) for number, row in enumerate(rows, start=1))


def _transposed(batch: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    return (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


def _documents(config: ColumnsDataConfig, rows: Iterable[Row]) -> Iterator[Document]:
    """The key of a pair is its prompt, so that one question is never on both sides of a split."""
    for origin, row in rows:
        if not isinstance(row, dict):
            raise UserError(f"{origin} holds a JSON {type(row).__name__}, not an object; write one object a line.")
        _check_columns(config, list(row), origin)
        *prompt, completion = (_text(row[column], column, origin) for column in _wanted(config))
        yield Document(key="".join(prompt) or completion, prompt="".join(prompt), completion=completion, origin=origin)


def _wanted(config: ColumnsDataConfig) -> list[str]:
    """The text column, or the prompt and the completion column."""
    columns = [config.prompt_column, config.completion_column] if config.text_column is None else [config.text_column]
    return [column for column in columns if column is not None]


def _check_columns(config: ColumnsDataConfig, found: list[str], origin: str) -> None:
    missing = [column for column in _wanted(config) if column not in found]
    if missing:
        raise UserError(
            f"{origin} has the columns {', '.join(found) or '(none)'} but not {', '.join(missing)}; "
            "set data.text_column, or data.prompt_column and data.completion_column."
        )


def _text(value: Any, column: str, origin: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{origin} holds {type(value).__name__} in column {column}; it must be text.")
    if not value.strip():
        raise UserError(f"{origin} is empty in column {column}; fill it in or remove the row.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{origin} holds half of a surrogate pair in column {column}, which is not text; correct its \\u escapes.") from error
    return value
