"""What passes and what fails, by cases and by test code: each program is really run."""

from dataclasses import replace

import pytest

from ebft.sandbox import Exchange, Program, ProgramResult, Sandbox, programs
from tests.sandbox.attacks import SEARCH
from tests.sandbox.helpers import CONFIG, program

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


@pytest.mark.slow
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
            2,
        ),
        (
            "class E(ValueError): pass\ndef f(x): raise E('no', object())",
            "try: f(1)\nexcept ValueError as error: assert 'no' in str(error)",
            "passed",
            2,
        ),
        (
            "def f(x): b'\\xff'.decode()",
            "try: f(1)\nexcept UnicodeDecodeError as error: assert error.start == 0",
            "passed",
            2,
        ),
        (ADD, "try: f(1)\nexcept TypeError: pass", "passed", 1),
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


POINT = "class Point:\n    def __init__(self, x): self.x = x\n    def __eq__(self, other): return self.x == other.x\n"
BESIDE = {
    "another function": ("def f(x): return x + 1\ndef g(x): return 2 * f(x)", "assert f(1) == 2\nassert g(1) == 4", 2),
    "a class": (f"{POINT}def f(x): return Point(x)", "assert f(1).x == 1\nassert f(1) == Point(1) != Point(2)", 2),
    "a global": ("n = 0\ndef f():\n    global n\n    n += 1", "f()\nf()\nassert n == 2", 1),
    "an import of the program's": ("import math\ndef f(x): return math.floor(x)", "assert f(1.5) == math.floor(1)", 1),
    "a generator": ("def f(n):\n    yield from range(n)", "assert list(f(3)) == [0, 1, 2]", 1),
    "an endless generator": ("def f():\n    while True: yield 1", "assert next(f()) == 1", 1),
    "a named tuple": (
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(a, b): return P(a, b)",
        "assert f(1, 2) == (1, 2)\nassert f(1, 2).y == 2 and f(1, 2) in [(1, 2)]",
        2,
    ),
    "a function as an argument": ("def f(g, x): return g(x)", "assert f(lambda v: v + 1, 2) == 3", 1),
    "a function as a value": ("def f(n): return lambda x: x + n", "assert f(1)(2) == 3", 1),
    "an argument changed in place": ("def f(x): x.append(1)", "x = []\nf(x)\nassert x == [1]", 1),
    "an argument used up": ("def f(x): return x.pop()", "x = [1, 2]\nassert f(x) == 2\nassert f(x) == 1", 2),
    "an error of the program's": (
        "class E(Exception): pass\ndef f(x): raise E(x)",
        "try: f(1)\nexcept E as error: assert error.args[0] == 1\nelse: assert False",
        2,
    ),
    "an error seen from above": (
        "import json\ndef f(x): return json.loads(x)",
        "try: f('[')\nexcept ValueError as error: assert error.pos == 1",
        2,
    ),
    "a number of numpy's kind": (
        "class Real(float):\n    def half(self): return self / 2\ndef f(x): return Real(x)",
        "assert f(3) == 3.0 and f(3).half() == 1.5",
        1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BESIDE)
def test_tests_that_calls_and_plain_values_cannot_express_run_beside_the_program(name: str, sandbox: Sandbox) -> None:
    """As they would in one file, and it is said of the result."""
    source, code, num_tests = BESIDE[name]
    outcome = sandbox.run(program(source, code=code))
    assert (*told(outcome), outcome.in_process) == ("passed", "passed", num_tests, True)


@pytest.mark.parametrize(
    ("source", "code", "kind"),
    [
        ("def f(x): yield x + 1", "assert list(f(1)) == [1]", "wrong_value"),
        ("def f(x): yield 1 / 0", "assert list(f(1)) == [1]", "exception"),
        ("def f(x): return x", "assert f(1) == 1\nassert g(1) == 2", "exception"),
        ("def f(x): yield 1", "assert list(f(1)) == 1 or undefined", "exception"),
        ("import sys\ndef f(x): yield sys.exit(0)", "assert list(f(1)) == []", "exit"),
        ("def f(x):\n    while True: yield 1", "assert list(f(1)) == []", "memory"),
        ("def f(x): x.append(1)", "x = []\nf(x)\nassert x == [2]", "wrong_value"),
        ("def f(x): yield 1", "g = f(1)", "no_test"),
    ],
)
def test_wrong_programs_fail_beside_their_tests(source: str, code: str, kind: str, sandbox: Sandbox) -> None:
    outcome = sandbox.run(program(source, code=code))
    assert (outcome.kind, outcome.in_process) == (kind, True)


def beside(source: str, code: str, names: tuple[str, ...] = ()) -> Program:
    return Program(source, programs.Tests("f", code=code, in_process=True, names=names))


def test_an_identity_is_seen_where_the_tests_are_marked(sandbox: Sandbox) -> None:
    code = "x = [1]\nassert f(x) is x"
    assert told(sandbox.run(beside("def f(x): return x", code)))[1] == "passed"
    assert told(sandbox.run(beside("def f(x): return list(x)", code)))[1] == "wrong_value"


def test_a_builtin_is_pythons_unless_the_tests_are_about_the_programs(sandbox: Sandbox) -> None:
    """MBPP's row 126 redefines `sum`, and its tests mean that one; a program that redefines `len` fools nobody."""
    source = "def sum(a, b): return a * b\ndef len(x): return 3\ndef f(x): return sum(x, 2)"
    assert told(sandbox.run(beside(source, "assert f(3) == 6 == sum(2, 3)", names=("sum",))))[1] == "passed"
    assert told(sandbox.run(beside(source, "assert f(3) == 6 and len([f(1)]) == 1")))[1] == "passed"
    both = Program("def sum(a, b): return a + b", programs.Tests("sum", code="assert sum(10, 15) == 25"))
    assert told(sandbox.run(both)) == ("passed", "passed", 1)


UNITTEST = """
import unittest
class TestF(unittest.TestCase):
    def setUp(self): self.values = [1, 2]
    def test_one(self): self.assertEqual(f(1), 2)
    def test_two(self):
        with self.assertRaises(TypeError): f("a")
    @unittest.skip("not now")
    def test_three(self): self.fail()
"""


def test_test_classes_are_run_and_their_methods_counted(sandbox: Sandbox) -> None:
    assert told(sandbox.run(beside("def f(x): return x + 1", UNITTEST))) == ("passed", "passed", 2)
    assert told(sandbox.run(beside("def f(x): return x", UNITTEST))) == ("failed", "wrong_value", 2)
    assert told(sandbox.run(beside("def f(x): return 1 / 0", UNITTEST))) == ("failed", "exception", 2)
    empty = "import unittest\nclass TestF(unittest.TestCase):\n    def helper(self): pass"
    assert told(sandbox.run(beside("def f(x): return x", empty))) == ("failed", "no_test", 0)


def test_strict_runs_no_test_beside_a_program() -> None:
    with Sandbox(replace(CONFIG, strict=True)) as strict:
        source, code, _ = BESIDE["a generator"]
        assert told(strict.run(program(source, code=code))) == ("failed", "not_plain_data", 0)
        assert told(strict.run(beside(ADD, "assert f(1, 2) == 3"))) == ("failed", "in_process", 0)
        assert told(strict.run(program(ADD, code="assert f(1, 2) == 3"))) == ("passed", "passed", 1)


def script(source: str, *exchanges: tuple[str, str]) -> Program:
    return Program(source, programs.Tests("", exchanges=tuple(Exchange(*exchange) for exchange in exchanges)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "exchanges", "kind", "num_tests"),
    [
        ("print(int(input()) * 2)", [("3\n", "6\n"), ("-1", "-2")], "passed", 2),
        ("print(int(input()) * 2)", [("3\n", "6\n"), ("4", "9"), ("1", "2")], "wrong_value", 2),
        ("import sys\nfor line in sys.stdin: print(line.split()[0], end=' \\n\\n')", [("a b", "a")], "passed", 1),
        ("n = int(open(0).read())\nprint(n / 3)", [("1", "0.333333")], "passed", 1),
        ("print(10**18 + 1)", [("", f"{10**18}")], "wrong_value", 1),
        ("import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read().upper())", [("a\n", "A")], "passed", 1),
        ("if __name__ == '__main__':\n    print('main')", [("", "main\n")], "passed", 1),
        ("import os\nprint('a', flush=True)\nos._exit(0)", [("", "a")], "passed", 1),
        ("print('a')\nexit()", [("", "a")], "passed", 1),
        ("print('a')\nraise SystemExit(3)", [("", "a")], "exit", 1),
        ("print('a')\nx = []\nx[0]", [("", "a")], "exception", 1),
        ("input()\ninput()", [("a", "")], "exception", 1),
        ("import atexit\natexit.register(lambda: print('late'))", [("", "late")], "passed", 1),
        ("x = int(input())\nseen = globals().get('seen', 0) + 1\nprint(seen)", [("1", "1"), ("2", "1")], "passed", 2),
        ("print('a'", [("", "a")], "syntax", 0),
        ("while True: pass", [("", "a")], "timeout", 0),
        ("while True: print('a' * 999)", [("", "a")], "output", 0),
    ],
)  # fmt: skip
def test_whole_programs_are_judged_by_what_they_write(
    source: str, exchanges: list[tuple[str, str]], kind: str, num_tests: int, sandbox: Sandbox
) -> None:
    outcome = sandbox.run(script(source, *exchanges))
    assert (outcome.kind, outcome.num_tests) == (kind, num_tests)
