import ast

import pytest

from ebft.data.assertions import before_definition, first_assert, function_under_test, main_function, runnable


@pytest.mark.parametrize(
    ("tests", "name"),
    [
        ("assert f(1) == 2", "f"),
        ("assert 2 == f(1)", "f"),
        ("assert not f(1)", "f"),
        ("assert f(1) is None, g(1)", "f"),
        ("assert set(f((3, 4))) == set((4,))", "f"),
        ("assert abs(f(1) - g(2)) < 1e-6", "f"),
        ("assert [1, f(2)] == g(3)", "f"),
        ("assert f(Pair(1, 2)) == 3", "f"),
        ("assert f(x).strip() == 'a'", "f"),
        ("import math\nassert math.isclose(f(1), 0.1)", "f"),
        ("from math import isclose as near\nassert near(f(1), 0.1)", "f"),
        ("def close(a, b):\n    return abs(a - b) < 1\nassert close(f(1), 2)", "f"),
        ("def test_one():\n    assert f(1) == 2\nassert g(1) == 2", "f"),
        ("assert prepare(f(1)) == 2", "f"),
        ("assert all(g(x) for g in [f(1)])", "f"),
        ("f = 3\nassert f(1) == 2", None),
        ("def check(candidate):\n    assert candidate(1) == 2", None),
        ("assert x == 2\nassert f(1) == 2", None),
        ("assert math.sqrt(4) == 2", None),
        ("f(1)", None),
    ],
)
def test_the_function_that_the_first_assert_calls(tests: str, name: str | None) -> None:
    assert function_under_test(ast.parse(tests), ast.parse("def prepare(x): ...")) == name


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("x = 1\nassert a\nassert b", 2),
        ("def check(f):\n    if x:\n        for x in y:\n            assert f(x)\n    assert y\nassert z", 4),
        ("a == b", None),
    ],
)
def test_the_first_assert_wherever_it_stands(code: str, line: int | None) -> None:
    found = first_assert(ast.parse(code))
    assert (found and found.lineno) == line


@pytest.mark.parametrize(
    ("code", "called"),
    [
        ("def check(candidate):\n    assert candidate(1)", True),
        ("def check(candidate):\n    assert candidate(1)\ndef other():\n    check(f)", True),
        ("def check(candidate):\n    assert candidate(1)\ncheck(f)", False),
        ("assert f(1)", False),
    ],
)
def test_a_check_that_nobody_calls_is_called(code: str, called: bool) -> None:
    assert runnable(code, ast.parse(code), "f") == (f"{code}\ncheck(f)\n" if called else code)


@pytest.mark.parametrize(
    ("code", "added"),
    [
        ("def test_f():\n    assert f(1)", "test_f()\n"),
        ("def test_f():\n    assert f(1)\ndef test_g(x=2):\n    assert f(x)", "test_f()\ntest_g()\n"),
        ("def test_f(candidate):\n    assert candidate(1)", "test_f(f)\n"),
        ("def test_f(tmp_path):\n    assert f(1)", ""),
        ("def test_f():\n    assert f(1)\ntest_f()", ""),
        ("def helper(x):\n    assert f(x)", ""),
    ],
)
def test_test_functions_that_nobody_calls_are_called(code: str, added: str) -> None:
    assert runnable(code, ast.parse(code), "f") == (f"{code}\n{added}" if added else code)


def test_a_run_of_test_classes_is_left_out() -> None:
    """They are run in any case, and this one ends the process."""
    code = "import unittest\nclass T(unittest.TestCase): ...\nunittest.main(argv=[''], exit=True)"
    assert "main" not in runnable(code, ast.parse(code), "f")


@pytest.mark.parametrize(
    ("tests", "name"),
    [
        ("assert sum(10, 15) == 25", "sum"),
        ("assert max(sum(1, 2), 2) == 3", "sum"),
        ("y = g(1)\nassert y == 2", "g"),
        ("@g\ndef k(x): return x\nassert k(3) == 6", "g"),
        ("assert prepare(g(1)) == 2", "g"),
        ("def check(candidate):\n    assert candidate(1) == 2", None),
    ],
)
def test_what_the_reference_defines_is_what_is_tested(tests: str, name: str | None) -> None:
    """MBPP's row 126 redefines the builtin `sum`."""
    assert function_under_test(ast.parse(tests), ast.parse(""), {"sum", "g"}) == name


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("def f(x): return g(x)\ndef g(x): return x", "f"),
        ("def f(x): return x\ndef g(x): return f(x)", "g"),
        ("def f(x): return f(x)", "f"),
        ("x = 1", None),
    ],
)
def test_a_program_is_about_the_function_that_no_other_uses(program: str, name: str | None) -> None:
    assert main_function(ast.parse(program)) == name


@pytest.mark.parametrize(
    ("prompt", "before"),
    [
        ('import math\n\ndef f(x):\n    """def f"""\n', "import math\n\n"),
        ("def g(x):\n    return x\n\nasync def f(x):\n", "def g(x):\n    return x\n\n"),
        ("import functools\n@functools.cache\n@other\ndef f(x):\n", "import functools\n"),
        ("def f(x):\n", ""),
        ("def ff(x):\n", None),
        ("class A:\n    def f(self):\n", None),
        ("Write f.\n", None),
    ],
)
def test_what_a_prompt_defines_before_its_function(prompt: str, before: str | None) -> None:
    assert before_definition(prompt, "f") == before
