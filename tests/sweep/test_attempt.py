"""One attempt at a job, with a stand-in for the run: its lock, its log and what is recorded of its end."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ebft.config.schema import UserError
from ebft.sweep import attempt
from ebft.sweep import state as states
from ebft.sweep.attempt import Attempt, AttemptResult, last_line, perform
from ebft.sweep.jobs import Job, folder
from ebft.sweep.state import State
from tests.sweep.helpers import ROOT, diary, is_alive, until

LONG = "steps=100000"


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "CHILD", "tests.sweep.stand_in")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def job(*overrides: str) -> Job:
    return Job("a", "", {}, 0, overrides)


def start(directory: Path, *overrides: str) -> Attempt:
    """An attempt that is under way."""
    started = Attempt.start(directory, job(*overrides), {})
    assert isinstance(started, Attempt)
    until(lambda: (folder(directory, "a") / "saved").exists() or not started.is_running())
    return started


def end(started: Attempt) -> AttemptResult:
    until(lambda: not started.is_running())
    outcome = started.poll()
    assert outcome is not None
    return outcome


@pytest.mark.slow
def test_a_run_that_ends_is_done_and_its_lock_free(tmp_path: Path) -> None:
    started = start(tmp_path, "steps=3")
    assert end(started) == AttemptResult("done")
    assert states.state(tmp_path, job()) == State("done")
    assert not states.is_claimed(tmp_path, job())
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize("name", ["runs", "runs/a", "logs", "logs/a.log", "locks", "locks/a"])
def test_nothing_starts_where_a_link_would_lead_it_elsewhere(tmp_path: Path, name: str) -> None:
    path, elsewhere = tmp_path / "sweep" / name, tmp_path / "elsewhere"
    path.parent.mkdir(parents=True)
    path.symlink_to(elsewhere)
    for there in (False, True):
        if there:
            elsewhere.mkdir() if name in ("runs", "runs/a", "logs", "locks") else elsewhere.touch()
        with pytest.raises(UserError, match=rf"sweep/{name} is a link, and nothing is written through it"):
            Attempt.start(tmp_path / "sweep", job("steps=3"), {})
    assert elsewhere.is_file() or not list(elsewhere.iterdir())


def test_while_it_runs_it_is_nobody_else_s(tmp_path: Path) -> None:
    started = start(tmp_path, LONG)
    assert (started.poll(), started.is_running()) == (None, True)
    assert states.state(tmp_path, job()) == State("running")
    assert Attempt.start(tmp_path, job(), {}) == AttemptResult("running")
    started.kill()
    end(started)


def test_a_stopped_run_saves_and_is_interrupted(tmp_path: Path) -> None:
    started = start(tmp_path, LONG)
    started.stop()
    assert end(started) == AttemptResult("interrupted", "interrupted")
    assert states.state(tmp_path, job()) == State("interrupted")
    assert [what for *_, what in diary(tmp_path)] == ["start 0", "interrupted"]


@pytest.mark.slow
def test_a_killed_run_is_interrupted_and_goes_on(tmp_path: Path) -> None:
    started = start(tmp_path, LONG)
    started.kill()
    assert end(started) == AttemptResult("interrupted", "killed by SIGKILL")
    assert states.state(tmp_path, job()) == State("interrupted")
    saved = int((folder(tmp_path, "a") / "saved").read_text())
    assert perform(tmp_path, job(f"steps={saved + 1}"), {}) == AttemptResult("done")
    assert [what for *_, what in diary(tmp_path)][1:] == [f"start {saved}", "completed"]


@pytest.mark.slow
def test_a_failure_is_on_record_with_its_sentence_and_is_not_repeated(tmp_path: Path) -> None:
    outcome = AttemptResult("failed", f"optimizer.lr=-1 must be above 0. (exit code 2, {tmp_path}/logs/a.log)")
    assert perform(tmp_path, job("fail=1"), {}) == outcome
    assert states.state(tmp_path, job()) == State(outcome.kind, outcome.note)
    assert perform(tmp_path, job("fail=1"), {}) == outcome
    assert len(diary(tmp_path)) == 1
    states.forget(tmp_path, job())
    assert perform(tmp_path, job("fail=1"), {}) == AttemptResult("done")
    assert "must be above 0" in (tmp_path / "logs" / "a.log").read_text()


@pytest.mark.slow
def test_a_file_of_the_users_with_the_name_of_a_module_disturbs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python would look for modules in the folder where the sweep is started, where a user's own files are."""
    (tmp_path / "json.py").write_text("raise RuntimeError('mine')\n")
    monkeypatch.chdir(tmp_path)
    assert perform(tmp_path, job("steps=1"), {}).kind == "done"


