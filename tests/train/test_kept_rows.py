"""Rows as they are kept: those that would be made, bit for bit, and never another run's."""

import errno
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken

from ebft import data
from ebft.config.schema import DataConfig, RowsDataConfig, UserError
from ebft.data import Data, Questions, Rows, Tokenization
from ebft.data.documents import Document
from ebft.run import by_content
from ebft.tasks import Question
from ebft.train import kept_rows
from tests.data.helpers import NO_COLUMNS, file_config, hub_config, plain_tokenizer, stdlib_config
from tests.debug_run import same


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EBFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rows"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Data]:
    """What was made and not found."""
    found: list[Data] = []
    original = data.load
    monkeypatch.setattr(data, "load", lambda *arguments: found.append(original(*arguments)) or found[-1])
    return found


def tokens(config: DataConfig, ends: Sequence[int] = (), **changes: Any) -> Tokenization:
    tokenizer = plain_tokenizer("<eos>")
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    return Tokenization.of(config, tokenizer, ends)


def none_fails(questions: Sequence[Question]) -> list[bool]:
    return [False] * len(questions)


def load(config: DataConfig, tokenization: Tokenization | None = None) -> Data:
    return kept_rows.load(config, tokenization or tokens(config), True, True, none_fails)


def texts(folder: Path, *lines: str, name: str = "rows") -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path


def some(folder: Path, **changes: Any) -> DataConfig:
    path = texts(folder, *(" ".join(letters) for letters in ("abc", "bca", "cab", "dea", "eba", "aad", "bbe", "ccd")))
    return file_config(path, **{"validation_fraction": 0.4, **changes})


def key(config: DataConfig, tokenization: Tokenization | None = None, *questions: bool) -> str | None:
    return kept_rows._key(config, tokenization or tokens(config), *(questions or (True, True)))


def assert_same(found: Data, expected: Data) -> None:
    """In every tensor, text and type, questions included."""

    def content(side: Rows | Questions | None) -> Any:
        if isinstance(side, Questions):
            return [content(side.rows), [repr(item) for item in side.items]]
        return side if side is None else {name: value for name, value in vars(side).items() if name != "digest"}

    for name in ("train", "validation", "train_questions", "validation_questions"):
        assert same(content(getattr(found, name)), content(getattr(expected, name))), name
    assert (found.dropped, found.prompts_cut_a_word) == (expected.dropped, expected.prompts_cut_a_word)
    assert found.digests() == expected.digests()


def test_rows_of_a_file_are_made_once(tmp_path: Path, kept: Path, made: list[Data]) -> None:
    config = some(tmp_path)
    assert_same(load(config), load(config))
    assert len(made) == 1
    assert len([*kept.iterdir()]) == 1


def test_dropped_rows_are_counted_as_when_they_were_made(tmp_path: Path, kept: Path, made: list[Data]) -> None:
    path = texts(tmp_path, "a b c", "a b c", "", "d e a", "e b a", "b b e")
    config = file_config(path, bad_rows="drop", validation_fraction=0.4)
    first, second = load(config), load(config)
    assert_same(second, first)
    assert second.num_dropped == 2
    assert len(made) == 1


