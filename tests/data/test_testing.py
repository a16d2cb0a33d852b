"""From cells as data sets hold them to tests that run."""

from pathlib import Path
from typing import Any

import pytest

from ebft.cli.compose import compose
from ebft.config.schema import UserError
from ebft.data.questions import document
from ebft.data.raw_row import RawRow
from ebft.sandbox.programs import Exchange
from ebft.sandbox.programs import Tests as RowTests
from tests.data.helpers import file_config

COLUMNS = {"text_column": None, "prompt_column": "ask", "completion_column": "answer", "task": "unit_tests"}
CODE = {**COLUMNS, "tests_column": "tests"}
F = "def f(x):\n    return 2 * x\n"


def judged_by(columns: dict[str, Any], **cells: Any) -> RowTests:
    row = RawRow("rows.jsonl:7", {"ask": "Double it.", "answer": F, **cells})
    question = document(file_config(Path("rows.jsonl"), **columns), row).question
    assert question is not None
    assert question.tests is not None
    return question.tests


@pytest.mark.parametrize(
    "cell",
    [
        "assert f(1) == 2\r\nassert f(2) == 4",
        "\ufeffassert f(1) == 2\rassert f(2) == 4",
        "\tassert f(1) == 2\n\tassert f(2) == 4",
        ["    assert f(1) == 2", "\ufeffassert f(2) == 4"],
        '\ufeff["assert f(1) == 2", "assert f(2) == 4"]',
        '\r\n["assert f(1) == 2",\r\n "assert f(2) == 4"]\r\n',
    ],
)
def test_what_files_and_tables_add_to_code_is_taken_away(cell: Any) -> None:
    assert judged_by(CODE, tests=cell) == RowTests("f", code="assert f(1) == 2\nassert f(2) == 4")


@pytest.mark.parametrize(
    ("tests", "entry_point"),
    [
        ("def check(candidate):\n    assert candidate(1) == 2", "f"),
        ("def check(c):\n    assert c(1) == 2\n    assert c(2) == 4", "f"),
        ("def test_it():\n    assert f(1) == 2", "f"),
        ("y = f(1)\nassert y == 2", "f"),
    ],
)
def test_the_tested_function_is_found_by_the_reference_where_tests_name_none(tests: str, entry_point: str) -> None:
    found = judged_by(CODE, tests=tests)
    assert (found.entry_point, found.in_process) == (entry_point, False)


def test_a_reference_in_prose_tells_what_it_defines() -> None:
    tests = judged_by(CODE, answer=f"So:\n```python\n{F}```\n", tests="def check(c):\n    assert c(1) == 2")
    assert tests.code == "def check(c):\n    assert c(1) == 2\ncheck(f)\n"


@pytest.mark.parametrize(
    ("tests", "in_process"),
    [
        ("import math\nassert math.isclose(f(1), 2)", False),
        ("assert f(1) is None or type(f(1)) is int", False),
        ("x = [1]\nassert f(x) == x + x", False),
        ("try: f(None)\nexcept TypeError as error: assert error.args", False),
        ("assert f(1) == 2 and g(1) == 3", True),
        ("assert isinstance(f(1), Number)", True),
        ("x = [1]\nassert f(x) is x", True),
        ("assert f(1) == 2 and f.__name__ == 'f'", True),
        ("import io, contextlib\nassert f(1) == 2", True),
        ("import random\nrandom.seed(1)\nassert f(1) == 2", True),
        ("assert open('notes.txt').read() == f(1)", True),
        ("@f\ndef k(x): return x\nassert k(3) == 6", True),
        ("class Sub(f): pass\nassert Sub(1)", True),
        ("import unittest\nclass T(unittest.TestCase):\n    def test_f(self): self.assertEqual(f(1), 2)", True),
    ],
)
def test_tests_that_take_more_than_calls_are_marked(tests: str, in_process: bool) -> None:
    assert judged_by(CODE, tests=tests).in_process == in_process


def test_a_redefined_builtin_is_the_programs() -> None:
    found = judged_by(CODE, answer="def sum(a, b):\n    return a + b\n", tests=["assert sum(10, 15) == 25"])
    assert found == RowTests("sum", code="assert sum(10, 15) == 25", names=("sum",))


APPS = '{"inputs": ["1\\n", "2\\n"], "outputs": ["2\\n", "4\\n"]}'
PAIRS = (Exchange("1\n", "2\n"), Exchange("2\n", "4\n"))


@pytest.mark.parametrize(
    "cell",
    [
        APPS,
        {"input": ["1\n", "2\n"], "output": ["2\n", "4\n"]},
        [{"input": "1\n", "output": "2\n"}, {"input": "2\n", "output": "4\n"}],
        {"inputs": [["1", ""], "2\n"], "outputs": ["2\n", ["4", ""]]},
    ],
)
def test_inputs_and_outputs_stand_in_one_cell(cell: Any) -> None:
    assert judged_by(CODE, tests=cell) == RowTests("", exchanges=PAIRS)


def test_inputs_and_outputs_stand_in_columns_of_their_own() -> None:
    columns = {**COLUMNS, "stdin_column": "given", "stdout_column": "wanted"}
    assert judged_by(columns, given=["1\n", "2\n"], wanted='["2\\n", "4\\n"]').exchanges == PAIRS
    assert judged_by(columns, given="3", wanted="6").exchanges == (Exchange("3", "6"),)
    assert judged_by(columns, given=None, wanted="hello").exchanges == (Exchange("", "hello"),)
    assert judged_by({**COLUMNS, "stdout_column": "wanted"}, wanted="hello").exchanges == (Exchange("", "hello"),)
    for given, wanted, sentence in [
        (["1"], ["2", "3"], "has 1 inputs for the 2 outputs of column wanted"),
        (["1"], [], "has 1 inputs for the 0 outputs of column wanted"),
    ]:
        with pytest.raises(UserError, match=f"rows.jsonl:7 {sentence}; .*drop_untestable=true"):
            judged_by(columns, given=given, wanted=wanted)


OVERRIDES = ["data=jsonl", "data.path=x", "data.text_column=null", "data.prompt_column=p", "data.completion_column=c"]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["data.tests_column=t", "data.stdout_column=o"], "are two kinds of tests; make one of them null"),
        (["data.stdin_column=i"], "name their column with data.tests_column, or with data.stdin_column"),
        (["data.stdout_column=o", "data.completes_prompt=true"], "judges whole programs"),
    ],
)
def test_columns_of_two_kinds_are_refused(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        compose([*OVERRIDES, "data.task=unit_tests", *overrides])
