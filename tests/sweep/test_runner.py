"""The loop of a sweep, with stand-ins for the runs: every job is done exactly once, whoever is killed and whenever."""

import os
import signal
from pathlib import Path

import pytest

from tests.sweep.helpers import diary, finish, is_alive, job, start, steps, sweep, until

NAMES = ["a", "b", "c", "d", "e"]
DONE = ("done", "")
ALL_DONE = dict.fromkeys(NAMES, DONE)
JOBS = [job(name, "steps=4", seed=seed) for seed, name in enumerate(NAMES)]


def assert_each_done_once(folder: Path) -> None:
    assert sorted(name for name, _, what in diary(folder) if what == "completed") == NAMES
    assert {name: steps(folder, name) for name in NAMES} == {name: [1, 2, 3, 4] for name in NAMES}


@pytest.mark.slow
def test_every_job_is_done_and_none_twice(tmp_path: Path) -> None:
    assert sweep(tmp_path, JOBS) == ALL_DONE
    assert_each_done_once(tmp_path)
    assert sweep(tmp_path, JOBS) == ALL_DONE
    assert len(diary(tmp_path)) == 2 * len(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("events", [1, 2, 3, 5, 8])
def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path, events: int) -> None:
    """Its runs save and end with it, and go on from there."""
    process = start(tmp_path, JOBS)
    until(lambda: len(diary(tmp_path)) >= events)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    started = {int(pid) for _, pid, _ in diary(tmp_path)}
    assert sweep(tmp_path, JOBS) == ALL_DONE
    assert_each_done_once(tmp_path)
    assert not any(is_alive(pid) for pid in started)


@pytest.mark.slow
def test_a_sweep_and_its_runs_killed_together_go_on(tmp_path: Path) -> None:
    process = start(tmp_path, JOBS)
    until(lambda: len(diary(tmp_path)) >= 2 and (tmp_path / "runs" / "a" / "saved").exists())
    for pid in [process.pid, *(int(pid) for _, pid, _ in diary(tmp_path))]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert sweep(tmp_path, JOBS) == ALL_DONE
    assert_each_done_once(tmp_path)
    resumed = [what for name, _, what in diary(tmp_path) if name == "a" and what.startswith("start")]
    assert len(resumed) == 2
    assert resumed[1] != "start 0"


@pytest.mark.slow
def test_a_killed_run_is_started_again_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    process = start(tmp_path, JOBS)
    until(lambda: (tmp_path / "runs" / "b" / "saved").exists())
    os.kill(next(int(pid) for name, pid, _ in diary(tmp_path) if name == "b"), signal.SIGKILL)
    assert finish(process) == ALL_DONE
    assert_each_done_once(tmp_path)
    assert [what for name, _, what in diary(tmp_path) if name == "b"][1] != "start 0"


@pytest.mark.slow
def test_a_run_that_is_always_killed_fails_after_its_restarts(tmp_path: Path) -> None:
    process = start(tmp_path, [job("a", "steps=1000")], max_restarts=1)
    for attempt in (1, 2):
        until(lambda attempt=attempt: len(diary(tmp_path)) == attempt)
        os.kill(int(diary(tmp_path)[-1][1]), signal.SIGKILL)
    assert finish(process) == {"a": ("failed", "killed by SIGKILL, 2 times in this sweep")}


@pytest.mark.slow
def test_two_sweeps_on_one_folder_share_the_jobs(tmp_path: Path) -> None:
    first, second = start(tmp_path, JOBS), start(tmp_path, JOBS)
    assert finish(first) == finish(second) == ALL_DONE
    assert_each_done_once(tmp_path)
    assert len(diary(tmp_path)) == 2 * len(NAMES)


@pytest.mark.slow
def test_failures_do_not_stop_the_others_and_are_not_retried_unasked(tmp_path: Path) -> None:
    jobs = [job("a", "fail=1"), job("b"), job("c", seed=1)]
    failed = ("failed", f"optimizer.lr=-1 must be above 0. (exit code 2, {tmp_path / 'logs' / 'a.log'})")
    expected = {"a": failed, "b": DONE, "c": DONE}
    assert sweep(tmp_path, jobs) == expected
    assert sweep(tmp_path, jobs) == expected
    assert len([name for name, *_ in diary(tmp_path) if name == "a"]) == 1
    assert sweep(tmp_path, jobs, retry_failed=True) == expected | {"a": DONE}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_sweep_saves_its_runs(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, JOBS)
    until(lambda: (tmp_path / "runs" / "a" / "saved").exists())
    process.send_signal(number)
    assert finish(process, code=130)["e"] == ("interrupted", "")
    assert {what for *_, what in diary(tmp_path)} >= {"interrupted"}
    assert sweep(tmp_path, JOBS) == ALL_DONE
    assert_each_done_once(tmp_path)


@pytest.mark.slow
def test_a_job_waits_for_the_one_whose_model_it_starts_from(tmp_path: Path) -> None:
    assert sweep(tmp_path, [job("b", needs="a"), job("a", "steps=2")]) == {"b": DONE, "a": DONE}
    assert [(name, what) for name, _, what in diary(tmp_path)][:2] == [("a", "start 0"), ("a", "completed")]


@pytest.mark.slow
def test_a_job_fails_with_the_one_that_it_starts_from(tmp_path: Path) -> None:
    ended = sweep(tmp_path, [job("b", needs="a"), job("a", "fail=1")])
    assert ended["b"] == ("failed", "a, whose model it starts from, is failed")
    assert [name for name, *_ in diary(tmp_path)] == ["a"]


@pytest.mark.slow
def test_a_hopeless_run_is_stopped_and_its_cell_with_it(tmp_path: Path) -> None:
    """Three good cells end first; then the bad one is stopped early, and its second seed never starts."""
    good = [job(name, "steps=3", "start=1", variant=name) for name in "abc"]
    bad = [job(f"x{seed}", "steps=400", "start=9", variant="x", seed=seed) for seed in (0, 1)]
    ended = sweep(tmp_path, [*good, *bad], slots=1, early_stopping="median")
    assert [ended[name] for name in "abc"] == [DONE] * 3
    assert ended["x0"][0] == ended["x1"][0] == "stopped"
    assert ended["x0"][1].startswith("stopped early at step ")
    assert ended["x0"][1].endswith("eval/cross_entropy 9.0000 is worse than the median of the others")
    assert ended["x1"][1] == "not started: x0 of the same cell was stopped early"
    assert not any(name == "x1" for name, *_ in diary(tmp_path))
