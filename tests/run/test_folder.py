import errno
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ebft.cli.compose import compose
from ebft.config.schema import FileDataConfig, RunFailure, TrainConfig, UserError, WandbTrackerConfig
from ebft.output import tracking
from ebft.report import last_table
from ebft.run import checkpoint
from ebft.run.folder import Run, StopSignals

METRICS = {"eval/cross_entropy": 3.5, "eval/cross_entropy_stderr": 0.25}


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return compose(["trainer.device=cpu", "trainer.max_steps=7"])


def trainer(config: TrainConfig, **changes: Any) -> TrainConfig:
    return replace(config, trainer=replace(config.trainer, **changes))


def finish(run: Run, status: str = "completed", error: str | None = None, **changes: Any) -> None:
    fields: dict[str, Any] = {
        "steps": 7,
        "evaluated": 7,
        "wall_seconds": 2.5,
        "train_seconds": 1.5,
        "tokens_forwarded": 1234.0,
        "peak_memory_bytes": 2**20,
        "base": METRICS,
        "final": {"eval/cross_entropy": 3.0},
        "change": {"eval/cross_entropy": -0.5, "eval/cross_entropy_stderr": 0.125},
        "error": error,
    }
    run.finish(status, **(fields | changes))


# Before a run


def test_new_and_empty_folders_can_take_a_run(tmp_path: Path, config: TrainConfig) -> None:
    (tmp_path / ".hidden").write_text("x")
    Run.check(tmp_path, config)
    Run.check(tmp_path / "new" / "folder", config)
    assert [path.name for path in tmp_path.iterdir()] == [".hidden"]


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path, config: TrainConfig) -> None:
    (tmp_path / "run").write_text("x")
    with pytest.raises(
        UserError, match=rf"^The run folder {tmp_path}/run is a file; choose another hydra\.run\.dir\.$"
    ):
        Run.check(tmp_path / "run", config)


def test_foreign_files_are_refused(tmp_path: Path, config: TrainConfig) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(
        UserError, match=rf"^{tmp_path} holds files but no run; choose an empty or a new hydra\.run\.dir\.$"
    ):
        Run.check(tmp_path, config)


@pytest.mark.parametrize("name", ["checkpoints", "train.log", "metrics.jsonl", "config.yaml", "wandb", "model"])
def test_a_folder_with_links_in_it_is_refused(tmp_path: Path, config: TrainConfig, name: str) -> None:
    """A run would write wherever they lead."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"^{tmp_path}/run/{name} is a link, and nothing is written through it"):
        Run.check(tmp_path / "run", config)


def test_folder_without_the_right_to_write_is_refused(
    tmp_path: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def no(path: Path, mode: int) -> bool:
        asked.append(path)
        return False

    monkeypatch.setattr(os, "access", no)
    with pytest.raises(UserError, match=r"cannot be written; choose another hydra.run.dir"):
        Run.check(tmp_path / "new" / "folder", config)
    assert asked == [tmp_path]  # the nearest folder that exists decides


def test_run_of_another_config_is_refused_with_the_keys_that_differ(tmp_path: Path, config: TrainConfig) -> None:
    Run(tmp_path, config)
    other = replace(config, seed=3, optimizer=replace(config.optimizer, lr=0.5))
    with pytest.raises(UserError) as refusal:
        Run.check(tmp_path, other)
    assert str(refusal.value) == (
        f"{tmp_path} holds a run of another config (seed is 0 there, 3 here; optimizer.lr is {config.optimizer.lr} "
        "there, 0.5 here); "
        "set these back or choose another hydra.run.dir."
    )


def test_run_of_another_method_is_refused(tmp_path: Path, config: TrainConfig) -> None:
    Run(tmp_path, config)
    with pytest.raises(
        UserError,
        match=r"of another config \(method\.name is ebft there, sft here(; [^;]+){4}; and \d+ more\); set these back",
    ):
        Run.check(tmp_path, compose(["method=sft", "trainer.device=cpu", "trainer.max_steps=7"]))


def test_what_does_not_change_the_course_may_differ(tmp_path: Path, config: TrainConfig) -> None:
    Run(tmp_path, config)
    other = trainer(
        config, max_steps=11, checkpoint_every_steps=13, keep_checkpoints=5, micro_batch_size=1, device="auto"
    )
    wandb = WandbTrackerConfig("wandb", "project", None, None, [], None, [])
    Run.check(tmp_path, replace(other, tracker=wandb, resume=str(tmp_path)))


def test_earlier_run_is_refused_without_resume(tmp_path: Path, config: TrainConfig) -> None:
    fresh = replace(config, resume="never")
    Run.check(tmp_path, fresh)
    Run(tmp_path, fresh)
    with pytest.raises(
        UserError,
        match=rf"^{tmp_path} already holds a run; continue it with resume=auto or choose another hydra\.run\.dir\.$",
    ):
        Run.check(tmp_path, fresh)


@pytest.mark.parametrize("content", ["just text", "a: [", "\x00"])
def test_foreign_config_is_refused(tmp_path: Path, config: TrainConfig, content: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"config.yaml is not a config of ebft; choose another hydra.run.dir"):
        Run.check(tmp_path, config)


# A run


def test_opening_writes_config_and_environment(tmp_path: Path, config: TrainConfig) -> None:
    Run(tmp_path / "new" / "run", config)
    written = yaml.safe_load((tmp_path / "new" / "run" / "config.yaml").read_text())
    assert written["trainer"]["max_steps"] == 7
    assert written["optimizer"]["lr"] == config.optimizer.lr
    environment = json.loads((tmp_path / "new" / "run" / "environment.json").read_text())
    assert environment["libraries"]["torch"] == torch.__version__
    assert environment["cpu_count"] == os.cpu_count()


def test_commits_are_those_of_the_program_and_of_the_folder_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit of the user's own repository once stood there as that of the run's program."""
    from ebft.output import environment

    def git(*command: str) -> str:
        return subprocess.run(["git", *command], capture_output=True, text=True, check=True).stdout.strip()

    own = environment.environment("cpu")["ebft_git"]
    monkeypatch.chdir(tmp_path)
    assert environment.environment("cpu")["folder_git"] is None
    git("init", "-q")
    git("-c", "user.name=a", "-c", "user.email=a", "commit", "-q", "--allow-empty", "-m", "theirs")
    told = environment.environment("cpu")
    assert (told["ebft_git"], told["folder_git"]) == (own, {"commit": git("rev-parse", "HEAD"), "dirty": False})
    assert own != told["folder_git"]


