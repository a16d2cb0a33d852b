from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from ebft.config.schema import EMBEDDED_SOURCES, MixtureDataConfig, UserError
from ebft.data import EMBEDDED, load, read
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
    """sha256 of a, b, c, d, e begins with ca, 3e, 2e, 18, 3f: at 0.2 of 256 = 51 only d (24) and c (46) are held
    out."""
    train, validation = read(file_config(words(tmp_path, "a", "b", "c", "d", "e"), validation_fraction=0.2))
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


def test_held_out_modules_are_in_no_smaller_fractions_training_data() -> None:
    """The tiny base never saw what is held out at the default fraction, so a smaller one keeps its evaluation clean."""
    train, validation = read(stdlib_config(validation_fraction=0.1))
    assert not keys(train) & keys(validation)
    assert {"logging", "collections", "queue", "inspect"} <= keys(validation)
    fewer = {key for key in keys(train) | keys(validation) if held_out(key, 0.05)}
    assert len(fewer) > 10
    assert fewer < keys(validation)


def test_the_halves_for_choosing_and_for_reporting_are_apart_and_whole_together() -> None:
    """Settings chosen on one half owe nothing to the other; training data and the tiny base know neither."""
    (train, whole), selection, report = (
        read(stdlib_config(validation_part=part)) for part in ("all", "selection", "report")
    )
    assert not keys(selection[1]) & keys(report[1])
    assert keys(selection[1]) | keys(report[1]) == keys(whole)
    assert (len(whole), len(selection[1])) == (47, 24)
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
        read(file_config(words(tmp_path, "a", "b"), validation_fraction=0.001))
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
