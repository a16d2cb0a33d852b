"""The same jobs on every launcher. SLURM's and Ray's stand on this machine: submitit's local executor and a Ray that is
started here."""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ebft.config.schema import UserError
from ebft.config.sweeps import LauncherConfig, LocalLauncherConfig, RayLauncherConfig, SlurmLauncherConfig
from ebft.sweep import launchers
from ebft.sweep import state as states
from ebft.sweep.jobs import Job, folder
from ebft.sweep.launchers import visible_gpus
from ebft.sweep.runner import GridSource, SweepRunner
from tests.debug_run import MINIATURE, write_rows
from tests.forked import children
from tests.sweep.helpers import GRID, until

SLURM = SlurmLauncherConfig(
    name="slurm",
    cluster="local",
    max_jobs=2,
    minutes=5,
    nodes=1,
    tasks_per_node=1,
    gpus=0,
    cpus=1,
    memory_gb=1,
    partition=None,
    account=None,
    parameters={},
)
RAY = RayLauncherConfig(name="ray", address=None, max_jobs=2, gpus=0.0, cpus=1.0)


@pytest.fixture(autouse=True)
def without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """And without the variables that Ray sets, afterwards."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PYTHONBREAKPOINT", "")
    monkeypatch.delenv("PYTHONBREAKPOINT")


def smoke(folder: Path, *overrides: str) -> tuple[str, ...]:
    """Two steps, or what the overrides say."""
    rows = write_rows(folder / "rows.jsonl", count=40)
    return (*MINIATURE, "method=sft", f"data.path={rows}", "trainer.max_steps=2", *overrides)


def run(directory: Path, config: LauncherConfig, jobs: list[Job]) -> dict[str, states.State]:
    return SweepRunner(
        directory, GRID, launchers.build(config, directory), GridSource(jobs), lambda jobs: None, print
    ).run()


@pytest.mark.slow
@pytest.mark.parametrize("config", [SLURM, RAY], ids=["slurm", "ray"])
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning", "ignore::FutureWarning"
)
def test_jobs_are_done_and_fail_elsewhere_as_they_do_here(tmp_path: Path, config: LauncherConfig) -> None:
    jobs = [Job("good", "", {"seed": "0"}, 0, smoke(tmp_path)), Job("bad", "", {"seed": "1"}, 1, ("optimizer.lrr=1",))]
    ended = run(tmp_path, config, jobs)
    assert {name: known.kind for name, known in ended.items()} == {"good": "done", "bad": "failed"}
    assert ended["bad"].note.startswith(
        "optimizer.lrr is not a key of the configuration; did you mean optimizer.lr? (exit code 2, "
    )
    assert json.loads((folder(tmp_path, "good") / "summary.json").read_text())["steps"] == 2
    assert run(tmp_path, LocalLauncherConfig("local", 1, 1, None), jobs) == ended


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_job_of_two_tasks_is_one_run_of_two_processes(tmp_path: Path) -> None:
    job = Job("shared", "", {}, 0, smoke(tmp_path, "trainer.parallel=ddp", "trainer.batch_size=2"))
    ended = run(tmp_path, replace(SLURM, tasks_per_node=2), [job])
    assert ended["shared"].kind == "done", ended["shared"].note
    assert json.loads((folder(tmp_path, "shared") / "summary.json").read_text())["steps"] == 2
    checkpoint = torch.load(folder(tmp_path, "shared") / "checkpoints" / "step_000002" / "state.pt", weights_only=True)
    assert len(checkpoint["random"]) == 2
    assert run(tmp_path, replace(SLURM, tasks_per_node=2), [job]) == ended


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_job_at_its_time_limit_is_saved_and_queued_again(tmp_path: Path) -> None:
    """submitit sends its signal, the job's process ends, its run saves and ends with it, and the job's next process
    goes on."""
    job = Job(
        "long",
        "",
        {},
        0,
        smoke(tmp_path, "trainer.max_steps=100000", "trainer.checkpoint_every_steps=100000", "eval.every_steps=100000"),
    )
    handle = launchers.Slurm(SLURM, tmp_path).start(job)
    assert isinstance(handle, launchers._SlurmHandle)
    metrics, log = folder(tmp_path, "long") / "metrics.jsonl", tmp_path / "logs" / "long.log"
    until(lambda: metrics.exists() and metrics.read_text().count("\n") > 3)
    controller = handle._job.job_id  # submitit's own, a process on this machine
    (task,) = children(int(controller))
    os.kill(task, signal.SIGUSR2)  # what SLURM sends before a time limit, as submitit asks it to
    until(lambda: "Resumed at step" in log.read_text())
    assert "Run interrupted after" in log.read_text()
    handle.stop()
    until(lambda: states.state(tmp_path, job).kind == states.INTERRUPTED)


def test_local_slots_are_devices_and_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5e7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    local = launchers.Local(LocalLauncherConfig("local", 2, 1, None), tmp_path)
    assert [local._environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in local._slots] == [
        "3",
        "3",
        "GPU-5e7",
        "GPU-5e7",
    ]
    assert local._environment("3") == {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "3"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert launchers.Local(LocalLauncherConfig("local", 2, 1, None), tmp_path)._environment(None) == {
        "OMP_NUM_THREADS": "3",
        "MKL_NUM_THREADS": "3",
    }
    assert launchers.Local(LocalLauncherConfig("local", 2, 1, 5), tmp_path)._environment(None)["OMP_NUM_THREADS"] == "5"


@pytest.mark.parametrize(("typed", "threads"), [("2", "2"), ("9", "3"), ("0", "3"), ("2,1", "3")])
def test_a_run_has_no_more_threads_than_the_user_gave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, threads: str
) -> None:
    """OMP_NUM_THREADS=1 on a machine that others used, and the sweep's runs took both cores each."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", typed)
    local = launchers.Local(LocalLauncherConfig("local", 2, 1, None), tmp_path)
    assert local._environment(None)["OMP_NUM_THREADS"] == threads


def test_a_run_of_several_processes_has_as_many_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    local = launchers.Local(LocalLauncherConfig("local", 1, 2, None), tmp_path)
    assert local._slots == ["0,1", "2,3"]
    with pytest.raises(UserError, match=r"^launcher.gpus=7 is more than the 5 of this machine; lower it\.$"):
        launchers.Local(LocalLauncherConfig("local", 1, 7, None), tmp_path)


@pytest.mark.parametrize(("variable", "names"), [("", []), ("-1", []), ("0", ["0"]), ("2, 4", ["2", "4"])])
def test_gpus_are_found_without_torch(monkeypatch: pytest.MonkeyPatch, variable: str, names: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert visible_gpus() == names


def test_a_launcher_that_is_not_installed_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(
        UserError, match=r"launcher=slurm needs submitit, which is not installed; pip install 'ebft\[slurm\]'\."
    ):
        launchers.build(SLURM, tmp_path)


def test_slurm_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        UserError, match=r"launcher\.cluster=slurm: .*; run ebft-sweep where sbatch is, or use launcher=local\."
    ):
        launchers.build(replace(SLURM, cluster="slurm"), tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning")
def test_ray_without_what_a_run_asks_for(tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(
        UserError,
        match=r"launcher\.gpus=1\.0 is more than the Ray cluster has \(0\); lower it, or no run ever starts\.",
    ):
        launchers.build(replace(RAY, gpus=1.0), tmp_path)
