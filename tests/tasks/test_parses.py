import fractions
import pydoc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from ebft.config.schema import UserError
from ebft.sandbox import Read
from ebft.tasks import parses
from ebft.tasks.base import Question, Verdict
from ebft.tasks.parses import Parses, questions
from tests.sandbox.helpers import ReadHere

MODULE = '''\
"""A module."""

import os

@cached
def area(width, height):
    """Of a rectangle."""
    # both positive
    size = width * height
    return size


class Shape:
    async def draw(
        self,
        pen: str,
    ) -> None:
        @pen
        def line():
            return 1
        return line

    def name(self): return "shape"

    def todo(self):
        """Later."""

    def later(self):
        raise NotImplementedError

try:
    import fast
except ImportError:
    def fast():
        pass
'''


@pytest.fixture
def asked() -> list[Question]:
    return list(questions("shapes", MODULE))


def test_functions_and_methods_with_a_body_are_asked_for(asked: list[Question]) -> None:
    """Not one on a single line, not an empty one, not one inside another."""
    assert [question.origin for question in asked] == [
        "module shapes, line 6",
        "module shapes, line 14",
        "module shapes, line 28",
    ]
    assert {question.key for question in asked} == {"shapes"}


def test_prompt_answer_and_prefix_of_a_function(asked: list[Question]) -> None:
    assert asked[0] == Question(
        key="shapes",
        prompt='"""A module."""\n\nimport os\n\n@cached\ndef area(width, height):\n'
        '    """Of a rectangle."""\n    # both positive',
        answer="\n    size = width * height\n    return size\n",
        origin="module shapes, line 6",
        program_prefix='def area(width, height):\n    """Of a rectangle."""\n    # both positive',
    )


def test_prompt_answer_and_prefix_of_a_method(asked: list[Question]) -> None:
    assert asked[1].answer == "\n        @pen\n        def line():\n            return 1\n        return line\n"
    assert asked[1].program_prefix == "if True:\n    async def draw(\n        self,\n        pen: str,\n    ) -> None:"
    assert asked[1].prompt.endswith(
        "class Shape:\n    async def draw(\n        self,\n        pen: str,\n    ) -> None:"
    )


def test_the_context_is_short() -> None:
    lines = "".join(f"x{i} = {i}\n" for i in range(20))
    (question,) = questions("m", lines + "def f():\n    return 1\n")
    assert question.prompt == "".join(f"x{i} = {i}\n" for i in range(12, 20)) + "def f():"


@pytest.mark.parametrize(("num_lines", "num_questions"), [(parses.MAX_BODY_LINES, 1), (parses.MAX_BODY_LINES + 1, 0)])
def test_long_bodies_are_left_out(num_lines: int, num_questions: int) -> None:
    assert len(list(questions("m", "def f():\n" + "    g()\n" * num_lines))) == num_questions


def test_long_docstrings_are_left_out() -> None:
    source = 'def f():\n    """One.\n\n    Two.\n    """\n    return 1\n'
    assert list(questions("m", source)) == []


def test_a_module_that_is_not_python_is_named() -> None:
    with pytest.raises(UserError, match=r"module old is not Python of this interpreter \(.*\); leave it out"):
        list(questions("old", "print 'x'\n"))


@pytest.mark.parametrize("module", [fractions, pydoc], ids=lambda module: str(module.__name__))
def test_the_library_passes_with_and_without_text_that_runs_on(module: ModuleType) -> None:
    """pydoc holds texts that begin in column 0 inside its methods."""
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    asked = list(questions("m", source))
    assert len(asked) > 10
    for question in asked:
        assert source.count(question.prompt + question.answer) == 1
        exact, run_on = (Parses(ReadHere()).verify(question.answer + more, question) for more in ("", "\ndef next(\n"))
        assert (exact.passed, exact.ended, run_on.passed, run_on.ended) == (True, False, True, True)


METHOD = Question(key="m", prompt="", answer="", origin="m", program_prefix="if True:\n    def f(self):\n")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("        return self\n", "passed"),
        ("        return self", "passed"),
        ("        return self\n    def g(self):\n        return (\n", "passed"),
        ("        return (self\n", "syntax"),
        ("        return self\n      x = 1\n", "syntax"),
        ("    return self\n", "syntax"),
        ("", "syntax"),
        ("        return '\0'\n", "syntax"),
        ("        pass\n", "empty"),
        ("        ...\n    def g(self):\n        return 1\n", "empty"),
        ('        """Text."""\n', "empty"),
    ],
)
def test_what_passes_compiles_and_does_something(text: str, kind: str) -> None:
    assert replace(Parses(ReadHere()).verify(text, METHOD), ended=False) == Verdict(
        float(kind == "passed"), kind == "passed", kind
    )


def test_a_docstring_in_the_prefix_is_no_body() -> None:
    question = Question(key="m", prompt="", answer="", origin="m", program_prefix='def f():\n    """Text."""\n')
    assert Parses(ReadHere()).verify("", question).kind == "empty"
    assert Parses(ReadHere()).verify("x = 1\n", question).kind == "empty"


def test_nothing_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    text = f"        return 1\n    open({str(mark)!r}, 'w')\n"
    assert Parses(ReadHere()).verify(text, METHOD).passed
    assert not mark.exists()


def test_all_are_judged_in_order() -> None:
    verdicts = Parses(ReadHere()).verify_all(["        return 1\n", "        (\n"], [METHOD, METHOD])
    assert [verdict.passed for verdict in verdicts] == [True, False]


def test_the_parse_rate_is_the_share_that_passes() -> None:
    texts = ["        return 1\n", "        (\n", "        pass\n", "        return 2\n    def g(self):\n"]
    assert Parses(ReadHere()).metrics(texts, [METHOD] * 4) == {"parse_rate": 0.5}
    assert Parses(ReadHere()).metrics([], []) == {}


class Reader:
    def __init__(self, read: Read) -> None:
        self.read = read

    def read_all(self, how: str, texts: Sequence[Sequence[str]]) -> list[Read]:
        return [self.read for _ in texts]


def test_a_text_that_takes_too_much_to_read_does_not_parse() -> None:
    """18 of `finally`, one in another, once held the trainer up for nine seconds, and a memory error ended it."""
    assert Parses(Reader(Read())).verify("        return 1\n", METHOD) == Verdict(0.0, False, "syntax")


def test_a_text_that_the_machine_could_not_read_is_no_failure() -> None:
    verifier = Parses(Reader(Read(error="OSError: no process")))
    assert verifier.verify("        return 1\n", METHOD) == Verdict(None, False, "OSError: no process")
    assert verifier.metrics(["        return 1\n"], [METHOD]) == {}
    assert verifier.row_figures(["        return 1\n"], [METHOD]) == {"parse_rate": [None]}


def test_a_text_is_read_once_for_verdicts_and_figures() -> None:
    asked: list[str] = []

    class Reader:
        def read_all(self, how: str, texts: Sequence[Sequence[str]]) -> list[Read]:
            asked.extend(text for text, _ in texts)
            return [Read(["passed", False]) for _ in texts]

    question = Question(key="f", prompt="def f():", answer="", origin="here", program_prefix="def f():\n")
    texts = ["    return 1", "    return 1", "    x"]
    verifier = Parses(Reader())
    assert [verdict.score for verdict in verifier.verify_all(texts, 3 * [question])] == [1.0, 1.0, 1.0]
    assert verifier.metrics(texts, 3 * [question]) == {"parse_rate": 1.0}
    assert verifier.row_figures(texts, 3 * [question]) == {"parse_rate": [1.0, 1.0, 1.0]}
    assert asked == ["    return 1", "    x"]
