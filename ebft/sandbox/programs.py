"""What the sandbox is given and what it says: a program with its tests, the limits, the outcome."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Case:
    """One hidden test: the entry point called with these arguments must return this value. Plain data only."""

    arguments: tuple[Any, ...]
    expected: Any


@dataclass(frozen=True)
class Tests:
    """How a program is judged: by `cases`, whose results are compared outside the program's process, or by `code`,
    trusted statements in which `entry_point` (and `candidate`, as HumanEval calls it) stand for the program's function.
    All must pass, and there must be one."""

    entry_point: str
    cases: tuple[Case, ...] = ()
    code: str = ""  # assert statements, or a whole test that ends by calling itself
    setup: str = ""  # imports and helpers that tests and program may use


@dataclass(frozen=True)
class Program:
    """Python that a model wrote, and what it must do."""

    source: str
    tests: Tests


@dataclass(frozen=True)
class ProgramResult:
    """`passed`, `failed` through the program's own fault, or `error`: the machine's fault, which says nothing about the
    program."""

    status: Literal["passed", "failed", "error"]
    # passed, wrong_value, exception, syntax, timeout, memory, output, exit, forbidden, ...; of an error, its cause in
    # words
    kind: str
    num_tests: int  # executed
    seconds: float
