from collections.abc import Sequence
from dataclasses import replace

import pytest

from ebft.config.schema import UserError
from ebft.sandbox import programs
from ebft.sandbox.programs import Case, Program, ProgramResult, Read
from ebft.tasks.base import Question, Verdict, Verifier
from ebft.tasks.unit_tests import UnitTests
from tests.sandbox.helpers import ReadHere

TESTS = programs.Tests("double", (Case((2,), 4),))
WHOLE = Question(
    key="double", prompt="# Double.\n", answer="def double(x):\n    return 2 * x\n", origin="row 3", tests=TESTS
)
COMPLETED = replace(WHOLE, answer="    return 2 * x\n", program_prefix="def double(x):\n")


class Sandbox(ReadHere):
    """Knows what becomes of each source, and remembers how it was asked."""

    def __init__(self, outcomes: dict[str, ProgramResult]) -> None:
        self.outcomes, self.batches = outcomes, list[list[Program]]()

    def run(self, program: Program) -> ProgramResult:
        return self.run_all([program])[0]

    def run_all(self, batch: Sequence[Program]) -> list[ProgramResult]:
        self.batches.append(list(batch))
        return [self.outcomes[program.source] for program in batch]


RIGHT, WRONG, MALFORMED, UNLUCKY = (
    "def double(x):\n    return 2 * x\n",
    "def double(x):\n    return x\n",
    "def double(x:\n",
    "def double(x): ...\n",
)
SANDBOX_OUTCOMES = {
    RIGHT: ProgramResult("passed", "passed", 1, 0.05),
    WRONG: ProgramResult("failed", "wrong_value", 1, 0.05),
    MALFORMED: ProgramResult("failed", "syntax", 0, 0.05),
    UNLUCKY: ProgramResult("error", "no process could be started", 0, 0.05),
}


def test_verdicts_are_the_outcomes_of_one_batch_in_order() -> None:
    sandbox = Sandbox(SANDBOX_OUTCOMES)
    verifier: Verifier = UnitTests(sandbox)
    assert verifier.verify_all([WRONG, RIGHT, UNLUCKY, MALFORMED], [WHOLE] * 4) == [
        Verdict(0.0, False, "wrong_value"),
        Verdict(1.0, True, "passed"),
        Verdict(None, False, "no process could be started"),
        Verdict(0.0, False, "syntax"),
    ]
    assert [len(batch) for batch in sandbox.batches] == [4]
    assert all(program.tests is TESTS for program in sandbox.batches[0])
    assert verifier.metrics([RIGHT], [WHOLE]) == {}


def test_one_verdict_is_that_of_the_batch() -> None:
    assert UnitTests(Sandbox(SANDBOX_OUTCOMES)).verify(RIGHT, WHOLE) == Verdict(1.0, True, "passed")


def test_a_completed_function_runs_without_what_follows_it() -> None:
    sandbox = Sandbox(SANDBOX_OUTCOMES)
    assert UnitTests(sandbox).verify("    return 2 * x\nprint(double(1))\n", COMPLETED) == Verdict(
        1.0, True, "passed", ended=True, read_as="continuation"
    )
    assert UnitTests(sandbox).verify("    return 2 * x\n", COMPLETED) == Verdict(
        1.0, True, "passed", ended=False, read_as="continuation"
    )


def test_a_whole_program_runs_with_all_that_was_written() -> None:
    """Otherwise a model would never learn to stop."""
    sandbox = Sandbox({RIGHT + "print(\n": ProgramResult("failed", "syntax", 0, 0.05)})
    assert not UnitTests(sandbox).verify(RIGHT + "print(\n", WHOLE).passed


def test_a_question_without_tests_is_named() -> None:
    with pytest.raises(UserError, match="row 3 has no tests"):
        UnitTests(Sandbox({})).verify(RIGHT, replace(WHOLE, tests=None))


def test_a_program_that_is_submitted_again_is_not_run_again() -> None:
    """By the clock it could otherwise guess its way to a reward; only what the machine failed is tried anew."""
    sandbox = Sandbox(SANDBOX_OUTCOMES)
    verifier = UnitTests(sandbox)
    first = verifier.verify_all([RIGHT, WRONG, RIGHT, UNLUCKY], [WHOLE] * 4)
    sandbox.outcomes = dict.fromkeys(SANDBOX_OUTCOMES, ProgramResult("passed", "passed", 1, 0.05))
    again = verifier.verify_all([RIGHT, WRONG, RIGHT, UNLUCKY], [WHOLE] * 4)
    assert again[:3] == first[:3]
    assert (first[3].score, again[3].score) == (None, 1.0)
    assert [[program.source for program in batch] for batch in sandbox.batches] == [[RIGHT, WRONG, UNLUCKY], [UNLUCKY]]
    assert verifier.verify(WRONG, replace(WHOLE, tests=replace(TESTS, setup="x = 1"))).passed  # other tests


def test_what_takes_too_much_to_read_is_run_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = Sandbox(SANDBOX_OUTCOMES)
    monkeypatch.setattr(sandbox, "read_all", lambda how, texts: [Read() for _ in texts])
    assert UnitTests(sandbox).verify(RIGHT, WHOLE) == Verdict(1.0, True, "passed")
    assert UnitTests(sandbox).verify("    return x\n", COMPLETED) == Verdict(
        0.0, False, "wrong_value", read_as="continuation"
    )


def test_what_the_machine_could_not_read_is_no_failure_and_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = Sandbox({})
    monkeypatch.setattr(sandbox, "read_all", lambda how, texts: [Read(error="OSError: no process") for _ in texts])
    assert UnitTests(sandbox).verify(RIGHT, WHOLE) == Verdict(None, False, "OSError: no process")
    assert not any(sandbox.batches)
