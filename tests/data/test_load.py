from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from ebft.cli.compose import compose
from ebft.config.schema import EMBEDDED_SOURCES, FileDataConfig, MixtureDataConfig, UserError
from ebft.data import EMBEDDED, load, read
from ebft.data.bad_rows import counted
from ebft.data.documents import Document, held_out
from tests.data.helpers import FILES, file_config, stdlib_config, tokenizer

PAIRS = FILES / "pairs.jsonl"
PAIR_COLUMNS = {"text_column": None, "prompt_column": "question", "completion_column": "answer"}


def keys(documents: list[Document]) -> set[str]:
    return {document.key for document in documents}


def words(tmp_path: Path, *texts: str) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    return path


def test_split_by_the_hash_of_the_text(tmp_path: Path) -> None:
    """sha256 of a, b, c, d, e begins with ca, 3e, 2e, 18, 3f: of five documents d and c are held out at 0.4."""
    train, validation = read(file_config(words(tmp_path, "a", "b", "c", "d", "e"), validation_fraction=0.4))
    assert keys(train) == {"a", "b", "e"}
    assert keys(validation) == {"c", "d"}


def test_a_file_of_its_own_for_validation_leaves_the_rest_whole() -> None:
    train, validation = read(file_config(PAIRS, validation_path=str(PAIRS), **PAIR_COLUMNS))
    assert keys(train) == keys(validation) == {"a b", "c", "d e"}


def test_limits_take_the_first_in_hash_order(tmp_path: Path) -> None:
    config = file_config(words(tmp_path, *map(str, range(100, 200))), validation_fraction=0.5)
    train, validation = read(config)
    few, fewer = read(replace(config, max_train_documents=5, max_validation_documents=3))
    assert (few, fewer) == (train[:5], validation[:3])
    assert [document.key for document in few] != sorted(keys(train))[:5]


@pytest.mark.slow
def test_what_is_held_out_the_tiny_base_has_not_seen() -> None:
    """It was trained on the keys whose hash is above a tenth of all hashes, when a coin held out the others."""
    for source in EMBEDDED_SOURCES:
        documents = list(EMBEDDED[source]())
        for config in (compose([f"data={source}"]).data, compose(["data=mixture"]).data):
            found = held_out(documents, config.validation_fraction)
            assert len(found) > 20
            assert all(int(sha256(key.encode()).hexdigest()[:16], 16) < 0.1 * 2**64 for key in found)


def test_the_halves_for_choosing_and_for_reporting_are_apart_and_whole_together() -> None:
    """Settings chosen on one half owe nothing to the other; training data and the tiny base know neither."""
    (train, whole), selection, report = (
        read(stdlib_config(validation_part=part)) for part in ("all", "selection", "report")
    )
    assert not keys(selection[1]) & keys(report[1])
    assert keys(selection[1]) | keys(report[1]) == keys(whole)
    assert (len(whole), len(selection[1])) == (37, 19)
    assert train == selection[0] == report[0]


@pytest.mark.slow
def test_a_mixture_holds_the_sides_of_its_parts_and_copies_for_training() -> None:
    """So what one of its parts holds out, a model trained on the mixture has not seen."""
    copies = {"stdlib": 2, "code_qa": 1, "translation": 0}
    mixed = read(MixtureDataConfig(**{**vars(stdlib_config()), "source": "mixture", "parts": copies}))
    modules, code, _ = (read(replace(stdlib_config(), source=source)) for source in EMBEDDED_SOURCES)
    assert Counter(document.origin for document in mixed[0]) == Counter(
        document.origin for document in 2 * modules[0] + code[0]
    )
    assert {document.origin for document in mixed[1]} == {document.origin for document in modules[1] + code[1]}
    assert len(mixed[1]) == len(modules[1] + code[1])
    assert {bool(document.prompt) for document in mixed[0][:100]} == {
        True,
        False,
    }  # mixed, not one part after the other
    assert set(EMBEDDED) == set(EMBEDDED_SOURCES)


