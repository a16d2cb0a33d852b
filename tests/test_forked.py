"""What a forked process finds is what a fresh interpreter finds, and it is its parent's child as any other."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.forked import ROOT, children

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="needs a subreaper")]

PROBE = [sys.executable, "-P", "-m", "tests.start_probe"]
SLEEPER = [sys.executable, "-m", "tests.start_probe", "sleep"]


@pytest.fixture(autouse=True)
def tests_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}/nowhere")


def told(start: type[subprocess.Popen[str]], **options: Any) -> tuple[dict[str, Any], str, int]:
    """What a probe says, its last line of error output, and its exit code."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with start([*PROBE, "one two", "", "fail"], text=True, **pipes, **options) as process:
        out, errors = process.communicate("what it reads")
    return json.loads(out), errors.splitlines()[-1], process.returncode


@pytest.mark.parametrize("options", [{}, {"start_new_session": True}, {"process_group": 0, "umask": 0o77}])
def test_a_fork_finds_what_a_fresh_interpreter_finds(tmp_path: Path, options: dict[str, Any]) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "w"):
        passed = {"pass_fds": [reading], "cwd": tmp_path, "env": {**os.environ, "OMP_NUM_THREADS": "2"}}
        fresh, fork, other = (told(start, **passed, **options) for start in (forked.ORIGINAL, *[forked.Popen] * 2))
    assert fork[0]["found"] == fresh[0]["found"]
    assert fork[0]["found"]["parent"] == os.getpid()
    assert fork[1:] == fresh[1:] == ("ZeroDivisionError: as asked", 1)
    assert all(mine != theirs for mine, theirs in zip(fork[0]["random"], other[0]["random"], strict=True))


def test_a_signal_ends_it() -> None:
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
        with subprocess.Popen(SLEEPER, text=True, **pipes) as process:
            assert isinstance(process, forked.Popen)
            assert process.stdout is not None
            assert process.stdout.readline() == "asleep\n"
            assert process.pid in children(os.getpid())
            process.send_signal(number)
            _, errors = process.communicate()
        if number == signal.SIGINT:
            assert errors.endswith("KeyboardInterrupt\n")
        else:
            assert (process.returncode, errors) == (-number, "")


def test_a_fork_s_own_processes_are_forked_and_its_children() -> None:
    """Its own server is not among them, and ends with it."""
    with subprocess.Popen([*SLEEPER, "beside another"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = process.stdout.readline().strip()
        assert children(process.pid) == [int(pid)]
        assert process.stdout.readline() == "asleep\n"
        everyone = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(everyone) == 2
        os.kill(int(pid), signal.SIGKILL)
        process.kill()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() and is_running(int(pid)) for pid in everyone):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize(
    ("command", "module"),
    [
        (["-m", "ebft.cli.train", "-u"], "ebft.cli.train"),
        (["-P", "-u", "-m", "tests.start_probe"], "tests.start_probe"),
        (["-W", "error", "-m", "ebft.cli.train"], None),
        (["-I", "-m", "ebft.cli.train"], None),
        (["-c", "import ebft"], None),
        (["-m", "http.server"], None),
        (["-m"], None),
    ],
)
def test_what_may_be_forked(command: list[str], module: str | None) -> None:
    assert forked.module_of([sys.executable, *command]) == module
    assert forked.module_of(["/bin/python", *command]) is None


def kind() -> str:
    return subprocess.run([*PROBE, "kind"], capture_output=True, text=True, check=True).stdout


def test_variables_that_imports_read_need_an_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kind() == "tests.forked.Popen\n"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert kind() == "subprocess.Popen\n"


@pytest.mark.usefixtures("fresh_interpreters")
def test_a_test_may_ask_for_interpreters() -> None:
    assert kind() == "subprocess.Popen\n"


def test_a_server_with_a_thread_of_its_own_does_not_fork() -> None:
    code = (
        "import socket, threading; from tests import forked; mine, theirs = socket.socketpair();"
        "threading.Thread(target=threading.Event().wait, daemon=True).start();"
        "mine.sendall(bytes(4)); forked.answer(theirs)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert "AssertionError: " in done.stderr
