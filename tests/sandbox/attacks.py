"""Programs that mean harm. Each returns True if its attack succeeded, and True is what its test expects: an attack that
passes has worked.

Cheats are the exception: their tests expect what only an honest program would say. With each attack stand the kinds of
failure it may meet.
"""

from dataclasses import dataclass, replace

from ebft.sandbox.programs import Case, Program, Tests

SUCCEEDED = Tests("f", cases=(Case((), True),))
ADD_CASES = Tests("f", cases=(Case((2000003, 4000037), 6000040), Case((2, 3), 5)))
ADD_CODE = Tests("f", code="assert f(2000003, 4000037) == 6000040\nassert candidate(2, 3) == 5")
ADD_BESIDE = replace(ADD_CODE, in_process=True)
ADD_CLASS = """
import unittest
class TestF(unittest.TestCase):
    def test_f(self):
        self.assertEqual(f(2000003, 4000037), 6000040)
        self.assertIn(f(2, 3), [5])
        self.assertAlmostEqual(f(2.0, 3.0), 5.0)
"""


@dataclass(frozen=True)
class Attack:
    program: Program
    kinds: frozenset[str]


def attack(source: str, *kinds: str, tests: Tests = SUCCEEDED) -> Attack:
    return Attack(Program(source, tests), frozenset(kinds))


def attempt(statements: str, result: str = "True", imports: str = "os, sys") -> str:
    """A program that tries the statements and says whether it got through them."""
    body = "\n".join(f"    {line}" for line in statements.splitlines())
    return f"import {imports}\ndef f():\n{body}\n    return {result}\n"


FLOODS = {
    "endless loop": attack(attempt("while True: pass"), "timeout"),
    "endless loop while it loads": attack("while True: pass", "timeout"),
    "endless sleep": attack(attempt("time.sleep(1000)", imports="time"), "timeout"),
    "sleep that ignores every signal": attack(
        attempt(
            "for number in range(1, 65):\n    try: signal.signal(number, signal.SIG_IGN)\n    except (OSError, "
            "ValueError): pass\ntime.sleep(1000)",
            imports="signal, time",
        ),
        "timeout",
    ),
    "error that never finishes its own message": attack(
        "class E(Exception):\n    args = [object()]\n    def __str__(self):\n        while True: pass\ndef f(): raise E", "timeout"
    ),
    "fork bomb": attack(attempt("while True: os.fork()"), "forbidden"),
    "fork bomb through the C library": attack(attempt("libc = ctypes.CDLL(None)", "libc.fork() >= 0 or libc.vfork() >= 0", "ctypes"), "wrong_value"),
    "another program": attack(attempt("subprocess.run([sys.executable, '-c', ''])", imports="subprocess, sys"), "forbidden", "exception"),
    "execution in place": attack(attempt("os.execv('/bin/sh', ['sh'])"), "forbidden", "exception"),
    "daemon": attack(attempt("if os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\nwhile True: pass"), "forbidden"),
    "thread bomb": attack(
        attempt("while True: threading.Thread(target=time.sleep, args=(1000,)).start()", imports="threading, time"), "exception", "forbidden"
    ),
    "memory flood": attack(attempt("data = []\nwhile True: data.append(bytearray(1 << 20))"), "memory", "exit"),
    "memory flood at once": attack(attempt("data = bytearray(1 << 40)"), "memory"),
    "memory flood by a number": attack(attempt("data = 1 << (1 << 40)"), "memory"),
    "memory in a nameless file": attack(attempt("os.memfd_create('flood')"), "forbidden"),
    "disk flood in one file": attack(attempt("with open('flood', 'wb') as file:\n    while True: file.write(bytes(1 << 16))"), "output"),
    "disk flood in many files": attack(
        attempt("for number in range(1 << 40):\n    with open(str(number), 'wb') as file: file.write(bytes(1 << 16))"), "output"
    ),
    "flood of empty files": attack(attempt("for number in range(1 << 40): open(str(number), 'wb').close()"), "output"),
    "flood of folders": attack(attempt("for number in range(1 << 40):\n    os.mkdir('d')\n    os.chdir('d')"), "forbidden"),
    "output flood": attack(attempt("while True: print('flood' * 1000)"), "timeout"),
    "output flood to every descriptor": attack(
        attempt("while True:\n    for number in range(32):\n        try: os.write(number, b'9' * 1000)\n        except OSError: pass"),
        "output", "timeout", "not_plain_data", "exception",
    ),
    "flood of an answer": attack("def f(): return 'x' * 10_000_000", "output"),
    "flood in an error": attack("def f(): raise ValueError('x' * 10_000_000)", "output"),
    "deep recursion": attack("import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()", "memory", "exit", "exception", "timeout"),
    "deep recursion in C": attack(
        "import sys\nsys.setrecursionlimit(10**9)\ndef f():\n    x = []\n    for _ in range(10**6): x = [x]\n    "
        "return repr(x) and True",
        "exit", "memory", "timeout",
    ),
    "answer that contains itself": attack("def f():\n    x = []\n    x.append(x)\n    return x", "not_plain_data"),
    "endless generator": attack("def f():\n    while True: yield True", "not_plain_data"),
}  # fmt: skip