def test_secrets_are_never_written_and_do_not_keep_a_run_from_being_continued(
    tmp_path: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "https://me:hush@example.org/rows.jsonl"
    monkeypatch.setattr("sys.argv", ["ebft-train", f"data.path={url}", "x.api_key=hush", "seed=3"])
    data = compose(["data=jsonl", "data.path=x.jsonl", "data.text_column=text", "trainer.device=cpu"]).data
    assert isinstance(data, FileDataConfig)
    secret = replace(config, data=replace(data, path=url))
    Run(tmp_path, secret)
    assert "https://***@example.org" in (tmp_path / "config.yaml").read_text()
    assert json.loads((tmp_path / "environment.json").read_text())["command"] == [
        "ebft-train",
        "data.path=https://***@example.org/rows.jsonl",
        "x.api_key=***",
        "seed=3",
    ]
    assert not any("hush" in path.read_text() for path in tmp_path.iterdir())
    Run.check(tmp_path, secret)


def test_a_run_goes_on_whose_end_token_was_taken_for_a_secret(tmp_path: Path, config: TrainConfig) -> None:
    named = replace(config, data=replace(config.data, end_token="<|endoftext|>"))
    Run(tmp_path, named)
    stored = (tmp_path / "config.yaml").read_text()
    assert "end_token: <|endoftext|>" in stored
    Run.check(tmp_path, named)
    (tmp_path / "config.yaml").write_text(stored.replace("<|endoftext|>", "'***'"))
    Run.check(tmp_path, named)


def test_metrics_are_rows_of_json(tmp_path: Path, config: TrainConfig) -> None:
    run = Run(tmp_path, config)
    run.log(0, {"eval/cross_entropy": 3.5})
    run.log(3, {"train/loss": -0.5, "train/tokens": 17})
    expected = [{"step": 0, "eval/cross_entropy": 3.5}, {"step": 3, "train/loss": -0.5, "train/tokens": 17}]
    assert (
        [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        == expected
        == run.metrics()
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_could_not_be_computed_is_not_logged(tmp_path: Path, config: TrainConfig, value: float) -> None:
    run = Run(tmp_path, config)
    with pytest.raises(
        RunFailure, match=rf"^train/loss became {value} at step 3; a lower optimizer\.lr is the usual cure\.$"
    ):
        run.log(3, {"train/reward": 1.0, "train/loss": value})
    assert run.metrics() == []


def test_rewinding_drops_what_lies_beyond(tmp_path: Path, config: TrainConfig) -> None:
    run = Run(tmp_path, config)
    for step in (0, 3, 5):
        run.log(step, {"train/loss": 1.0})
        run.log(step, {"eval/reward": 0.5})
        run.samples(step, [{"context": "a", "reference": "b", "rollouts": [{"text": "c", "reward": 0.5}]}])
        checkpoint.save(tmp_path, step, {"model.a": torch.zeros(3)}, {"step": step}, keep=3)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "trai')
    run.rewind(3, evaluated=0)  # the checkpoint of step 3 was written before the evaluation of step 3
    run.log(4, {"train/loss": 2.0})
    assert [(row["step"], "eval/reward" in row) for row in run.metrics()] == [
        (0, False),
        (0, True),
        (3, False),
        (4, False),
    ]
    assert [json.loads(line)["step"] for line in (tmp_path / "samples.jsonl").read_text().splitlines()] == [0]
    assert checkpoint.latest(tmp_path) == tmp_path / "checkpoints" / "step_000003"
    run.rewind(-1, evaluated=-1)
    assert run.metrics() == []
    assert checkpoint.latest(tmp_path) is None


class Recorder(tracking.Tracker):
    """A tracker that remembers what it is told."""

    def __init__(self, run_ids: Mapping[str, str]) -> None:
        self.run_ids = run_ids or {"wandb": "abc", "trackio": "def"}
        self.notices = ["going nowhere"]
        self.calls: list[tuple[Any, ...]] = []

    def log(self, step: int, metrics: tracking.Metrics) -> None:
        self.calls.append(("log", step, dict(metrics)))

    def table(self, name: str, step: int, rows: Any, columns: Any) -> None:
        self.calls.append((name, step, rows, columns))

    def finish(self, failed: bool) -> None:
        self.calls.append(("finish", failed))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Mapping[str, str]]]:
    """The run ids with which trackers were started."""
    ids: list[Mapping[str, str]] = []

    def start(config: Any, directory: Path, resolved: dict[str, Any], run_ids: Mapping[str, str]) -> Recorder:
        ids.append(run_ids)
        return Recorder(run_ids)

    monkeypatch.setattr(tracking, "start", start)
    return ids


def test_tracker_gets_what_the_folder_gets(
    tmp_path: Path, config: TrainConfig, started: list[Mapping[str, str]]
) -> None:
    run = Run(tmp_path, config)
    answers = [{"prompt": "p", "reference": "r", "answer": "a", "verdict": "passed", "score": 1.0}]
    run.log(3, {"train/loss": 1.0})
    run.samples(
        3,
        [{"context": "a", "reference": "b", "rollouts": [{"text": "c", "reward": 0.5}, {"text": "d", "reward": 0.25}]}],
    )
    run.answers(3, [])
    run.answers(3, answers)
    finish(run, "failed", "ValueError: oh")
    assert isinstance(run.tracker, Recorder)
    log, (name, step, rows, columns), table, end = run.tracker.calls
    assert (log, end) == (("log", 3, {"train/loss": 1.0}), ("finish", True))
    assert (name, step, columns) == ("samples", 3, ["context", "reference", "rollout", "reward"])
    assert [[row[column] for column in columns] for row in rows] == [["a", "b", "c", 0.5], ["a", "b", "d", 0.25]]
    assert table == ("answers", 3, answers, ["prompt", "reference", "answer", "verdict", "score"])
    assert "going nowhere\n" in (tmp_path / "train.log").read_text()


def test_continued_run_keeps_the_ids_of_its_trackers(
    tmp_path: Path, config: TrainConfig, started: list[Mapping[str, str]]
) -> None:
    Run(tmp_path, config)
    Run(tmp_path, config)
    assert started == [{}, {"wandb": "abc", "trackio": "def"}]


# The end


@pytest.mark.slow
def test_summary_report_and_last_lines(tmp_path: Path, config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path, config)
    run.plan({"steps": "7"}, title="Plan")
    run.log(0, METRICS)
    finish(run)
    assert json.loads((tmp_path / "summary.json").read_text()) == {
        "status": "completed",
        "steps": 7,
        "evaluated": 7,
        "wall_seconds": 2.5,
        "train_seconds": 1.5,
        "tokens_forwarded": 1234,
        "peak_memory_bytes": 1048576,
        "base": METRICS,
        "final": {"eval/cross_entropy": 3.0},
        "change": {"eval/cross_entropy": -0.5, "eval/cross_entropy_stderr": 0.125},
    }
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "Plan",
        "  steps: 7",
        "Evaluation",
        "  metric             base   final    change  standard error",
        "  cross_entropy ↓  3.5000  3.0000  -0.5000*          0.1250",
        last_table.LEGEND,
        "Run completed after 7 steps.",
        f"Run folder: {tmp_path}",
        f"Report: {tmp_path}/report.html",
    ]
    assert (tmp_path / "train.log").read_text().splitlines() == lines
    assert "<td>7</td>" in (tmp_path / "report.html").read_text()


