"""A run folder: opened, written while the run lives, and closed with its report and summary.

    config.yaml  environment.json  metrics.jsonl  samples.jsonl  answers.jsonl  train.log  checkpoints/  model/  plots/
    best_model/  rows/  contamination.json  report.html  summary.json

`rows/` has the scores of every held-out row before training and at the latest evaluation (`output/row_scores.py`).
`summary.json` is written last; its absence means that the run is going on or was killed.
"""

import json
import math
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from ebft.config import doors
from ebft.config.identity import resolved
from ebft.config.schema import RunFailure, TrainConfig
from ebft.output import files, row_scores, tracking
from ebft.output.console import Bar, Console, SecondsLeft
from ebft.output.environment import environment
from ebft.output.masking import without_credentials, without_secrets
from ebft.output.row_scores import RowScores
from ebft.output.tracking import Metrics
from ebft.report import last_table
from ebft.report import run_page as report
from ebft.run import checkpoint
from ebft.run.admission import (
    ANSWERS,
    CONFIG,
    CONTAMINATION,
    ENVIRONMENT,
    EXPORTS,
    LOG,
    METRICS,
    RUN_IDS,
    SAMPLES,
    SUMMARY,
    check,
    is_complete,
    record_of,
)


class Run:
    """One run folder with its console and tracker."""

    check = staticmethod(check)

    def __init__(self, directory: Path, config: TrainConfig) -> None:
        """Opens a folder that `check` has let pass, new or to be continued."""
        with files.writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.is_complete = is_complete(directory, config)
        self._resolved = without_secrets(resolved(config))
        self._plan: dict[str, str] = {}
        if not self.is_complete:
            with files.writing(directory / SUMMARY):
                (directory / SUMMARY).unlink(missing_ok=True)
            files.atomic_write_text(directory / CONFIG, yaml.safe_dump(self._resolved, sort_keys=False))
            self._copy_code(config)
            files.atomic_write_text(
                directory / ENVIRONMENT, json.dumps(environment(config.trainer.device), indent=2) + "\n"
            )
        self._console = Console(directory / LOG)
        self.tracker = self._start_tracker(config)

    def _copy_code(self, config: TrainConfig) -> None:
        """The files behind doors as `code/HASH_name.py`; those of installed packages stay where they are."""
        for reference, digest in doors.digests(doors.doors(config).values()).items():
            path = Path(reference.rpartition(":")[0])
            if path.suffix == ".py":
                copy = files.make_folder(self.directory / doors.FOLDER) / f"{digest[:8]}_{path.name}"
                with files.atomic_file(copy) as file:
                    file.write(path.read_bytes())

    def _start_tracker(self, config: TrainConfig) -> tracking.Tracker:
        if self.is_complete:
            return tracking.Tracker()
        known = {
            name: record_of(self.directory / file) for name, file in RUN_IDS.items() if (self.directory / file).exists()
        }
        tracker = tracking.start(config.tracker, self.directory, self._resolved, known)
        for name, run_id in tracker.run_ids.items():
            files.atomic_write_text(self.directory / RUN_IDS[name], run_id + "\n")
        for notice in tracker.notices:
            self.say(notice)
        return tracker

    def rewind(self, step: int, evaluated: int) -> None:
        """Drops rows and checkpoints beyond `step`, where the run now continues, evaluations beyond `evaluated`, the
        latest that it knows of, and exports, which are of its end; -1 for a run that starts over without a
        checkpoint."""
        for export in EXPORTS:  # of an earlier, shorter run: ebft-eval would take it for what the run has come to
            files.remove(self.directory / export)
        checkpoint.discard_after(self.directory, step)
        files.keep_rows(self.directory / METRICS, step)
        files.keep_rows(self.directory / METRICS, evaluated, "eval/")
        for name in (SAMPLES, ANSWERS):
            files.keep_rows(self.directory / name, evaluated)

    def plan(self, rows: dict[str, str], title: str) -> None:
        """What the run is going to do; shown now and again in the report."""
        self._plan = rows
        self._console.pairs(title, rows)

    def contamination(self, shares: Mapping[str, Mapping[str, Any]]) -> None:
        """What of each held-out set is in the training data, as `contamination.json`."""
        files.atomic_write_text(self.directory / CONTAMINATION, json.dumps(shares, indent=2) + "\n")

    def say(self, text: str) -> None:
        """One line to the console and train.log."""
        self._console.say(text)

    def note(self, text: str) -> None:
        """One line to train.log alone."""
        self._console.note(text)

    def log(self, step: int, metrics: Metrics) -> None:
        """One row of metrics. RunFailure for NaN and infinity: what could not be computed is to be left out, not
        logged."""
        _check_finite(step, metrics)
        files.append_row(self.directory / METRICS, {"step": step, **metrics})
        self.tracker.log(step, metrics)

    def metrics(self) -> list[dict[str, Any]]:
        return files.read_rows(self.directory / METRICS)

    def lacking_rows(self, step: int) -> int:
        """Of how many steps up to this one the folder has no row of training: somebody has taken them away, or a
        checkpoint of another folder is gone on from."""
        there = {row["step"] for row in files.read_rows(self.directory / METRICS, mentioning='"train/')}
        return len({*range(1, step + 1)} - there)

    def sync(self) -> None:
        """Rows that have been written outlive the machine."""
        for name in (METRICS, SAMPLES, ANSWERS):
            with files.writing(self.directory / name):
                if (self.directory / name).exists():
                    files.sync(self.directory / name)

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows with `context`, `reference` and `rollouts`, a list of `text` and `reward`."""
        for row in rows:
            files.append_row(self.directory / SAMPLES, {"step": step, **row})
        flat = [
            {**row, "rollout": rollout["text"], "reward": rollout["reward"]}
            for row in rows
            for rollout in row["rollouts"]
        ]
        self.tracker.table("samples", step, flat, ["context", "reference", "rollout", "reward"])

    def rows(self, name: str, scores: Sequence[RowScores]) -> None:
        """Every held-out row's scores of the base or the latest evaluation (`row_scores.BASE`, `row_scores.LATEST`).
        None are written where a checkpoint of an older version kept none."""
        folder = self.directory / row_scores.FOLDER
        if scores:
            row_scores.write(files.make_folder(folder) / name, scores)
        else:
            (folder / name).unlink(missing_ok=True)

    def answers(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows with `prompt`, `reference`, `answer`, `verdict` and `score`."""
        for row in rows:
            files.append_row(self.directory / ANSWERS, {"step": step, **row})
        if rows:
            self.tracker.table("answers", step, rows, ["prompt", "reference", "answer", "verdict", "score"])

    def progress(self, total_steps: int, done: int, seconds_left: SecondsLeft) -> AbstractContextManager[Bar]:
        """Progress of the training: `update(step, metrics)` after each step."""
        return self._console.bar("step", total_steps, done, every_tenth=True, seconds_left=seconds_left)

    def evaluating(self, total: int, label: str = "evaluation") -> AbstractContextManager[Bar]:
        """Progress of an evaluation: `update()` after each of its parts. May run inside `progress`."""
        return self._console.bar(label, total, 0, every_tenth=False)

    def going_on(self, **figures: Any) -> None:
        """The page of a run that goes on, from what `finish` takes, without pictures, which take longest."""
        if self.metrics():
            with files.writing(self.directory / "report.html"):
                report.write(self.directory, {"status": "running", **figures}, self._plan, with_pictures=False)

    def finish(
        self,
        status: str,
        *,
        steps: int,
        evaluated: int | None,
        wall_seconds: float,
        train_seconds: float,
        tokens_forwarded: float,
        peak_memory_bytes: int,
        base: Metrics,
        final: Metrics,
        change: Metrics,
        directions: Mapping[str, str] | None = None,
        best: Mapping[str, Any] | None = None,
        error: str | None = None,
    ) -> None:
        """Closes the run as completed, failed or interrupted. `evaluated` is the step of the latest evaluation;
        `train_seconds` are those of the steps alone; `final` is empty where nothing was evaluated after the base;
        `change` is final minus base, in pairs; `directions` say of the metrics of a user's own task which way is
        better, and `best` is the best evaluation by the metric that the run keeps one by. The page of a failed run has
        no pictures beside it."""
        assert status in ("completed", "failed", "interrupted"), status
        summary = {
            "status": status,
            "steps": steps,
            "evaluated": evaluated,
            "wall_seconds": wall_seconds,
            "train_seconds": train_seconds,
            "tokens_forwarded": round(tokens_forwarded),
            "peak_memory_bytes": peak_memory_bytes,
            "base": dict(base),
            "final": dict(final),
            "change": dict(change),
            **({"directions": dict(directions)} if directions else {}),
            **({"best": dict(best)} if best else {}),
            **({"error": without_credentials(error)} if error is not None else {}),
        }
        report_path = None
        if self.metrics():
            with files.writing(self.directory / "report.html"):
                report_path = report.write(self.directory, summary, self._plan, with_pictures=status != "failed")
        files.atomic_write_text(self.directory / SUMMARY, json.dumps(summary, indent=2, allow_nan=False) + "\n")
        self.tracker.finish(failed=status == "failed")
        self._say_results(summary, report_path)

    def _say_results(self, summary: dict[str, Any], report_path: Path | None) -> None:
        results = last_table.rows(summary, self._resolved["sampler"]["generate_length"])
        if results:
            self._console.table("Evaluation", *last_table.shown(last_table.HEADER, summary, results))
            if summary["final"]:
                self.say(last_table.LEGEND)
        if "error" in summary:
            self.say(f"Error: {summary['error']}")
        self.say(f"Run {summary['status']} after {summary['steps']} steps{last_table.evaluated(summary)}.")
        if "best" in summary:
            best = summary["best"]
            where = ", in best_model/" if summary["status"] == "completed" else ""
            self.say(f"Best {best['metric']}: {best['value']:.4f} at step {best['step']}{where}.")
        self.say(f"Run folder: {self.directory}")
        if report_path is not None:
            self.say(f"Report: {report_path}")


