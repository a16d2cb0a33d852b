import ast

import pytest

from ebft.data.assertions import before_definition, checking, first_assert, function_under_test


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
    assert checking(code, ast.parse(code), "f") == (f"{code}\ncheck(f)\n" if called else code)


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
