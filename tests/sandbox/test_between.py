"""Nothing crosses from a program to the next one of the same worker: a text that was submitted ten times once guessed
its way to a reward, by what it had left behind."""

import signal
import time
from dataclasses import replace

import pytest

from ebft.sandbox import Sandbox, levels
from ebft.tasks import Question, UnitTests
from tests.sandbox.helpers import CONFIG, program

ALL = levels.PARTS
LEVELS = [levels.PARTS, levels.PARTS[:3], levels.PARTS[:1], ()]
HONEST = program("def f(x): return x", ((1,), 1))


def by(number: str) -> str:
    """A program that gives the number, which would be another one the next time, as its answer."""
    return f"import fcntl, os, signal, sys, tempfile, threading\ndef f():\n    {number}\n"


# Each is asked for the answer that it gave the first time.
FLAGS = {
    f"flags of descriptor {number}": by(
        f"flags = fcntl.fcntl({number}, fcntl.F_GETFL)\n"
        f"    fcntl.fcntl({number}, fcntl.F_SETFL, flags ^ os.O_NONBLOCK ^ os.O_APPEND)\n    return flags"
    )
    for number in (0, 1, 2)
} | {
    f"place in descriptor {number}": by(
        f"place = os.lseek({number}, 0, os.SEEK_CUR)\n    os.lseek({number}, place + 1, os.SEEK_SET)\n    return place"
    )
    for number in (0, 1, 2)
}
ELSEWHERE = {
    "signals that are ignored": by(
        "found = [int(signal.getsignal(n)) for n in (12, 10)]\n    signal.signal(12, signal.SIG_IGN)\n    return found"
    ),
    "priority": by("before = os.nice(0)\n    os.nice(1)\n    return before"),
    "umask": by("return os.umask(os.umask(0) ^ 0o22)"),
    "modules": by("found = hasattr(os, 'mine')\n    os.mine = 1\n    return found"),
    "environment": by("found = os.environ.get('mine')\n    os.environ['mine'] = '1'\n    return found"),
    "what it can read of its folder": by("found = os.listdir('.')\n    open('mine', 'w').close()\n    return found"),
    "inherited descriptors": by("before = os.dup(0)\n    return before"),
}
NUMBERS = {
    "numbers of files": by("open('a', 'w').close()\n    return [os.stat(name).st_ino for name in ('.', 'a')]"),
    "numbers of many files": by(
        "for n in range(9):\n        open('a', 'w').close()\n        number = os.stat('a').st_ino\n"
        "        os.unlink('a')\n    return number"
    ),
    "the name of its folder": by("return os.getcwd()"),
    "its own number": by("return [os.getpid(), os.getppid()]"),
    "the number of a child thread": by(
        "return threading.get_native_id()",
    ),
    "room on its disk": by(
        "left = os.statvfs('.').f_bfree\n    open('a', 'w').write('a' * 70000)\n    return left - left % 16"
    ),
    "number of nameless files": by("file = tempfile.TemporaryFile(dir='.')\n    return os.fstat(file.fileno()).st_ino"),
}


def verdicts(sandbox: Sandbox, source: str) -> list[list[str]]:
    """Verdicts of programs each of which passes where a bit of what it sees is set, all submitted four times."""
    bits = range(6)
    wrapped = source.replace("def f():", "def g():") + (
        "import zlib\ndef f(bit):\n    return zlib.crc32(repr(g()).encode()) >> bit & 1\n"
    )
    return [[sandbox.run(program(wrapped, ((bit,), 1))).kind for bit in bits] for _ in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize("parts", LEVELS, ids=lambda parts: levels.level(parts))
def test_the_same_program_gets_the_same_verdict(parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "PARTS", parts)
    programs = FLAGS | ELSEWHERE | (NUMBERS if parts == ALL else {})
    with Sandbox(replace(CONFIG, workers=1)) as sandbox:
        if sandbox.level != levels.level(parts):
            pytest.skip(f"this machine reaches {sandbox.level}")
        for name, source in programs.items():
            first, *others = verdicts(sandbox, source)
            assert others == [first] * 3, name
            assert set(first) <= {"passed", "wrong_value"} or set(first) == {first[0]}, name
        assert sandbox.run(HONEST).kind == "passed"


CLOCKS = {
    "the clock": by("import time\n    return time.time_ns()"),
    "chance": by("return os.urandom(8)"),
    "numbers of pipes": by("return os.fstat(os.pipe()[0]).st_ino"),
}


@pytest.mark.slow
@pytest.mark.parametrize("parts", LEVELS, ids=lambda parts: levels.level(parts))
def test_a_text_has_one_verdict_however_often_it_is_submitted(
    parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where what a program sees is another thing each time, the verifier remembers what became of it."""
    monkeypatch.setattr(levels, "PARTS", parts)
    question = Question("f", "", "", "row 1", program("", ((), True)).tests)
    guesses = "import zlib\ndef f(): return zlib.crc32(repr(g()).encode()) % 2 == 0\n"
    texts = [source.replace("def f():", "def g():") + guesses for source in (NUMBERS | CLOCKS).values()]
    with Sandbox(replace(CONFIG, workers=1)) as sandbox:
        verifier = UnitTests(sandbox)
        for text in texts:
            first = verifier.verify(text, question)
            assert verifier.verify_all([text] * 9, [question] * 9) == [first] * 9, text


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP], ids=lambda number: number.name)
def test_a_program_that_stops_its_parent_fails_at_once(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Where no filter is in its way. It once took two minutes and was our error, which is masked from the loss."""
    monkeypatch.setattr(levels, "PARTS", levels.PARTS[:1])
    stopping = f"import os\ndef f():\n    os.kill(os.getppid(), {int(number)})\n    while True: pass"
    with Sandbox(replace(CONFIG, workers=1)) as sandbox:
        started = time.monotonic()
        outcomes = sandbox.run_all([program(stopping, ((), True)), HONEST])
        assert [(outcome.status, outcome.kind) for outcome in outcomes] == [
            ("failed", "forbidden" if number == signal.SIGSTOP else "timeout"),
            ("passed", "passed"),
        ]
        assert time.monotonic() - started < 20