TRESPASSES = {
    "reading the list of users": attack(attempt("open('/etc/passwd').read()"), "forbidden", "exception"),
    "reading the repository": attack(attempt(f"open({__file__!r}).read()"), "forbidden", "exception"),
    "importing the repository": attack(attempt("from ebft import blocks"), "forbidden", "exception"),
    "listing the root": attack(attempt("os.listdir('/')"), "forbidden"),
    "climbing out of its folder": attack(attempt("os.listdir('..')"), "forbidden"),
    "reading another's memory": attack(attempt("open(f'/proc/{os.getppid()}/mem', 'rb')"), "forbidden", "exception"),
    "reading another's environment": attack(attempt("open(f'/proc/{os.getppid()}/environ', 'rb')"), "forbidden", "exception"),
    "writing outside": attack(attempt("open('/tmp/ebft-attack', 'w')"), "forbidden"),
    "writing into the library": attack(attempt("open(os.__file__, 'a')"), "forbidden", "exception"),
    "emptying the library": attack(attempt("os.open(random.__file__, os.O_TRUNC)", imports="os, random"), "forbidden", "exception"),
    "removing from the library": attack(attempt("os.unlink(os.__file__)"), "forbidden", "exception"),
    "changing a mode": attack(attempt("os.chmod('.', 0)"), "forbidden"),
    "changing times": attack(attempt("os.utime(os.__file__)"), "forbidden"),
    "linking": attack(attempt("os.symlink('/etc', 'etc')"), "forbidden"),
    "reading the environment": attack(attempt("pass", "len(os.environ) > 0"), "wrong_value"),
    "a network connection": attack(attempt("socket.create_connection(('127.0.0.1', 22))", imports="socket"), "forbidden", "exception"),
    "listening": attack(attempt("socket.create_server(('', 0))", imports="socket"), "forbidden"),
    "a datagram socket": attack(attempt("socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)", imports="socket"), "forbidden"),
    "signalling the parent": attack(attempt("os.kill(os.getppid(), 9)"), "forbidden"),
    "signalling all": attack(attempt("os.kill(-1, 9)"), "forbidden"),
    "signalling its group": attack(attempt("os.killpg(0, 9)"), "forbidden"),
    "having the kernel signal the parent": attack(
        attempt("fcntl.fcntl(0, 8, os.getppid())", imports="fcntl, os"), "forbidden"  # F_SETOWN
    ),
    "tracing": attack(attempt("libc = ctypes.CDLL(None)", "libc.ptrace(16, os.getppid(), 0, 0) == 0", "ctypes, os"), "wrong_value"),
    "a namespace of its own": attack(attempt("libc = ctypes.CDLL(None)", "libc.unshare(0x10000000) == 0", "ctypes"), "wrong_value"),
    "raising its own limits": attack(attempt("resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", imports="resource"), "forbidden", "exception"),
}  # fmt: skip

