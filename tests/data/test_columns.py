import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from ebft.config.schema import UserError
from ebft.data.bad_rows import Sieve
from ebft.data.columns import read_hub, read_jsonl, read_parquet
from ebft.data.documents import Document
from tests.data.helpers import FILES, file_config, hub_config

PAIR_COLUMNS = {"text_column": None, "prompt_column": "question", "completion_column": "answer"}
GOOD, OTHER = b'{"text": "fine"}\n', b'{"text": "other"}\n'


def every(reader: Any, config: Any, place: str) -> list[Document]:
    """All documents of a source. Raises what its bad rows are refused with."""
    sieve = Sieve(drops=config.bad_rows == "drop")
    found = list(reader(config, place, sieve))
    if (error := sieve.error()) is not None:
        raise error
    return found


def lines(tmp_path: Path, content: bytes, **changes: Any) -> list[Document]:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    return every(read_jsonl, file_config(path, **changes), str(path))


def table(tmp_path: Path, columns: dict[str, list[Any]], row_group_size: int | None = None) -> Path:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table(columns), path, row_group_size=row_group_size)
    return path


def test_pairs_and_where_they_stand() -> None:
    """Blank lines count as lines and are no rows; other columns are ignored, whatever their type."""
    path = str(FILES / "pairs.jsonl")
    documents = every(read_jsonl, file_config(FILES / "pairs.jsonl", **PAIR_COLUMNS), path)
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
        (
            b'{"text": 5}',
            r"rows\.jsonl:2 holds int in column text; it must be text, or drop all such rows with data\.bad_rows=drop",
        ),
        (b'{"text": null}', r"rows\.jsonl:2 is null in column text; fill it in or remove the row, or drop"),
        (b'{"text": " \\n"}', r"rows\.jsonl:2 is empty in column text; fill it in or remove the row"),
        (b'{"text": "\\ud800"}', r"rows\.jsonl:2 holds half of a surrogate pair in column text"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        lines(tmp_path, GOOD + line + b"\n" + OTHER)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for read in (read_jsonl, read_parquet):
        with pytest.raises(UserError, match=r"nowhere is not a file; correct data\.path or data\.validation_path"):
            every(read, file_config(tmp_path), str(tmp_path / "nowhere"))


def test_parquet_rows_are_numbered_through_row_groups(tmp_path: Path) -> None:
    path = table(tmp_path, {"text": ["x", "y", "z"], "id": [1, 2, 3]}, row_group_size=2)
    documents = every(read_parquet, file_config(path, source="parquet"), str(path))
    assert [(document.completion, document.origin) for document in documents] == [
        ("x", f"{path} row 1"),
        ("y", f"{path} row 2"),
        ("z", f"{path} row 3"),
    ]


def test_a_parquet_file_without_the_column_is_named_even_if_empty(tmp_path: Path) -> None:
    path = table(tmp_path, {"code": [], "id": []})
    with pytest.raises(UserError, match=r"rows\.parquet has the columns code, id but not text"):
        every(read_parquet, file_config(path, source="parquet"), str(path))


def test_a_malformed_parquet_row_is_named(tmp_path: Path) -> None:
    path = table(tmp_path, {"text": ["x", None]})
    with pytest.raises(UserError, match=r"rows\.parquet row 2 is null in column text"):
        every(read_parquet, file_config(path, source="parquet"), str(path))


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(GOOD)
    with pytest.raises(
        UserError,
        match=r"rows\.parquet cannot be read as Parquet \(.*magic bytes.*\); write it again or correct data\.path",
    ):
        every(read_parquet, file_config(path, source="parquet"), str(path))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set folder as `datasets` reads it, with the library's cache out of the user's home."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    return FILES / "hub"


def test_hub_splits(hub: Path) -> None:
    config = hub_config(hub)
    assert [(document.prompt, document.completion) for document in every(read_hub, config, "train")] == [
        ("a b", "c"),
        ("c", "a e d"),
        ("d e", "b b"),
    ]
    (document,) = every(read_hub, config, "test")
    assert (document.prompt, document.completion, document.origin) == ("e", "a", f"{hub} split test row 1")


def test_a_hub_split_that_is_not_there_is_named(hub: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"Cannot load .*hub split dev \(Unknown split \"dev\".*\); check data\.path, .*the split's name",
    ):
        every(read_hub, hub_config(hub), "dev")


def test_hub_columns_found_and_wanted_are_named(hub: Path) -> None:
    config = hub_config(hub, prompt_column="input", completion_column="output")
    with pytest.raises(
        UserError,
        match=r"hub split train has the columns question, answer but not input, output; set data\.text_column, or",
    ):
        every(read_hub, config, "train")


def test_a_hub_data_set_that_is_not_there_is_named(hub: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"Cannot load .*nowhere split train \(Couldn't find any data file at .*nowhere\); check data\.path",
    ):
        every(read_hub, hub_config(tmp_path / "nowhere"), "train")


def test_no_network_is_said(hub: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"Cannot load owner/data split train \(Couldn't reach 'owner/data' on the Hub.*\); "
        r"check .* and the network",
    ):
        every(read_hub, hub_config(Path("owner/data")), "train")


def test_numbers_and_brackets_without_end_are_one_sentence(tmp_path: Path) -> None:
    """Both once ended in a traceback of the json module's."""
    number = b'{"text": "x", "n": ' + b"7" * 5000 + b"}\n"
    brackets = b'{"text": "x", "n": ' + b"[" * 20000 + b"]" * 20000 + b"}\n"
    with pytest.raises(
        UserError, match=r"rows\.jsonl:2 holds a number of more than 4,300 digits; write it as a text, or"
    ):
        lines(tmp_path, GOOD + number)
    with pytest.raises(UserError, match=r"rows\.jsonl:1 nests its brackets too deeply to be read; write one object"):
        lines(tmp_path, brackets + GOOD)
    assert [document.completion for document in lines(tmp_path, number + brackets + GOOD, bad_rows="drop")] == ["fine"]


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl.zst", "rows.jsonl"])
@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_compressed_lines_are_read_whatever_the_file_s_name(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    with pyarrow.CompressedOutputStream(str(path), kind) as file:
        file.write(GOOD + b"\n" + OTHER)
    documents = every(read_jsonl, file_config(path), str(path))
    assert [(document.completion, document.origin) for document in documents] == [
        ("fine", f"{path}:1"),
        ("other", f"{path}:3"),
    ]


@pytest.mark.parametrize("cut", [20, -4])
def test_a_compressed_file_that_is_cut_off_is_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(GOOD + OTHER)[:cut])
    with pytest.raises(
        UserError, match=r"rows\.jsonl\.gz cannot be read \(.*\); write it again, or correct data\.path"
    ):
        every(read_jsonl, file_config(path), str(path))


DIRTY = [
    {"question": "a", "answer": "b"},
    {"question": "  ", "answer": "b"},
    {"question": "b", "answer": None},
    {"question": "a", "answer": "b", "id": 3},
    {"question": "a", "answer": "c"},
    {"question": 5, "answer": "b"},
]


def dirty(tmp_path: Path, **changes: Any) -> list[Document]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in DIRTY))
    return every(read_jsonl, file_config(path, **PAIR_COLUMNS, **changes), str(path))


