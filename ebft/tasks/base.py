"""What a task is: questions with reference answers, and a verifier that judges any answer to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from ebft.sandbox.programs import Tests


@dataclass(frozen=True)
class Question:
    """A prompt with one right answer and whatever it takes to judge another."""

    key: str  # what the split into training and held-out sides hashes: questions of one key are never on both
    prompt: str  # what the model is given, to the last character
    answer: str  # a right answer, which SFT and EBFT learn from
    origin: str  # how an error message names it, such as path:line
    tests: Tests | None = None  # of the verifier `unit_tests`; `program_prefix` + answer is the program
    program_prefix: str = (
        ""  # what stands before an answer to make a whole program: HumanEval's prompt, a function's signature
    )
    references: tuple[str, ...] = ()  # every answer known to be right, of the verifiers that compare texts
    direction: str = ""  # of a translation, such as en-fr
    row: Mapping[str, Any] = field(default_factory=dict, repr=False)  # the cells that a user's own task may read

    def texts(self) -> list[tuple[str, str]]:
        """The cells that are texts, by column."""
        return [(column, cell) for column, cell in self.row.items() if isinstance(cell, str)]


@dataclass(frozen=True)
class Verdict:
    """What a verifier says of one answer. `score` is the reward; None is an infrastructure error, which is masked and
    never a 0."""

    score: float | None
    passed: bool
    kind: str  # passed, or in one word why not
    ended: bool = (
        False  # the text goes on behind the end of its answer, so that a completion without a stop token lost nothing
    )
    read_as: str = "text"  # what of the text was judged (reading.py)
    in_process: bool = False  # tests ran in the process of the program


@runtime_checkable
class Verifier(Protocol):
    """Judges answers. Deterministic: the same text and question give the same verdict."""

    def verify(self, text: str, question: Question) -> Verdict: ...

    def verify_all(self, texts: Sequence[str], questions: Sequence[Question]) -> list[Verdict]:
        """One verdict a text, in order; where it runs programs, in parallel and under a deadline for the batch."""
        ...

    def metrics(self, texts: Sequence[str], questions: Sequence[Question]) -> dict[str, float]:
        """Figures of a corpus that are no means of verdicts, such as BLEU; empty for most verifiers."""
        ...


@runtime_checkable
class RowFigures(Protocol):
    """A verifier that knows what each answer adds to the figures of a corpus."""

    def row_figures(self, texts: Sequence[str], questions: Sequence[Question]) -> dict[str, list[float | None]]:
        """For every figure of `metrics` one number an answer, None where it has no part in it: their mean is the
        figure, and their spread that of its jackknife."""
        ...
