"""The verifier of code with tests: an answer is right if the program that it makes passes its question's tests in the
sandbox."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Protocol, runtime_checkable

from ebft.config.schema import UserError
from ebft.sandbox.programs import Program, ProgramResult, Read, Tests
from ebft.sandbox.reading import Reading, read
from ebft.tasks.base import Question, Verdict
from ebft.tasks.remembered import Remembered


@runtime_checkable
class ProgramRunner(Protocol):
    """What runs programs and reads texts, such as the sandbox."""

    def run(self, program: Program) -> ProgramResult: ...

    def run_all(self, programs: Sequence[Program]) -> list[ProgramResult]: ...

    def read_all(self, how: str, texts: Sequence[Sequence[str]]) -> list[Read]: ...


class UnitTests:
    """Scores 1 or 0. Which part of a text is the program, reading.py says.

    A program is run once with its tests, and what became of it is remembered: by the clock, and below namespaces by the
    numbers of files and processes, a text that is submitted again and again could otherwise guess its way to a reward.
    """

    def __init__(self, runner: ProgramRunner) -> None:
        self.runner = runner
        self._outcomes = Remembered[str, Program, ProgramResult](
            lambda programs: self.runner.run_all(programs), lambda outcome: outcome.status != "error"
        )

    def verify(self, text: str, question: Question) -> Verdict:
        return self.verify_all([text], [question])[0]

    def verify_all(self, texts: Sequence[str], questions: Sequence[Question]) -> list[Verdict]:
        asked = [
            (text, each.program_prefix, tests(each).entry_point) for text, each in zip(texts, questions, strict=True)
        ]
        reads = self.runner.read_all("read", asked)
        found = [_reading(each, text, prefix) for each, (text, prefix, _) in zip(reads, asked, strict=True)]
        programs = [Program(one.source, tests(each)) for one, each in zip(found, questions, strict=True)]
        digests = [digest_of(each) for each in programs]
        known = zip(digests, programs, reads, strict=True)
        outcomes = self._outcomes({digest: program for digest, program, each in known if not each.error})
        return [
            verdict(ProgramResult("error", each.error, 0, 0.0) if each.error else outcomes[digest], one)
            for each, one, digest in zip(reads, found, digests, strict=True)
        ]

    def metrics(self, texts: Sequence[str], questions: Sequence[Question]) -> dict[str, float]:
        return {}


def program(answer: str, question: Question) -> Program:
    """What is run to judge a reference answer. Raises UserError for a question without tests."""
    found = read(answer, question.program_prefix, tests(question).entry_point)
    return Program(found.source, tests(question))


def digest_of(program: Program) -> str:
    return sha256(repr(program).encode("utf-8", "surrogatepass")).hexdigest()


def tests(question: Question) -> Tests:
    if question.tests is None:
        raise UserError(
            f"{question.origin} has no tests, which the verifier unit_tests runs; name their column, or choose "
            "another verifier."
        )
    return question.tests


def _reading(each: Read, text: str, prefix: str) -> Reading:
    """A text that took too much to read is run as it stands, where its limits are a program's."""
    if each.found is not None:
        return Reading(*each.found)
    return Reading(prefix + text, "continuation" if prefix else "text", ended=False)


def verdict(outcome: ProgramResult, found: Reading) -> Verdict:
    if outcome.status == "error":
        return Verdict(score=None, passed=False, kind=outcome.kind, read_as=found.how)
    passed = outcome.status == "passed"
    return Verdict(float(passed), passed, outcome.kind, found.ended, found.how, outcome.in_process)
