from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from ebft.config.schema import UserError
from ebft.data.columns import read_hub, read_jsonl, read_parquet
from tests.data.helpers import FILES, file_config, hub_config

PAIR_COLUMNS = {"text_column": None, "prompt_column": "question", "completion_column": "answer"}
GOOD = b'{"text": "fine"}\n'


def lines(tmp_path: Path, content: bytes) -> Iterator[Any]:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    return read_jsonl(file_config(path), str(path))


def table(tmp_path: Path, columns: dict[str, list[Any]], row_group_size: int | None = None) -> Path:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table(columns), path, row_group_size=row_group_size)
    return path


def test_pairs_and_where_they_stand() -> None:
    """Blank lines count as lines and are no rows; other columns are ignored, whatever their type."""
    path = str(FILES / "pairs.jsonl")
    documents = list(read_jsonl(file_config(FILES / "pairs.jsonl", **PAIR_COLUMNS), path))
    assert [(document.prompt, document.completion) for document in documents] == [
        ("a b", "c"),
        ("c", "a e d"),
        ("d e", "b b"),
    ]
    assert [document.origin for document in documents] == [f"{path}:1", f"{path}:2", f"{path}:4"]
    assert [document.key for document in documents] == ["a b", "c", "d e"]


def test_text_is_all_completion(tmp_path: Path) -> None:
    (document,) = lines(tmp_path, b'{"text": "caf\xc3\xa9\\n", "id": 3}')
    assert (document.prompt, document.completion, document.key) == ("", "café\n", "café\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            b'{"text": "x"',
            r"rows\.jsonl:2 is not valid JSON \(Expecting ',' delimiter at column 13\); write one object a line",
        ),
        (b'{"text": "\xff"}', r"rows\.jsonl:2 is not UTF-8 \(invalid start byte\); re-encode the file"),
        (b'["x"]', r"rows\.jsonl:2 holds list, not an object"),
        (b'{"code": "x", "id": 1}', r"rows\.jsonl:2 has the columns code, id but not text; set data\.text_column, or"),
        (b"{}", r"rows\.jsonl:2 has the columns \(none\) but not text"),
        (b'{"text": 5}', r"rows\.jsonl:2 holds int in column text; it must be text"),
        (b'{"text": null}', r"rows\.jsonl:2 holds NoneType in column text; it must be text"),
        (b'{"text": " \\n"}', r"rows\.jsonl:2 is empty in column text; fill it in or remove the row"),
        (b'{"text": "\\ud800"}', r"rows\.jsonl:2 holds half of a surrogate pair in column text"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(lines(tmp_path, GOOD + line + b"\n" + GOOD))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for read in (read_jsonl, read_parquet):
        with pytest.raises(UserError, match=r"nowhere is not a file; correct data\.path or data\.validation_path"):
            list(read(file_config(tmp_path), str(tmp_path / "nowhere")))


def test_parquet_rows_are_numbered_through_row_groups(tmp_path: Path) -> None:
    path = table(tmp_path, {"text": ["x", "y", "z"], "id": [1, 2, 3]}, row_group_size=2)
    documents = list(read_parquet(file_config(path, source="parquet"), str(path)))
    assert [(document.completion, document.origin) for document in documents] == [
        ("x", f"{path} row 1"),
        ("y", f"{path} row 2"),
        ("z", f"{path} row 3"),
    ]


def test_a_parquet_file_without_the_column_is_named_even_if_empty(tmp_path: Path) -> None:
    path = table(tmp_path, {"code": [], "id": []})
    with pytest.raises(UserError, match=r"rows\.parquet has the columns code, id but not text"):
        list(read_parquet(file_config(path, source="parquet"), str(path)))


def test_a_malformed_parquet_row_is_named(tmp_path: Path) -> None:
    path = table(tmp_path, {"text": ["x", None]})
    with pytest.raises(UserError, match=r"rows\.parquet row 2 holds NoneType in column text"):
        list(read_parquet(file_config(path, source="parquet"), str(path)))


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(GOOD)
    with pytest.raises(
        UserError,
        match=r"rows\.parquet cannot be read as Parquet \(.*magic bytes.*\); write it again or correct data\.path",
    ):
        list(read_parquet(file_config(path, source="parquet"), str(path)))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set folder as `datasets` reads it, with the library's cache out of the user's home."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    return FILES / "hub"


def test_hub_splits(hub: Path) -> None:
    config = hub_config(hub)
    assert [(document.prompt, document.completion) for document in read_hub(config, "train")] == [
        ("a b", "c"),
        ("c", "a e d"),
        ("d e", "b b"),
    ]
    (document,) = read_hub(config, "test")
    assert (document.prompt, document.completion, document.origin) == ("e", "a", f"{hub} split test row 1")


def test_a_hub_split_that_is_not_there_is_named(hub: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"Cannot load .*hub split dev \(Unknown split \"dev\".*\); check data\.path, .*the split's name",
    ):
        list(read_hub(hub_config(hub), "dev"))


def test_hub_columns_found_and_wanted_are_named(hub: Path) -> None:
    config = hub_config(hub, prompt_column="input", completion_column="output")
    with pytest.raises(
        UserError,
        match=r"hub split train has the columns question, answer but not input, output; set data\.text_column, or",
    ):
        list(read_hub(config, "train"))


def test_a_hub_data_set_that_is_not_there_is_named(hub: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"Cannot load .*nowhere split train \(Couldn't find any data file at .*nowhere\); check data\.path",
    ):
        list(read_hub(hub_config(tmp_path / "nowhere"), "train"))


def test_no_network_is_said(hub: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"Cannot load owner/data split train \(Couldn't reach 'owner/data' on the Hub.*\); "
        r"check .* and the network",
    ):
        list(read_hub(hub_config(Path("owner/data")), "train"))
