"""Several processes from the command line: one run, and one message when a process fails."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from ebft.cli import processes
from ebft.cli import train as cli
from ebft.cli.processes import launch
from ebft.config.schema import RunFailure, TrainConfig, UserError
from ebft.parallel.launched import from_slurm, num_processes
from ebft.parallel.world import process_group
from ebft.train.loop import train
from tests.debug_run import miniature, rows, summary, without_report
from tests.forked import children
from tests.sweep.helpers import ROOT

COMMON = ("method=ebft", "trainer.batch_size=6", "trainer.parallel=ddp", "trainer.max_steps=5", "eval.every_steps=5")
UNEASY = ("trainer.checkpoint_every_steps=2", "trainer.hang_seconds=2")
FAULTY, LIGHT = "tests.cli.faulty_worker", "tests.cli.light_worker"


def config_of(folder: Path, *overrides: str) -> TrainConfig:
    return miniature(folder, *COMMON, *UNEASY, *overrides)


@pytest.fixture(autouse=True)
def tests_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def arguments(folder: Path, *overrides: str) -> list[str]:
    """Of `ebft-train` with the miniature in `folder`."""
    miniature(folder, *COMMON, *overrides)
    return [*json.loads((folder / "overrides.json").read_text()), f"hydra.run.dir={folder / 'run'}"]


def command(folder: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "ebft.cli.train", *arguments(folder, *overrides)]


@pytest.fixture(scope="module")
def as_one(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Rows of figures of the same run in one process."""
    folder = tmp_path_factory.mktemp("one")
    with without_report():
        train(config_of(folder), folder / "single")
    return rows(folder / "single" / "metrics.jsonl")


def assert_figures(run: Path, expected: list[dict]) -> None:
    """Tokens but for a hundredth: branches of a process's rows are as many columns as its longest row has."""
    for mine, theirs in zip(rows(run / "metrics.jsonl"), expected, strict=True):
        forwarded = theirs.get("cost/tokens_forwarded", 0.0)
        assert mine.get("cost/tokens_forwarded", 0.0) == pytest.approx(forwarded, rel=1e-2)
        assert mine | {"cost/tokens_forwarded": 0.0} == pytest.approx(
            theirs | {"cost/tokens_forwarded": 0.0}, rel=1e-5, abs=2e-6
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["trainer.processes=4"], "trainer.processes=4 cannot share trainer.batch_size=6 evenly"),
        (["trainer.processes=7"], "trainer.processes=7 is more than trainer.batch_size=6 has rows"),
        (["trainer.processes=2", "trainer.parallel=none"], "trainer.processes=2 needs trainer.parallel=ddp"),
    ],
)
def test_a_refusal_comes_before_any_process(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    sentence: str,
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # main sets it; monkeypatch puts it back
    monkeypatch.setattr(sys, "argv", ["ebft-train", *arguments(tmp_path), *overrides])
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    assert_refusal(leaving.value.code, *capsys.readouterr(), sentence)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_all_processes_refuse_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("FAULT", "refuse")
    monkeypatch.setattr(processes, "launch", partial(launch, worker=LIGHT))
    monkeypatch.setattr(sys, "argv", ["ebft-train", *arguments(tmp_path, "trainer.processes=2")])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    assert_refusal(leaving.value.code, *capfd.readouterr(), "model.path=./nowhere does not exist; name another.")
    assert not (tmp_path / "run").exists()


def assert_refusal(code: object, out: str, err: str, sentence: str) -> None:
    assert (code, out) == (2, "")
    assert err.startswith(sentence)
    assert err.count("\n") == 1


@pytest.mark.slow
def test_torchrun(tmp_path: Path, as_one: list[dict]) -> None:
    """The first process composes; the others make no folder of their own."""
    options = command(tmp_path)[1:]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *options]
    done = subprocess.run(torchrun, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Run completed after 5 steps.") == 1
    assert not (tmp_path / "outputs").exists()
    assert_figures(tmp_path / "run", as_one)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "worker", "message"),
    [
        (
            "kill",
            FAULTY,
            r"^Rank 1 of 2 was killed by SIGKILL, so all processes have ended; the same command goes on from the last "
            r"checkpoint\.$",
        ),
        (
            "throw",
            FAULTY,
            r"(?s)Traceback.*ZeroDivisionError: this rank is broken\nRank 1 of 2 failed with exit code 1; all "
            r"processes have ended\.$",
        ),
        (
            "stop",
            LIGHT,
            r"^Rank 1 of 2 on \S+ has given no sign of life for \d s, so all processes end; the same command goes on "
            r"from the last checkpoint\.$",
        ),
        (
            "sleep",
            LIGHT,
            r"^Rank 1 of 2 on \S+ has got nowhere for \d s while others wait for it, so all processes end; the same "
            r"command goes on",
        ),
    ],
)
def test_a_rank_that_fails_ends_all_with_its_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    as_one: list[dict],
    fault: str,
    worker: str,
    message: str,
) -> None:
    config, run = config_of(tmp_path), tmp_path / "run"
    run.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the faulty worker
    monkeypatch.setenv("FAULT", fault)
    started = time.monotonic()
    with pytest.raises(RunFailure, match=message):
        launch(config, run, 2, worker)
    assert time.monotonic() - started < 60
    if worker == FAULTY:
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_000002"]
    if fault == "kill":
        assert_goes_on(tmp_path, as_one)


