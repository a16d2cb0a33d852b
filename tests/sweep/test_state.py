"""What is known of a job, and its lock, between processes."""

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ebft.config import stored
from ebft.config.schema import RunFailure
from ebft.sweep import state as states
from ebft.sweep.jobs import Job, folder
from ebft.sweep.state import State, claim, forget, is_claimed, record, state, state_unlocked
from tests.sweep.helpers import ROOT, until

JOB, OTHER = (Job(name, "", {}, 0, ()) for name in ("a", "b"))
HOLDER = """
import subprocess, sys
from pathlib import Path
from ebft.sweep.jobs import Job
from ebft.sweep.state import claim
descriptor = claim(Path(sys.argv[1]), Job("a", "", {}, 0, ()))
child = subprocess.Popen([sys.executable, "-c", "input()"], pass_fds=[descriptor]) if sys.argv[2] == "child" else None
print(descriptor is not None, child and child.pid, flush=True)
input()
"""


def holder(directory: Path, with_child: bool = False) -> tuple[subprocess.Popen[str], str]:
    """A process that claims the job and waits for a line, perhaps with a child that inherits the lock; and whether it
    has it, with the child."""
    command = [sys.executable, "-c", HOLDER, str(directory), "child" if with_child else ""]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def summary(directory: Path, status: str) -> None:
    run = folder(directory, JOB.name)
    run.mkdir(parents=True, exist_ok=True)
    (run / "summary.json").write_text(f'{{"status": "{status}"}}')


# What is known


def test_from_not_started_to_done(tmp_path: Path) -> None:
    assert state(tmp_path, JOB) == State("not started")
    folder(tmp_path, JOB.name).mkdir(parents=True)
    assert state(tmp_path, JOB) == State("interrupted")
    summary(tmp_path, "interrupted")
    assert state(tmp_path, JOB) == State("interrupted")
    summary(tmp_path, "completed")
    assert state(tmp_path, JOB) == State("done")
    assert state(tmp_path, OTHER) == State("not started")


def test_asking_writes_nothing(tmp_path: Path) -> None:
    state(tmp_path, JOB)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["failed", "stopped"])
def test_a_record_is_kept_and_forgotten(tmp_path: Path, kind: str) -> None:
    summary(tmp_path, "failed")
    record(tmp_path, JOB, kind, "first")
    record(tmp_path, JOB, kind, 'the loss is "nan" — é')
    assert state(tmp_path, JOB) == state_unlocked(tmp_path, JOB) == State(kind, 'the loss is "nan" — é')
    assert state(tmp_path, OTHER) == State("not started")
    forget(tmp_path, JOB)
    assert state(tmp_path, JOB) == State("interrupted")
    forget(tmp_path, JOB)


def test_a_result_counts_more_than_a_record(tmp_path: Path) -> None:
    """As of a run that was completed by hand after it had failed in the sweep."""
    record(tmp_path, JOB, "failed", "no memory")
    summary(tmp_path, "completed")
    assert state(tmp_path, JOB) == State("done")


def test_a_claimed_job_is_running_whatever_it_was_unless_it_is_done(tmp_path: Path) -> None:
    record(tmp_path, JOB, "failed", "no memory")
    descriptor = claim(tmp_path, JOB)
    assert descriptor is not None
    assert state(tmp_path, JOB) == State("running")
    assert state_unlocked(tmp_path, JOB) == State("failed", "no memory")
    summary(tmp_path, "completed")
    assert state(tmp_path, JOB) == State("done")
    os.close(descriptor)