def test_an_empty_side_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"data\.source=jsonl leaves no document for validation at data\.validation_fraction=0\.001 and "
        r"data\.validation_part=all; change them",
    ):
        read(file_config(words(tmp_path, "a"), validation_fraction=0.001))
    with pytest.raises(UserError, match="leaves no document for training"):
        read(file_config(words(tmp_path), validation_path=str(PAIRS), **PAIR_COLUMNS))


def test_load_makes_rows_of_both_sides() -> None:
    data = load(
        file_config(PAIRS, validation_path=str(PAIRS), layout="padded", loss_tokens="completion", **PAIR_COLUMNS),
        tokenizer(),
    )
    assert sorted(data.train.tokens.tolist()) == [[1, 2, 3, 0, 0], [3, 1, 5, 4, 0], [4, 5, 2, 2, 0]]
    assert data.train.tokens.equal(data.validation.tokens)
    assert data.validation.num_tokens == 14


def dirty(tmp_path: Path, **changes: Any) -> FileDataConfig:
    """Three good pairs and four bad ones in the first file; one, a bad one and a copy in the second."""
    bad = [
        '{"question": "", "answer": "a"}',
        '{"question": "a b c d e", "answer": "e"}',
        '{"question": "a", "answer": "b"}',
    ]
    good = [f'{{"question": "{word}", "answer": "b"}}' for word in "abc"]
    train, validation = tmp_path / "train.jsonl", tmp_path / "validation.jsonl"
    train.write_text("\n".join([*good, *bad, bad[0]]))
    validation.write_text("\n".join([good[0], bad[1], good[0]]))
    return file_config(train, validation_path=str(validation), layout="padded", **PAIR_COLUMNS, **changes)


def test_bad_rows_of_both_sides_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(dirty(tmp_path), tokenizer())
    assert str(caught.value) == (
        f"5 rows cannot be used (2 empty, 1 duplicate, 2 too long): {tmp_path}/train.jsonl:4 is empty in column "
        f"question, {tmp_path}/train.jsonl:6 repeats an earlier row, {tmp_path}/train.jsonl:7 is empty in column "
        f"question, {tmp_path}/train.jsonl:5 has 7 tokens with its EOS, above data.sequence_length=5, "
        f"{tmp_path}/validation.jsonl:2 has 7 tokens with its EOS, above data.sequence_length=5; correct or remove "
        "them, raise data.sequence_length, or drop them with data.bad_rows=drop."
    )


def test_pairs_that_are_too_long_are_named_for_both_sides(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "a b c d e", "answer": "e"}\n{"question": "a", "answer": "e"}\n')
    config = file_config(path, validation_path=str(path), layout="padded", **PAIR_COLUMNS)
    with pytest.raises(UserError, match=rf"^2 rows cannot be used \(2 too long\): {path}:1 has 7 tokens"):
        load(config, tokenizer())


def test_bad_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    """A validation set of its own keeps its copies: it is what it is."""
    data = load(dirty(tmp_path, bad_rows="drop"), tokenizer())
    assert (data.train.num_documents, data.validation.num_documents) == (3, 2)
    assert {kind: count for kind, count in data.dropped.items() if count} == {"empty": 2, "duplicate": 1, "too long": 2}
    assert (data.num_dropped, counted(data.dropped)) == (5, "2 empty, 1 duplicate, 2 too long")


def test_long_pairs_stay_where_they_are_cut_anyway(tmp_path: Path) -> None:
    config = dirty(tmp_path, bad_rows="drop")
    assert load(replace(config, layout="packed"), tokenizer()).train.num_documents == 4


def test_a_side_of_which_nothing_is_left_says_why(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": ""}\n{"text": null}\n')
    with pytest.raises(
        UserError, match=r"for training once bad rows are dropped \(1 empty, 1 null\); set data\.bad_rows"
    ):
        load(file_config(path, bad_rows="drop"), tokenizer())
