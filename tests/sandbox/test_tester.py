"""What passes and what fails, by cases and by test code: each program is really run."""

import pytest

from ebft.sandbox import ProgramResult, Sandbox
from tests.sandbox.attacks import SEARCH
from tests.sandbox.helpers import program

ADD = "def f(a, b): return a + b"


def told(outcome: ProgramResult) -> tuple[str, str, int]:
    return outcome.status, outcome.kind, outcome.num_tests


@pytest.mark.parametrize(
    ("source", "cases", "kind", "num_tests"),
    [
        (ADD, [((1, 2), 3), (("a", "b"), "ab"), (([1], [2]), [1, 2])], "passed", 3),
        (ADD, [((1, 2), 3), ((1, 2), 4), ((1, 2), 3)], "wrong_value", 2),
        ("def f(x): return x / 3", [((1,), 0.33333), ((2,), 2 / 3)], "wrong_value", 1),
        ("def f(x): return x * 0.1", [((3,), 0.3)], "passed", 1),
        ("def f(x): return x == 1", [((1,), 1)], "wrong_value", 1),
        ("def f(x): return set(x)", [(([3, 1, 3, 2],), {1, 2, 3}), (([],), set())], "passed", 2),
        (
            "def f(x): return {k: len(v) for k, v in x.items()}",
            [(({"b": [1], "a": []},), {"a": 0, "b": 1})],
            "passed",
            1,
        ),
        ("from collections import Counter\ndef f(x): return Counter(x)", [(("aab",), {"a": 2, "b": 1})], "passed", 1),
        ("def f(x):\n    x.append(9)\n    return x", [(([1],), [1, 9]), (([1],), [1, 9])], "passed", 2),
        ("def f(): print('a', input)\ndef g(): pass", [((), None)], "passed", 1),
        ("def f(): return iter([1])", [((), [1])], "not_plain_data", 0),
        ("def f(x): return x", [((object(),), 1)], "not_plain_data", 0),
        ("def f(x): raise ValueError(x)", [((1,), 1)], "exception", 1),
        ("def f(x): return [1, 2][x]", [((0,), 1), ((5,), 1)], "exception", 2),
        ("import sys\ndef f(x): sys.exit(x)", [((0,), 0)], "exit", 1),
        ("raise ValueError", [((), 1)], "exception", 0),
        ("def f(:", [((), 1)], "syntax", 0),
        ("def g(): return 1", [((), 1)], "no_entry_point", 0),
        (ADD, [], "no_test", 0),
    ],
)
def test_cases(
    source: str, cases: list[tuple[tuple[object, ...], object]], kind: str, num_tests: int, sandbox: Sandbox
) -> None:
    status = "passed" if kind == "passed" else "failed"
    assert told(sandbox.run(program(source, *cases))) == (status, kind, num_tests)


@pytest.mark.parametrize(
    ("source", "code", "kind", "num_tests"),
    [
        (ADD, "assert f(1, 2) == 3\nassert candidate(1, b=2) == 3", "passed", 2),
        (
            ADD,
            "def check(candidate):\n    assert True\n    for x in range(4):\n        assert candidate(x, x) == 2 * "
            "x\ncheck(candidate)",
            "passed",
            5,
        ),
        (ADD, "assert f(1, 2) == 3\nassert f(1, 2) == 4, 'four'\nassert f(1, 2) == 3", "wrong_value", 2),
        (ADD, "def check(candidate):\n    assert candidate(1, 2) == 3", "no_test", 0),
        (ADD, "assert True", "no_test", 0),
        (ADD, "f(1, 2)", "no_test", 0),
        (ADD, "import math\nassert math.isclose(f(0.1, 0.2), 0.3)", "passed", 1),
        ("def f(x): return {x}", "assert f(1) == {1} and isinstance(f(1), set)", "passed", 1),
        ("def f(x): return None", "assert f(1)[0] == 1", "exception", 1),
        ("def f(x): raise MemoryError", "assert f(1) == 1", "memory", 1),
        (
            "def f(x): raise KeyError(x)",
            "try: f('a')\nexcept KeyError as error: assert error.args == ('a',)\nelse: assert False",
            "passed",
            1,
        ),
        (
            "class E(ValueError): pass\ndef f(x): raise E('no', object())",
            "try: f(1)\nexcept ValueError as error: assert 'no' in str(error)",
            "passed",
            1,
        ),
        (
            "def f(x): b'\\xff'.decode()",
            "try: f(1)\nexcept UnicodeDecodeError as error: assert error.start == 0",
            "passed",
            1,
        ),
        ("def f(x): return x", "assert f(object())", "not_plain_data", 1),
        ("def f(x): return x.append(1)", "x = []\nf(x)\nassert x == [1]", "wrong_value", 1),
        (ADD, "assert f(1, 2) ==", "broken_test", 0),
        (ADD, "import no_such_module\nassert f(1, 2) == 3", "exception", 0),
        (ADD, "import os\nos._exit(0)\nassert f(1, 2) == 3", "exit", 0),
        (ADD, "while f(1, 2): pass", "timeout", 0),
    ],
)
def test_code(source: str, code: str, kind: str, num_tests: int, sandbox: Sandbox) -> None:
    status = "passed" if kind == "passed" else "failed"
    assert told(sandbox.run(program(source, code=code))) == (status, kind, num_tests)


