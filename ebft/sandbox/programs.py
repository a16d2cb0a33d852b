"""What the sandbox is given and what it says: a program with its tests, the outcome; what a text was read as."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Case:
    """One hidden test: the entry point called with these arguments must return this value. Plain data only."""

    arguments: tuple[Any, ...]
    expected: Any


@dataclass(frozen=True)
class Exchange:
    """One hidden test of a whole program: what it reads on standard input, and what it must have written."""

    given: str
    expected: str


@dataclass(frozen=True)
class Tests:
    """How a program is judged: by `cases`, whose results are compared outside the program's process; by `code`, trusted
    statements in which `entry_point` (and `candidate`, as HumanEval calls it) stand for the program's function; or by
    `exchanges`, each with a run of the program of its own. All must pass, and there must be one.

    Code that cannot do with calls of the entry point and plain values runs in the program's process (`in_process`).
    """

    entry_point: str
    cases: tuple[Case, ...] = ()
    code: str = ""  # assert statements, a whole test that ends by calling itself, or unittest's classes
    setup: str = ""  # imports and helpers that tests and program may use
    exchanges: tuple[Exchange, ...] = ()
    in_process: bool = False
    names: tuple[str, ...] = ()  # of the program's, that `code` uses though they are builtins' too


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
    seconds: float  # on the clock
    in_process: bool = False  # the tests ran beside the program


@dataclass(frozen=True)
class Read:
    """What reading a text gave, which runs nothing of it: the fields of what was found, None where the text took more
    time or memory than one may; or `error`, the machine's fault, in words."""

    found: list[Any] | None = None
    error: str = ""