def test_all_bad_rows_are_named_at_once(tmp_path: Path) -> None:
    """One row an attempt, a file of a hundred bad rows took a hundred attempts."""
    path = tmp_path / "rows.jsonl"
    with pytest.raises(UserError) as caught:
        dirty(tmp_path)
    assert str(caught.value) == (
        f"4 rows cannot be used (1 empty, 1 null, 1 duplicate, 1 malformed): {path}:2 is empty in column question, "
        f"{path}:3 is null in column answer, {path}:4 repeats an earlier row, {path}:6 holds int in column question; "
        "correct or remove them, or drop them with data.bad_rows=drop."
    )


def test_ten_are_named_and_all_are_counted(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        lines(tmp_path, b'{"text": ""}\n' * 1234)
    assert str(caught.value).startswith("1,234 rows cannot be used (1,234 empty): ")
    assert str(caught.value).count("is empty in column text") == 10
    assert "rows.jsonl:10 is empty in column text, and 1,224 more; correct" in str(caught.value)


def test_bad_rows_are_dropped_and_counted_by_kind(tmp_path: Path) -> None:
    assert [(document.prompt, document.completion) for document in dirty(tmp_path, bad_rows="drop")] == [
        ("a", "b"),
        ("a", "c"),
    ]
    sieve, path = Sieve(drops=True), str(tmp_path / "rows.jsonl")
    list(read_jsonl(file_config(Path(path), **PAIR_COLUMNS), path, sieve))
    assert dict(sieve.dropped) == {"empty": 1, "null": 1, "duplicate": 1, "malformed": 1}


def test_columns_that_are_not_there_are_the_config_s_mistake(tmp_path: Path) -> None:
    """Said of the first row alone, and not of every row of the file."""
    with pytest.raises(UserError, match=r"^\S+rows\.jsonl:1 has the columns code but not text; set data\.text_column"):
        lines(tmp_path, b'{"code": "x"}\n' * 3)