def test_a_summary_that_vanishes_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run removes it when it goes on. The sweep that looked in that moment once ended in a traceback."""
    summary(tmp_path, "interrupted")
    text_of = stored.text_of

    def too_late(path: Path) -> str:
        path.unlink(missing_ok=True)
        return text_of(path)

    monkeypatch.setattr(states, "text_of", too_late)
    assert state(tmp_path, JOB) == State("interrupted")
    record(tmp_path, JOB, "failed", "forgotten by another sweep in the same moment")
    assert state(tmp_path, JOB) == State("interrupted")


# Locks


@pytest.mark.slow
def test_a_job_is_one_process_s_at_a_time(tmp_path: Path) -> None:
    assert not is_claimed(tmp_path, JOB)
    first, has_it = holder(tmp_path)
    assert has_it == "True None"
    second, has_it_too = holder(tmp_path)
    assert has_it_too == "False None"
    assert claim(tmp_path, JOB) is None
    assert is_claimed(tmp_path, JOB)
    assert state(tmp_path, JOB) == State("running")
    other = claim(tmp_path, OTHER)
    assert other is not None
    os.close(other)
    second.communicate("\n")
    assert is_claimed(tmp_path, JOB)
    first.communicate("\n")
    mine = claim(tmp_path, JOB)
    assert mine is not None
    os.close(mine)
    assert state(tmp_path, JOB) == State("not started")


def test_a_killed_process_leaves_no_lock_behind(tmp_path: Path) -> None:
    process, has_it = holder(tmp_path)
    assert has_it == "True None"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / "locks" / "a").exists()
    assert not is_claimed(tmp_path, JOB)


def test_a_lock_is_held_until_the_run_has_ended_whose_sweep_was_killed(tmp_path: Path) -> None:
    process, told = holder(tmp_path, with_child=True)
    child = int(told.removeprefix("True "))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert claim(tmp_path, JOB) is None
    os.kill(child, signal.SIGKILL)
    until(lambda: not is_claimed(tmp_path, JOB))
    process.communicate()


def test_asking_twice_at_once_is_no_claim(tmp_path: Path) -> None:
    """`mode=status` of two people at a time."""
    descriptor = claim(tmp_path, JOB)
    assert descriptor is not None
    os.close(descriptor)
    with (tmp_path / "locks" / "a").open() as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        assert not is_claimed(tmp_path, JOB)


def test_a_sweep_that_may_only_be_read_can_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's, whose locks this user may not write: it once ended in a traceback."""
    descriptor = claim(tmp_path, JOB)
    assert descriptor is not None
    os_open = os.open

    def only_for_reading(path: Path, flags: int, mode: int = 0o777) -> int:
        assert flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) == 0
        return os_open(path, flags, mode)

    monkeypatch.setattr(os, "open", only_for_reading)
    assert is_claimed(tmp_path, JOB)
    os.close(descriptor)
    assert not is_claimed(tmp_path, JOB)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "7", '{"status": 3}', "{}", "[" * 3000, b"\xff".decode("latin1")], ids=repr
)
def test_a_damaged_file_marks_its_run_and_no_other(tmp_path: Path, content: str) -> None:
    """The whole sweep once could not be read."""
    summary(tmp_path, "completed")
    (folder(tmp_path, JOB.name) / "summary.json").write_text(content, encoding="latin1")
    assert state(tmp_path, JOB) == State(
        "failed",
        f"{tmp_path}/runs/a/summary.json is damaged; remove it, and the run goes on from its newest checkpoint",
    )
    assert state(tmp_path, OTHER) == State("not started")
    (folder(tmp_path, JOB.name) / "summary.json").unlink()
    record(tmp_path, JOB, "failed", "why")
    (tmp_path / "records" / "a.json").write_text(content, encoding="latin1")
    assert state(tmp_path, JOB).note.startswith(f"{tmp_path}/records/a.json is damaged; remove it")


def test_a_file_system_without_locks_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    before = os.listdir("/proc/self/fd") if sys.platform == "linux" else []
    monkeypatch.setattr(fcntl, "flock", refuse)
    sentence = (
        f"{tmp_path}/locks/a cannot be locked (No locks available); put sweep.dir on a file system that has locks."
    )
    with pytest.raises(RunFailure, match=f"^{re.escape(sentence)}$"):
        claim(tmp_path, JOB)
    with pytest.raises(RunFailure, match=f"^{re.escape(sentence)}$"):
        states.is_claimed(tmp_path, JOB)
    assert before == [] or len(os.listdir("/proc/self/fd")) == len(before)