def assert_goes_on(folder: Path, as_one: list[dict]) -> None:
    """From the last checkpoint, from the command line to the report, and to what one undisturbed process comes to;
    rank 0 alone speaks, and nothing of the start is left."""
    run = folder / "run"
    done = subprocess.run(command(folder, *UNEASY, "trainer.processes=2"), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Run completed after 5 steps.") == 1
    assert sorted(path.name for path in run.iterdir() if path.name.startswith(".")) == []
    assert (run / "report.html").exists()
    assert_figures(run, as_one)
    assert summary(run)["status"] == "completed"


@pytest.mark.slow
def test_a_signal_to_any_rank_saves_once_and_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = config_of(tmp_path, "trainer.checkpoint_every_steps=100"), tmp_path / "run"
    run.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the faulty worker
    monkeypatch.setenv("FAULT", "term")
    assert launch(config, run, 2, FAULTY) == "interrupted"
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_000004"]
    assert summary(run)["status"] == "interrupted"


@pytest.mark.slow
def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """Even by SIGKILL: they save, and nobody is left."""
    parent = subprocess.Popen(
        [*command(tmp_path, "trainer.processes=2"), "trainer.max_steps=100000"], stdout=subprocess.DEVNULL
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") > 5):
        assert parent.poll() is None
        time.sleep(0.1)
    workers = children(parent.pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 30
    while any(
        Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2] for pid in workers
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert len(workers) == 2
    assert summary(tmp_path / "run")["status"] == "interrupted"


@pytest.mark.slow
def test_processes_that_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebft.parallel.world.RENDEZVOUS_SECONDS", 1.0)
    for name, value in {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(
            UserError,
            match=r"^The 2 processes of this run did not meet at 127.0.0.1:1 within 1 s; see that all were started",
        ),
        process_group(),
    ):
        pass
    monkeypatch.delenv("MASTER_PORT")
    with (
        pytest.raises(UserError, match=r"^WORLD_SIZE=2 without MASTER_PORT; start the processes with torchrun"),
        process_group(),
    ):
        pass


def test_an_srun_step_is_read_and_a_batch_script_is_not() -> None:
    step = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8"}
    assert from_slurm(step) == {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
    assert num_processes(step) == 8
    assert from_slurm({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == {}
    assert from_slurm(step | {"RANK": "0"}) == {}
    assert num_processes(os.environ) == 1
