"""The verifier of code with tests: an answer is right if the program that it makes passes its question's tests in the
sandbox."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ebft.config.schema import UserError
from ebft.sandbox.programs import Program, ProgramResult, Tests
from ebft.tasks.base import Question, Verdict
from ebft.tasks.reading import Reading, read


@runtime_checkable
class ProgramRunner(Protocol):
    """What runs programs, such as the sandbox."""

    def run(self, program: Program) -> ProgramResult: ...

    def run_all(self, programs: Sequence[Program]) -> list[ProgramResult]: ...


class UnitTests:
    """Scores 1 or 0. Which part of a text is the program, reading.py says."""

    def __init__(self, runner: ProgramRunner) -> None:
        self.runner = runner

    def verify(self, text: str, question: Question) -> Verdict:
        return self.verify_all([text], [question])[0]

    def verify_all(self, texts: Sequence[str], questions: Sequence[Question]) -> list[Verdict]:
        readings = [reading(text, question) for text, question in zip(texts, questions, strict=True)]
        outcomes = self.runner.run_all(
            [Program(found.source, tests(question)) for found, question in zip(readings, questions, strict=True)]
        )
        return [verdict(outcome, found) for outcome, found in zip(outcomes, readings, strict=True)]

    def metrics(self, texts: Sequence[str], questions: Sequence[Question]) -> dict[str, float]:
        return {}


def program(text: str, question: Question) -> Program:
    """What is run to judge `text`. Raises UserError for a question without tests."""
    return Program(reading(text, question).source, tests(question))


def tests(question: Question) -> Tests:
    if question.tests is None:
        raise UserError(
            f"{question.origin} has no tests, which the verifier unit_tests runs; name their column, or choose "
            "another verifier."
        )
    return question.tests


def reading(text: str, question: Question) -> Reading:
    return read(text, question.program_prefix, tests(question).entry_point)


def verdict(outcome: ProgramResult, found: Reading) -> Verdict:
    if outcome.status == "error":
        return Verdict(score=None, passed=False, kind=outcome.kind, read_as=found.how)
    passed = outcome.status == "passed"
    return Verdict(float(passed), passed, outcome.kind, found.ended, found.how, outcome.in_process)