WRITE = """
import json, os
def write(content):
    for number in range(3, 32):
        try: os.write(number, content)
        except OSError: pass
def send(*message):
    content = json.dumps(message).encode()
    write(len(content).to_bytes(4, "big") + content)
"""
EQUAL_TO_ALL = "class Any:\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n    def __hash__(self): return 0\n"
PATCHES = """
import builtins, json, math, sys
for name in ("all", "any", "isinstance", "len", "bool"):
    setattr(builtins, name, lambda *_: True)
builtins.AssertionError = builtins.type("AssertionError", (Exception,), {"__init__": lambda *_: None})
for module in list(sys.modules.values()):
    for name in ("same", "isclose", "dumps", "loads", "encode", "decode"):
        if name in vars(module):
            setattr(module, name, lambda *_, **__: True)
def f(a, b): return 0
"""
SEARCH = """
import gc, sys
def values():
    for owner in gc.get_objects():
        yield from list(owner.values() if isinstance(owner, dict) else owner if isinstance(owner, list) else ())
    frame = sys._getframe()
    while frame is not None:
        yield from list(frame.f_locals.values())
        frame = frame.f_back
def f(a, b):
    return a + b if any(str(6000 * 1000 + 40) in value if isinstance(value, str) else value == 6000 * 1000 + 40 for value in values()) else None
"""


def cheats(tests: Tests, kind: str) -> dict[str, Attack]:
    """Programs that cannot add, and mean to pass nevertheless."""
    return {
        f"{name}, against {kind}": attack(source, *kinds, tests=tests)
        for name, source, *kinds in [
            ("leaving with success", "import os\ndef f(a, b): os._exit(0)", "exit"),
            ("leaving with success while it loads", "import os\nos._exit(0)", "exit"),
            ("sys.exit", "import sys\ndef f(a, b): sys.exit(0)", "exit"),
            ("printing success", "def f(a, b): print('passed', '{\"passed\": true}', 'OK', sep='\\n')", "wrong_value"),
            ("a value that equals all", f"{EQUAL_TO_ALL}def f(a, b): return Any()", "not_plain_data", "wrong_value"),
            ("a number that equals all", f"{EQUAL_TO_ALL}class N(Any, int): pass\ndef f(a, b): return N()", "not_plain_data", "wrong_value"),
            ("a list of such values", f"{EQUAL_TO_ALL}def f(a, b): return [Any()]", "not_plain_data", "wrong_value"),
            ("patched builtins and modules", PATCHES, "wrong_value", "not_plain_data", "exit", "exception"),
            ("closing descriptors", "import os\ndef f(a, b): os.closerange(0, 64)", "exit"),
            ("closing descriptors and staying", "import os\nos.closerange(0, 64)\nwhile True: pass", "exit"),
            ("claiming to have passed", f"{WRITE}\ndef f(a, b): send('passed'); send('done', '', 99)", "not_plain_data", "exception"),
            ("failing by the kind `passed`", f"{WRITE}\ndef f(a, b): send('failed', 'passed'); send('failed', 'passed', 99)", "exception"),
            ("raising the kind `passed`", f"{WRITE}\ndef f(a, b): send('raised', 'passed', [], [])", "exception"),
            ("answering before it is asked", f"{WRITE}\nsend('loaded')\nfor _ in range(9): send('value', 0)\ndef f(a, b): return 0", "wrong_value", "exception"),
            ("an answer that is no JSON", f"{WRITE}\ndef f(a, b): write(bytes([0, 0, 0, 3]) + b'{{]}}')", "not_plain_data"),
            ("an answer nested beyond reading", f"{WRITE}\ndef f(a, b): write(bytes([0, 3, 13, 64]) + b'[' * 200_000)", "not_plain_data"),
            ("an answer that never ends", f"{WRITE}\ndef f(a, b):\n    write(bytes([0, 0, 255, 255]))\n    while True: pass", "timeout"),
            ("looking for the right values", SEARCH, "wrong_value"),
            ("an end of iteration", "def f(a, b): raise StopIteration", "exception"),
            ("an assertion of its own", "def f(a, b): raise AssertionError", "exception", "wrong_value"),
            ("null bytes", "def f(a, b): return a + b\n\0", "syntax"),
            ("a lone surrogate", "def f(a, b): return a + b  # \ud800", "syntax"),
            ("a name that only looks right", "def \u0192(a, b): return a + b", "no_entry_point"),
            ("nothing", "", "no_entry_point"),
            ("no function", "f = 5", "no_entry_point", "exception"),
        ]
    }  # fmt: skip


