"""The verifier of code with tests: an answer is right if the program that it makes passes its question's tests in the
sandbox."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ebft.config.schema import UserError
from ebft.sandbox.programs import Program, ProgramResult
from ebft.tasks.base import Question, Verdict
from ebft.tasks.functions import cut


@runtime_checkable
class ProgramRunner(Protocol):
    """What runs programs, such as the sandbox."""

    def run(self, program: Program) -> ProgramResult: ...

    def run_all(self, programs: Sequence[Program]) -> list[ProgramResult]: ...


class UnitTests:
    """Scores 1 or 0. With a program prefix, as HumanEval has it, what follows the completed function is cut away;
    without one the whole text must be the program."""

    def __init__(self, runner: ProgramRunner) -> None:
        self.runner = runner

    def verify(self, text: str, question: Question) -> Verdict:
        return self.verify_all([text], [question])[0]

    def verify_all(self, texts: Sequence[str], questions: Sequence[Question]) -> list[Verdict]:
        pairs = list(zip(texts, questions, strict=True))
        outcomes = self.runner.run_all([program(text, question) for text, question in pairs])
        return [
            verdict(outcome, _ended(text, question)) for outcome, (text, question) in zip(outcomes, pairs, strict=True)
        ]

    def metrics(self, texts: Sequence[str], questions: Sequence[Question]) -> dict[str, float]:
        return {}


def program(text: str, question: Question) -> Program:
    """What is run to judge `text`. Raises UserError for a question without tests."""
    if question.tests is None:
        raise UserError(
            f"{question.origin} has no tests, which the verifier unit_tests runs; name their column, or choose "
            "another verifier."
        )
    return Program(source=question.program_prefix + cut(question.program_prefix, text), tests=question.tests)


def _ended(text: str, question: Question) -> bool:
    return len(cut(question.program_prefix, text)) < len(text)


def verdict(outcome: ProgramResult, ended: bool = False) -> Verdict:
    if outcome.status == "error":
        return Verdict(score=None, passed=False, kind=outcome.kind)
    passed = outcome.status == "passed"
    return Verdict(score=float(passed), passed=passed, kind=outcome.kind, ended=ended)