def test_setup_serves_program_and_tests(sandbox: Sandbox) -> None:
    setup = "import math\ndef twice(x): return 2 * x"
    both = program("def f(x): return math.floor(twice(x))", ((1.7,), 3), code="assert f(1.2) == twice(1)", setup=setup)
    assert told(sandbox.run(both)) == ("passed", "passed", 2)
    assert told(sandbox.run(program(ADD, ((1, 2), 3), setup="raise ValueError"))) == ("failed", "broken_test", 0)


def test_cases_come_before_code(sandbox: Sandbox) -> None:
    assert told(sandbox.run(program(ADD, ((1, 2), 3), code="assert f(1, 2) == 3"))) == ("passed", "passed", 2)
    assert told(sandbox.run(program(ADD, ((1, 2), 4), code="assert f(1, 2) == 3"))) == ("failed", "wrong_value", 1)
    assert told(sandbox.run(program(ADD, ((1, 2), 3), code="f(1, 2)"))) == ("failed", "no_test", 1)


def test_the_same_program_gets_the_same_values(sandbox: Sandbox) -> None:
    """Random numbers and the order of sets are fixed, so a verdict can be repeated."""
    source = "import random\ndef f(): return [random.random(), list({'a', 'b', 'c', 'd'}), hash('a')]"
    tests = "import random\nassert f() == [0.8444218515250481, list({'a', 'b', 'c', 'd'}), hash('a')]"
    assert [told(sandbox.run(program(source, code=tests)))[1] for _ in range(4)] == ["passed"] * 4


def test_useful_things_work(sandbox: Sandbox) -> None:
    """What an honest program may well do: files of its own, an event loop, a dataclass, printing, an alarm, a rarely
    used module."""
    source = """
import asyncio, contextlib, dataclasses, io, json, os, signal, sys, tempfile, zoneinfo
@dataclasses.dataclass
class Point:
    x: "int"
async def later():
    await asyncio.sleep(0.001)
    return 1
def f():
    with open("notes.txt", "w") as file: file.write("one")
    with open("notes.txt") as file: assert file.read() == "one"
    with open(os.devnull, "w") as file, contextlib.redirect_stdout(file): print("nothing")
    os.rename("notes.txt", "other.txt")
    os.remove("other.txt")
    print("text", file=sys.stderr)
    signal.alarm(5)
    return [asyncio.run(later()), Point(2).x, os.listdir(), json.loads("[3]"), sys.stdin.read()]
"""
    assert told(sandbox.run(program(source, ((), [1, 2, [], [3], ""])))) == ("passed", "passed", 1)


def test_what_the_attack_looks_for_could_be_found(sandbox: Sandbox) -> None:
    """The search of the attack suite is not blind: it finds the right value where one is left in its process."""
    assert (
        told(sandbox.run(program(SEARCH, ((2000003, 4000037), 6000040), setup="left_behind = [6000040]")))[1]
        == "passed"
    )