def test_an_interrupted_run_says_what_its_figures_are_of(
    tmp_path: Path, config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nothing but the base was evaluated, that once stood as final, with a change of +0.0000 ± 0."""
    run = Run(tmp_path, config)
    run.log(0, METRICS)
    finish(run, "interrupted", evaluated=0, final={}, change={})
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "Evaluation",
        "  metric             base",
        "  cross_entropy ↓  3.5000",
        "Run interrupted after 7 steps, evaluated last at step 0.",
    ]
    report = (tmp_path / "report.html").read_text()
    assert "7, evaluated last at step 0" in report
    assert "<th>base</th>" in report
    assert "<th>change</th>" not in report


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 3000])
def test_a_damaged_summary_is_named(tmp_path: Path, config: TrainConfig, content: str) -> None:
    Run(tmp_path, config)
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(
        UserError, match=r"^\S+/summary\.json is damaged; remove it, and the run goes on from its newest"
    ):
        Run(tmp_path, config)


def test_rows_that_are_gone_are_counted(tmp_path: Path, config: TrainConfig) -> None:
    run = Run(tmp_path, config)
    for step in (1, 3, 4):
        run.log(step, {"train/loss": 1.0})
    run.log(2, {"eval/cross_entropy": 1.0})
    assert [run.lacking_rows(step) for step in (0, 3, 5)] == [0, 1, 2]
    (tmp_path / "metrics.jsonl").unlink()
    assert run.lacking_rows(5) == 5


def test_a_failed_run_keeps_no_password(
    tmp_path: Path, config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path, config)
    run.log(0, METRICS)
    finish(run, "failed", "OSError: https://me:hu@sh/hush@host/x is gone")
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert b"hush" not in file.read_bytes(), file
    assert "https://***@host/x is gone" in capsys.readouterr().out


def test_failed_run_says_why_and_has_a_page_without_pictures(
    tmp_path: Path, config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path, config)
    run.log(0, METRICS)
    finish(run, "failed", "RunFailure: Step 3 stopped")
    assert json.loads((tmp_path / "summary.json").read_text())["error"] == "RunFailure: Step 3 stopped"
    assert "Error: RunFailure: Step 3 stopped\nRun failed after 7 steps." in capsys.readouterr().out
    assert "RunFailure: Step 3 stopped" in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "plots").exists()


@pytest.mark.slow
def test_nothing_counts_as_complete_when_the_disk_is_full_at_the_end(
    tmp_path: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, config)
    run.log(0, METRICS)

    def full_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(RunFailure, match=r"disk is full: .*plots/cross_entropy.png"):
        finish(run)
    assert not (tmp_path / "summary.json").exists()
    monkeypatch.undo()
    assert not Run(tmp_path, config).is_complete


def test_completed_run_is_complete_until_it_is_to_be_longer(
    tmp_path: Path, config: TrainConfig, started: list[str | None]
) -> None:
    assert not Run(tmp_path, config).is_complete
    finish(Run(tmp_path, config))
    before = (tmp_path / "environment.json").stat().st_mtime_ns
    again = Run(tmp_path, trainer(config, device="auto"))
    assert again.is_complete
    assert (tmp_path / "environment.json").stat().st_mtime_ns == before  # a finished run stays as it is
    assert len(started) == 2
    assert not Run(tmp_path, trainer(config, max_steps=11)).is_complete
    assert not (tmp_path / "summary.json").exists()  # from here on it is a run that is going on


@pytest.mark.slow
def test_interrupted_run_is_not_complete(tmp_path: Path, config: TrainConfig) -> None:
    run = Run(tmp_path, config)
    run.log(0, METRICS)
    finish(run, "interrupted")
    assert (tmp_path / "report.html").exists()
    assert not Run(tmp_path, config).is_complete


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_asks_and_a_second_ctrl_c_ends(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopSignals() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
        signal.raise_signal(signal.SIGTERM)  # changes nothing
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert (
        capfd.readouterr().err.strip()
        == "Stopping: finishing this step, then saving; press Ctrl-C again to end at once."
    )


def test_a_run_that_goes_on_has_no_export_of_its_earlier_end(tmp_path: Path, config: TrainConfig) -> None:
    """ebft-eval once took the model of step 60 for that of a run which had come to step 71."""
    run = Run(tmp_path, config)
    for name in ("model", "adapter"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").touch()
    run.rewind(-1, -1)
    assert not (tmp_path / "model").exists()
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("content", [b"", b"a/../b", b"\xff", b"\x1b[31m", b"a\nb", b"x" * 999])
def test_what_is_no_name_of_a_trackers_record_is_refused(tmp_path: Path, config: TrainConfig, content: bytes) -> None:
    (tmp_path / "wandb_run_id").write_bytes(content)
    with pytest.raises(UserError, match=r"/wandb_run_id names no record of a tracker; remove it"):
        Run.check(tmp_path, config)
