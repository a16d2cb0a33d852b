import time
import warnings

import pytest

from ebft.sandbox.functions import cut, parse, says_something

SIGNATURE = 'def double(x):\n    """Twice x."""\n'
METHOD = "if True:\n    def double(self, x):\n"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("    return 2 * x\n", "    return 2 * x\n"),
        ("    return 2 * x", "    return 2 * x"),
        ("    return 2 * x\n\n\ndef triple(x):\n    return 3 * x\n", "    return 2 * x\n\n\n"),
        ("    return 2 * x\nprint(double(3))\n", "    return 2 * x\n"),
        ("    return 2 * x\n# and now\nclass A:\n", "    return 2 * x\n# and now\n"),
        (
            "    if x:\n# a stray comment\n        x = 1\n    return 2\n",
            "    if x:\n# a stray comment\n        x = 1\n    return 2\n",
        ),
        ("return 2 * x\n", ""),
        ("", ""),
        ("    return (\n2 * x\n)\nx = 1\n", "    return (\n2 * x\n)\n"),
        ('    return """\nfirst\n"""\nx = 1\n', '    return """\nfirst\n"""\n'),
        ('    return """\nfirst\n"""\n', '    return """\nfirst\n"""\n'),
        ("    return (2 * x\nx = 1\ny = 2\n", "    return (2 * x\n"),
    ],
)
def test_a_function_ends_before_the_first_line_outside_it(text: str, kept: str) -> None:
    assert cut(SIGNATURE, text) == kept


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("        return 2 * x\n\n    def triple(self, x):\n        return 3 * x\n", "        return 2 * x\n\n"),
        ("    def triple(self, x):\n        return 3 * x\n", ""),
        ("        return 2 * x\nclass B:\n", "        return 2 * x\n"),
    ],
)
def test_a_method_ends_at_its_own_indentation(text: str, kept: str) -> None:
    assert cut(METHOD, text) == kept


def test_a_helper_before_the_function_does_not_set_its_depth() -> None:
    """HumanEval 32 and others come with one function complete and another begun."""
    assert cut("class A:\n    def help(self): ...\n" + SIGNATURE, "    return 1\nx = 2\n") == "    return 1\n"


def test_a_line_that_the_prefix_begins_is_part_of_the_function() -> None:
    assert cut("def f(x):", " return x\nf(1)\n") == " return x\n"
    assert cut("def f(x):", " return x") == " return x"


def test_without_a_prefix_nothing_is_cut() -> None:
    assert cut("", "x = 1\ny = 2\n") == "x = 1\ny = 2\n"


@pytest.mark.parametrize(
    "source",
    [
        "def f(:\n",
        "return 1\n",
        "x = 1\0",
        "x = '\ud800'",
        "(" * 100_000,
        "-" * 100_000 + "1",
        "a" + ".b" * 100_000,
        "1" + "+1" * 100_000,
        "if x:\n" * 3,
        "9" * 10_000,
    ],
    ids=[
        "syntax",
        "return outside",
        "null byte",
        "lone surrogate",
        "brackets",
        "signs",
        "attributes",
        "sum",
        "no body",
        "huge number",
    ],
)
def test_what_does_not_compile_is_no_program_and_breaks_nothing(source: str) -> None:
    assert parse(source) is None


def test_a_warning_of_the_compiler_is_no_error() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parse("x = '\\d'\ny = x is 'a'\n") is not None


@pytest.mark.parametrize(
    ("source", "something"),
    [
        ("def f():\n    return 1\n", True),
        ("def f():\n    'Text.'\n", False),
        ("def f():\n    pass\n    ...\n", False),
        ("if True:\n    def f(self):\n        x()\n", True),
        ("if True:\n    def f(self):\n        pass\n", False),
        ("def help():\n    return 1\ndef f():\n    pass\n", False),
        ("def f(x):\n    if x:\n        pass\n    else:\n        return 1\n", True),
        ("", False),
        ("# nothing\n", False),
    ],
)
def test_a_function_that_does_nothing_says_nothing(source: str, something: bool) -> None:
    tree = parse(source)
    assert tree is not None
    assert says_something(tree) == something


def test_what_the_compiler_would_unfold_without_measure_does_not_compile() -> None:
    """983 characters once held the trainer up for nine seconds, and twice as long with every level more."""
    nested = "".join(f"{' ' * depth}try: pass\n{' ' * depth}finally:\n" for depth in range(30)) + " " * 30 + "pass\n"
    exits = "def f():\n" + "".join(
        f"{' ' * depth}try:\n" + f"{' ' * depth} if x: return\n" * 5 + f"{' ' * depth}finally:\n"
        for depth in range(1, 7)
    )
    for text in (nested, f"{exits}{' ' * 7}pass\n"):
        started = time.process_time()
        assert parse(text) is None
        assert time.process_time() - started < 0.5
    assert parse("def f():\n try:\n  return 1\n finally:\n  try: pass\n  finally: pass\n") is not None