@pytest.mark.slow
@pytest.mark.parametrize("source", ["code_qa", "translation"])
def test_questions_keep_what_judges_their_answers(
    source: str, kept: Path, made: list[Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cases with tuples and lists in them, and references; their rows are still the side's own."""
    several = [*islice(data.EMBEDDED[source](), 40)]
    monkeypatch.setitem(data.EMBEDDED, source, lambda: iter(several))
    task = {"code_qa": "unit_tests", "translation": "chrf"}[source]
    config = stdlib_config(source=source, layout="padded", task=task, sequence_length=400, validation_fraction=0.3)
    generated = kept_rows.GeneratedDataConfig(**vars(config))
    first, second = load(generated), load(generated)
    assert len(made) == 1
    assert_same(second, first)
    assert second.train_questions is not None
    assert second.train_questions.rows is second.train


def test_every_input_counts(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = some(tmp_path)
    found = {"plain": key(config), "again": key(config)}
    assert found["plain"] == found.pop("again")
    changes: dict[str, Any] = {
        "sequence_length": 7,
        "layout": "padded",
        "document_masking": True,
        "loss_tokens": "completion",
        "end_token": "a",
        "task": "exact_match",
        "validation_fraction": 0.5,
        "validation_part": "report",
        "bad_rows": "drop",
        "max_train_documents": 1,
        "max_validation_documents": 1,
        "prompt_template": "{text}",
        "validation_path": str(texts(tmp_path, "a b", name="others")),
    }
    for name, value in changes.items():
        found[name] = key(replace(config, **{name: value}))
    others = replace(config, validation_path=changes["validation_path"])
    texts(tmp_path, "a b c", name="others")
    found["the validation file's content"] = key(others)
    found["no training questions"] = key(config, None, False, True)
    found["no held-out questions"] = key(config, None, True, False)
    found["another end"] = key(config, tokens(config, [3]))
    found["BOS"] = key(config, replace(tokens(config), bos=1))
    added = tokens(config)
    added.tokenizer.add_tokens([AddedToken("x", lstrip=True)])
    found["a token"] = key(config, added)
    stripped = tokens(config)
    stripped.tokenizer.add_tokens([AddedToken("x", lstrip=False)])
    found["how a token is read"] = key(config, stripped)
    with monkeypatch.context() as changed:
        changed.setattr(by_content, "package_digest", lambda: "another")
        found["the package"] = key(config)
    version = by_content.metadata.version
    for library in by_content.LIBRARIES:
        with monkeypatch.context() as changed:
            versions = {name: version(name) for name in by_content.LIBRARIES} | {library: "0"}
            changed.setattr(by_content.metadata, "version", versions.__getitem__)
            found[library] = key(config)
    with monkeypatch.context() as changed:
        changed.setattr(by_content.platform, "python_version", lambda: "4.0.0")
        found["Python"] = key(config)
    texts(tmp_path, "a b d", "b b a")
    found["the file's content"] = key(config)
    assert None not in found.values()
    assert len({*found.values()}) == len(found)


def test_the_standard_library_and_packages_count_by_their_content(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [Document("json", "", "a b", "module json")] * 2
    monkeypatch.setattr(kept_rows, "read_stdlib", lambda: iter(documents))
    stdlib, mixture = (
        stdlib_config(),
        kept_rows.MixtureDataConfig(**vars(stdlib_config(source="mixture")), parts={"stdlib": 1}),
    )
    module = tmp_path / "module.py"
    module.write_text("a = 1")
    monkeypatch.setattr(kept_rows, "source_files", lambda package: {package: module})
    packages = kept_rows.PackagesDataConfig(**vars(stdlib_config(source="packages")), packages=["grove"])
    before = [key(config) for config in (stdlib, mixture, packages)]
    documents[:] = [Document("json", "", "a c", "module json")]
    module.write_text("a = 2")
    after = [key(config) for config in (stdlib, mixture, packages)]
    assert None not in before
    assert all(old != new for old, new in zip(before, after, strict=True))


def test_what_files_do_not_decide_is_not_kept(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own code may read anything, the hub may change, references are tried on this machine."""
    config = some(tmp_path)
    columns = {**vars(stdlib_config()), **NO_COLUMNS}
    del columns["validation_path"]
    own = RowsDataConfig(**columns | {"source": "rows"}, function="mine.py:rows", validation_function=None)
    for other in (
        own,
        hub_config(tmp_path / "rows.jsonl"),
        replace(config, task="mine.py:Task"),
        replace(config, drop_failing_references=True),
    ):
        assert key(other) is None
    foreign = tokens(config)
    monkeypatch.setattr(type(foreign.tokenizer), "__module__", "transformers_modules.somebody.tokenizer")
    assert key(config, foreign) is None
    monkeypatch.undo()
    monkeypatch.setenv("EBFT_CACHE", "")
    assert key(config) is None


def test_conversations_are_not_kept(tmp_path: Path, kept: Path, made: list[Data]) -> None:
    """Their template may write the date, and then yesterday's rows are not today's."""
    path = tmp_path / "talks.jsonl"
    turns = [
        [{"role": "user", "content": f"{a} {b}"}, {"role": "assistant", "content": "c"}] for a in "abcde" for b in "ab"
    ]
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in turns))
    config = file_config(path, text_column=None, messages_column="messages", validation_fraction=0.4, layout="padded")
    template = (
        "{% for m in messages %}{{ m['content'] }} {% if m['role'] == 'assistant' %}<eos> {% endif %}{% endfor %}"
    )
    talking = tokens(config, chat_template=template)
    for _ in range(2):
        assert load(replace(config, sequence_length=9), talking).has_conversations
    assert len(made) == 2
    assert not kept.exists()


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "another's"])
def test_a_poisoned_entry_is_found_out_and_made_anew(tmp_path: Path, kept: Path, made: list[Data], damage: str) -> None:
    config = some(tmp_path)
    first = load(config)
    (entry,) = kept.iterdir()
    content = bytearray(entry.read_bytes())
    if damage == "another's":
        load(replace(config, sequence_length=7))
        other = next(path for path in kept.iterdir() if path != entry)
        content = bytearray(other.read_bytes())
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
    entry.write_bytes({"cut": bytes(content[:-9]), "empty": b""}.get(damage, bytes(content)))
    num_made = len(made)
    assert_same(load(config), first)
    assert len(made) == num_made + 1
    assert_same(load(config), first)
    assert len(made) == num_made + 1


def test_an_entry_of_somebody_else_s_is_not_taken_on_trust(
    tmp_path: Path, kept: Path, made: list[Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(some(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    load(some(tmp_path))
    assert len(made) == 2


@pytest.mark.parametrize("state", [{}, {"train": 1}])
def test_an_entry_that_is_no_rows_is_made_anew(
    tmp_path: Path, kept: Path, made: list[Data], state: dict[str, Any]
) -> None:
    config = some(tmp_path)
    by_content.keep("rows", key(config), state)
    load(config)
    assert len(made) == 1


def test_a_refusal_is_said_every_time(tmp_path: Path, kept: Path) -> None:
    config = file_config(texts(tmp_path, "a b", "a b"))
    for _ in range(2):
        with pytest.raises(UserError, match="repeats an earlier row"):
            load(config)
    assert not kept.exists()


def test_what_was_not_used_for_longest_is_removed(tmp_path: Path, kept: Path) -> None:
    """Three entries of some kilobytes, and room for two: the one in the middle was read last."""
    state = {"numbers": torch.zeros(4000, dtype=torch.uint8)}
    first, *others, last = ("0123456789abcdef"[number] * 64 for number in range(4))
    for number, name in enumerate([first, *others]):
        by_content.keep("rows", name, state)
        os.utime(kept / f"{name}.pt", (number, number))
    assert by_content.find("rows", first, lambda found: len(found["numbers"])) == 4000
    size = (kept / f"{first}.pt").stat().st_size
    by_content.keep("rows", last, state, most_bytes=3 * size)
    assert sorted(path.stem for path in kept.iterdir()) == [first, others[1], last]


def test_rows_that_are_too_large_are_not_kept(
    tmp_path: Path, kept: Path, made: list[Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_rows, "LARGEST_BYTES", 100)
    load(some(tmp_path))
    assert not kept.exists()


def test_a_cache_that_may_only_be_read_is_read(
    tmp_path: Path, kept: Path, made: list[Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the time of the last use cannot be written."""

    def refuse(*args: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    config = some(tmp_path)
    first = load(config)
    monkeypatch.setattr(by_content.os, "utime", refuse)
    assert_same(load(config), first)
    assert len(made) == 1