class SilentRun(Run):
    """The run as every process but the first has it: same interface, nothing shown and nothing written."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.is_complete = directory, False
        self._console = Console(None, quiet=True)

    def rewind(self, step: int, evaluated: int) -> None:
        pass

    def lacking_rows(self, step: int) -> int:
        return 0

    def sync(self) -> None:
        pass

    def log(self, step: int, metrics: Metrics) -> None:
        _check_finite(step, metrics)

    def contamination(self, shares: Mapping[str, Mapping[str, Any]]) -> None:
        pass

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        pass

    def rows(self, name: str, scores: Sequence[RowScores]) -> None:
        pass

    def answers(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        pass

    def going_on(self, **figures: Any) -> None:
        pass

    def finish(self, status: str, **summary: Any) -> None:
        pass


def _check_finite(step: int, metrics: Metrics) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise RunFailure(f"{name} became {value} at step {step}; a lower optimizer.lr is the usual cure.")


class StopSignals:
    """A context in which the first SIGTERM or Ctrl-C sets `requested` instead of ending the process; a later Ctrl-C
    raises KeyboardInterrupt."""

    MESSAGE = b"\nStopping: finishing this step, then saving; press Ctrl-C again to end at once.\n"

    def __init__(self, quiet: bool = False) -> None:
        self.requested, self._quiet = False, quiet
        self._previous: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> "StopSignals":
        self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.requested and not self._quiet:
            os.write(2, self.MESSAGE)  # print is not safe in a handler: it may interrupt another print
        self.requested = True
