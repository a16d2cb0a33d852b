"""Reference answers are tried once, all of them, and those that fail are told from those that could not be tried."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from ebft.config.schema import RunFailure, SandboxConfig
from ebft.sandbox import Program, ProgramResult, Sandbox
from ebft.sandbox.programs import Tests as RowTests
from ebft.tasks.base import Question
from ebft.train import references
from ebft.train.references import References
from tests.debug_run import miniature


class Scripted(Sandbox):
    """Says what each source is scripted to say, and remembers what it ran."""

    level = "landlock"
    outcomes: dict[str, ProgramResult]
    ran: list[str]

    def __init__(self, config: SandboxConfig) -> None: ...

    def check_canaries(self) -> None: ...

    def run_all(self, batch: Sequence[Program]) -> list[ProgramResult]:
        Scripted.ran += [program.source for program in batch]
        return [Scripted.outcomes[program.source] for program in batch]


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Scripted]:
    monkeypatch.setattr(references, "Sandbox", Scripted)
    monkeypatch.setenv("EBFT_CACHE", str(tmp_path / "cache"))
    Scripted.ran = []
    Scripted.outcomes = {
        "right": ProgramResult("passed", "passed", 1, 0.1),
        "wrong": ProgramResult("failed", "wrong_value", 1, 0.1),
        "slow": ProgramResult("failed", "timeout", 0, 9.0),
        "starved": ProgramResult("error", "the machine had no processor for the program", 0, 9.0),
    }
    return Scripted


def questions(*answers: str) -> list[Question]:
    tests = RowTests("f", code="assert f(1)")
    return [Question(f"{n}", "?", answer, origin=f"file:{n}", tests=tests) for n, answer in enumerate(answers, 1)]


def tried(tmp_path: Path, *overrides: str) -> References:
    return References(miniature(tmp_path, "sandbox.allow_code_execution=true", *overrides))


@pytest.mark.slow
def test_each_content_runs_once_on_a_machine_and_limits_of_time_again(tmp_path: Path, scripted: type[Scripted]) -> None:
    first = tried(tmp_path).attempts(questions("right", "wrong", "right", "slow"))
    assert [result.kind for result in first] == ["passed", "wrong_value", "passed", "timeout"]
    assert scripted.ran == ["right", "wrong", "slow"]
    again = tried(tmp_path).attempts(questions("right", "wrong", "right", "slow"))
    assert again == first
    assert scripted.ran == ["right", "wrong", "slow", "slow"]
    tried(tmp_path, "sandbox.memory_mb=99").attempts(questions("right"))
    assert scripted.ran[4:] == ["right"]


def test_without_a_folder_nothing_is_kept(
    tmp_path: Path, scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EBFT_CACHE", "")
    for _ in range(2):
        tried(tmp_path).attempts(questions("right"))
    assert scripted.ran == ["right", "right"]


@pytest.mark.slow
def test_those_that_fail_are_dropped_named_in_the_plan_and_beyond_ten_in_the_log(tmp_path: Path) -> None:
    few = tried(tmp_path)
    assert few.drop_failing(questions("right", "wrong", "slow")) == [False, True, True]
    assert few.plan() == {
        "reference answers": "3 tried, 2 fail and are dropped: file:2 (wrong_value), file:3 (timeout)"
    }
    assert few.notes() == []
    many = tried(tmp_path)
    assert many.drop_failing(questions(*["wrong"] * 12, "right")) == [True] * 12 + [False]
    assert many.plan()["reference answers"].endswith("file:10 (wrong_value) and 2 more")
    assert many.notes()[11] == "dropped, as its reference answer fails: file:12 (wrong_value)"
    assert References(miniature(tmp_path)).plan() == {}


@pytest.mark.slow
def test_a_failure_of_the_machine_is_no_failed_reference(tmp_path: Path, scripted: type[Scripted]) -> None:
    with pytest.raises(
        RunFailure, match=r"file:2 and 0 others could not be tried \(the machine had no processor .*nothing about them"
    ):
        tried(tmp_path).drop_failing(questions("right", "starved"))
    scripted.outcomes["starved"] = scripted.outcomes["right"]
    assert tried(tmp_path).drop_failing(questions("right", "starved")) == [False, False]
    assert scripted.ran == ["right", "starved", "starved"]


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"a": 1}', '{"DIGEST": ["passed", 1]}', "[" * 100_000])
def test_a_damaged_result_is_found_anew(tmp_path: Path, scripted: type[Scripted], content: str) -> None:
    first = tried(tmp_path).attempts(questions("wrong"))
    (entry,) = (tmp_path / "cache").rglob("*.json")
    entry.write_text(content.replace("DIGEST", next(iter(json.loads(entry.read_text())))))
    assert tried(tmp_path).attempts(questions("wrong")) == first
    assert scripted.ran == ["wrong", "wrong"]


def test_a_result_of_somebody_else_s_is_not_taken_on_trust(
    tmp_path: Path, scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried(tmp_path).attempts(questions("wrong"))
    monkeypatch.setattr("os.geteuid", lambda: 4711)
    tried(tmp_path).attempts(questions("wrong"))
    assert scripted.ran == ["wrong", "wrong"]