SHADOW = """
with open("math.py", "w") as file:
    file.write("def floor(x): return 5")
import sys, types
sys.modules["math"] = types.SimpleNamespace(floor=lambda x: 5)
def f(a, b): return 0.5
"""
STOPPING = "calls = []\ndef f(a, b):\n    calls.append(a)\n    if len(calls) > 1: raise StopIteration\n    return a + b"
LOOPING_TESTS = Tests(
    "f", code="for value, right in zip(map(f, [2, 20], [3, 30]), [5, 50]):\n    assert value == right"
)

# Against tests that run in the program's own process. What it does while it loads does not help it.
BESIDE = {
    f"{name}, beside": attack(f"{source}\ndef f(a, b): return 0", "wrong_value", "exception", "exit", tests=tests)
    for name, source, tests in [
        ("a module that shadows the test's", SHADOW, Tests("f", code="import math\nassert math.floor(f(2, 3)) == 5", in_process=True)),
        ("a patched method of unittest", "import unittest\nunittest.TestCase.assertEqual = lambda *_: None", Tests("f", code=ADD_CLASS, in_process=True)),
        ("a patched runner of unittest", "import unittest\nunittest.TestResult.wasSuccessful = lambda *_: True", Tests("f", code=ADD_CLASS, in_process=True)),
        ("a loader that finds other tests", "import unittest\nunittest.TestLoader.loadTestsFromTestCase = lambda *_: unittest.TestSuite()", Tests("f", code=ADD_CLASS, in_process=True)),
        ("a global like a builtin", "def len(x): return 5\ndef isinstance(*_): return True", Tests("f", code="assert len([f(2, 3)]) == 5 and isinstance(f(2, 3), str)", in_process=True)),
        ("a check of its own", "def check(f): pass\n_ebft_compare = lambda *_: True", Tests("f", code="def check(c):\n    assert c(2, 3) == 5\ncheck(f)", in_process=True)),
        ("a patched way to send", "import json, socket\njson.dumps = lambda *_: '[\"done\", \"\", 9]'\nsocket.socket.send = None", ADD_BESIDE),
        ("a patched exit", "import os\nos._exit = lambda *_: None", ADD_BESIDE),
    ]
} | {
    f"{name} that equals all, in a test class": attack(f"{EQUAL_TO_ALL}{source}", "wrong_value", tests=Tests("f", code=ADD_CLASS, in_process=True))
    for name, source in [("a value", "def f(a, b): return Any()"), ("a number", "class N(Any, float): pass\ndef f(a, b): return N()")]
}  # fmt: skip

ATTACKS = {
    **FLOODS,
    **TRESPASSES,
    **cheats(ADD_CASES, "cases"),
    **cheats(ADD_CODE, "code"),
    **cheats(ADD_BESIDE, "code beside"),
    **BESIDE,
    "a module that shadows the test's": attack(
        SHADOW, "wrong_value", tests=Tests("f", code="import math\nassert math.floor(f(2, 3)) == 5")
    ),
    "ending the test's loop early": attack(STOPPING, "exception", tests=LOOPING_TESTS),
    "a value that passes by `in`": attack(
        f"{EQUAL_TO_ALL}def f(a, b): return Any()", "wrong_value", tests=Tests("f", code="assert f(2, 3) in [5]")
    ),
}