@pytest.mark.parametrize("kind", ["failed", "stopped"])
def test_what_has_ended_is_not_started(tmp_path: Path, kind: str) -> None:
    states.record(tmp_path, job(), kind, "why")
    assert Attempt.start(tmp_path, job(), {}) == AttemptResult(kind, "why")
    assert not states.is_claimed(tmp_path, job())
    assert diary(tmp_path) == []


@pytest.mark.slow
def test_a_run_that_was_stopped_early_says_so_however_it_ended(tmp_path: Path) -> None:
    started = start(tmp_path, LONG)
    states.record(tmp_path, job(), states.STOPPED, "stopped early at step 3")
    started.stop()
    assert end(started) == AttemptResult("stopped", "stopped early at step 3")


@pytest.mark.slow
def test_performing_ends_when_the_run_is_stopped_early(tmp_path: Path) -> None:
    """On a machine that the sweep cannot reach but through the folder."""
    ended: list[AttemptResult] = []
    thread = threading.Thread(target=lambda: ended.append(perform(tmp_path, job(LONG), {})))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            attempt, "PARENT", "NOBODY_S_PROCESS"
        )  # the kernel's signal is for the thread that started a process
        patch.setenv("EBFT_SWEEP_PROCESS", str(os.getpid()))
        thread.start()
        until(lambda: (folder(tmp_path, "a") / "saved").exists())
        states.record(tmp_path, job(), states.STOPPED, "stopped early at step 3")
        thread.join()
    assert ended == [AttemptResult("stopped", "stopped early at step 3")]
    assert diary(tmp_path)[-1][2] == "interrupted"


@pytest.mark.slow
def test_performing_waits_for_the_earlier_process_to_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = states.claim(tmp_path, job())
    assert descriptor is not None
    asked: list[float] = []

    def sleep(seconds: float) -> None:
        asked.append(seconds)
        if len(asked) == 3:
            os.close(descriptor)
        threading.Event().wait(0.01)

    monkeypatch.setattr(attempt.time, "sleep", sleep)
    assert perform(tmp_path, job("steps=1"), {}) == AttemptResult("done")
    assert len(asked) > 3


def test_performing_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "SAVING_SECONDS", 0.0)
    descriptor = states.claim(tmp_path, job())
    assert descriptor is not None
    assert perform(tmp_path, job(), {}) == AttemptResult("running")
    os.close(descriptor)


SWEEP = """
import sys, time
from pathlib import Path
from ebft.sweep import attempt
from ebft.sweep.jobs import Job
attempt.CHILD = "tests.sweep.stand_in"
attempt.Attempt.start(Path(sys.argv[1]), Job("a", "", {}, 0, ("steps=100000",)), {})
input()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel for a signal")
def test_a_run_saves_and_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    sweep = subprocess.Popen([sys.executable, "-c", SWEEP, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE)
    until(lambda: (folder(tmp_path, "a") / "saved").exists())
    ((_, pid, _),) = diary(tmp_path)
    sweep.send_signal(signal.SIGKILL)
    sweep.communicate()
    until(lambda: not is_alive(int(pid)))
    assert [what for *_, what in diary(tmp_path)] == ["start 0", "interrupted"]
    assert not states.is_claimed(tmp_path, job())


@pytest.mark.slow
def test_a_run_gets_the_environment_of_its_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAILING", "steps=2")
    assert perform(tmp_path, job("steps=2"), {"FAILING": "another"}) == AttemptResult("done")
    states_of = [what for *_, what in diary(tmp_path)]
    assert states_of == ["start 0", "completed"]


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("", "it said nothing"),
        ("\n \n", "it said nothing"),
        ("one\ntwo\n\n", "two"),
        ("Traceback\n  File\nKeyError: 'x'", "KeyError: 'x'"),
        ("x" * 5000 + "\nlast", "last"),
        ("é" * 3000, "é" * 2048),
        ("half \xe9", "half \xe9"),
    ],
)
def test_the_last_line_of_a_log(tmp_path: Path, text: str, last: str) -> None:
    (tmp_path / "log").write_text(text, encoding="utf-8")
    assert last_line(tmp_path / "log") == last
