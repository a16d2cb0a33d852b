"""Whether a folder can take a run or an evaluation: looked at before anything is loaded, so it needs no torch."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ebft.config import doors
from ebft.config.identity import CHANGEABLE_KEYS, CODE, LENGTH_KEYS, flat, resolved
from ebft.config.schema import EvaluateConfig, TrainConfig, UserError
from ebft.config.stored import read_config, text_of
from ebft.output import files, row_scores, tracking
from ebft.output.masking import MASK, without_secrets
from ebft.output.visible import is_plain

CONFIG, ENVIRONMENT, METRICS, SUMMARY = "config.yaml", "environment.json", "metrics.jsonl", "summary.json"
SAMPLES, ANSWERS, CONTAMINATION = "samples.jsonl", "answers.jsonl", "contamination.json"
LOG = "train.log"
RUN_IDS = {"wandb": "wandb_run_id", "trackio": "trackio_run_id"}  # of the records of trackers
EXPORTS = ("model", "adapter", "best_model", "best_adapter")
LONGEST_NAME = 255  # of a record
NAMED = 5  # keys of another config that a refusal names
WRITTEN = (
    CONFIG,
    ENVIRONMENT,
    METRICS,
    SUMMARY,
    SAMPLES,
    ANSWERS,
    CONTAMINATION,
    row_scores.FOLDER,
    LOG,
    *RUN_IDS.values(),
    "report.html",
    "checkpoints",
    *EXPORTS,
    "plots",
    "profile",
    "code",
    "wandb",
    "tensorboard",
)
EVALUATION_LOG = "evaluate.log"
WRITTEN_BY_EVALUATION = (
    CONFIG,
    ENVIRONMENT,
    SAMPLES,
    ANSWERS,
    "eval.md",
    "eval.json",
    "plots",
    row_scores.FOLDER,
    EVALUATION_LOG,
    "wandb",
    "tensorboard",
)


def check(directory: Path, config: TrainConfig) -> None:
    """UserError where the folder cannot take this run: a file, foreign files, no right to write, or an earlier run
    that it would not continue."""
    if directory.exists() and not directory.is_dir():
        raise UserError(f"The run folder {directory} is a file; choose another hydra.run.dir.")
    if not os.access(_existing(directory), os.W_OK | os.X_OK):
        raise UserError(f"The run folder {directory} cannot be written; choose another hydra.run.dir.")
    tracking.check(config.tracker)
    files.refuse_links(directory / name for name in WRITTEN)
    for file in RUN_IDS.values():
        if (directory / file).exists():
            record_of(directory / file)
    if not (directory / CONFIG).exists():
        if directory.exists() and any(not entry.name.startswith(".") for entry in directory.iterdir()):
            raise UserError(f"{directory} holds files but no run; choose an empty or a new hydra.run.dir.")
        return
    if config.resume == "never":
        raise UserError(
            f"{directory} already holds a run; continue it with resume=auto or choose another hydra.run.dir."
        )
    changes = [change for key, change in _changes(directory, config) if not _is_changeable(key)]
    if changes:
        more = f"; and {len(changes) - NAMED} more" if len(changes) > NAMED else ""
        raise UserError(
            f"{directory} holds a run of another config ({'; '.join(changes[:NAMED])}{more}); set these back or "
            "choose another hydra.run.dir."
        )


def record_of(path: Path) -> str:
    """The name of a tracker's record in a file of the run. Raises UserError for what is no name of one."""
    try:
        name = text_of(path).strip()
    except (OSError, ValueError):
        name = ""
    if not name or len(name) > LONGEST_NAME or "/" in name or not is_plain(name):
        raise UserError(f"{path} names no record of a tracker; remove it, and the run begins another.")
    return name


def check_evaluation(directory: Path, config: EvaluateConfig) -> None:
    """Raises UserError for a folder that holds anything but this very evaluation: nothing of another's is
    overwritten."""
    tracking.check(config.tracker)
    files.refuse_links(directory / name for name in WRITTEN_BY_EVALUATION)
    if not directory.is_dir():
        return
    names = sorted(entry.name for entry in directory.iterdir())
    others = [name for name in names if name not in WRITTEN_BY_EVALUATION and not name.startswith(".")]
    if others or ((directory / CONFIG).exists() and not (directory / EVALUATION_LOG).exists()):
        raise UserError(
            f"{directory} holds {(others or [CONFIG])[0]}, which is no evaluation's; choose an empty or a new "
            "hydra.run.dir."
        )
    if not (directory / CONFIG).exists():
        return
    there = flat(read_config(directory / CONFIG, "choose another hydra.run.dir"))
    here = flat(without_secrets(resolved(config)))
    changed = [key for key in sorted(here.keys() | there.keys()) if here.get(key) != there.get(key)]
    if changed:
        raise UserError(
            f"{directory} holds another evaluation, of another {', '.join(changed[:5])}; choose another hydra.run.dir."
        )


def is_complete(directory: Path, config: TrainConfig) -> bool:
    """Whether a run of this length was completed here; one that is now to be longer was not."""
    if not (directory / SUMMARY).exists() or any(key in LENGTH_KEYS for key, _ in _changes(directory, config)):
        return False
    try:
        return bool(json.loads(text_of(directory / SUMMARY))["status"] == "completed")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{directory / SUMMARY} is damaged; remove it, and the run goes on from its newest checkpoint."
        ) from error


def _existing(path: Path) -> Path:
    """The path or its nearest parent that exists."""
    return next(candidate for candidate in (path.absolute(), *path.absolute().parents) if candidate.exists())


def _is_changeable(key: str) -> bool:
    return any(key == changeable or key.startswith(f"{changeable}.") for changeable in CHANGEABLE_KEYS)


def _changes(directory: Path, config: TrainConfig) -> Iterator[tuple[str, str]]:
    """Keys in which the folder's config differs from this one, and how. What an older version took for a secret
    (data.end_token) nobody knows; the checkpoint's digest of the rows tells another text apart."""
    stored = flat(read_config(directory / CONFIG, "choose another hydra.run.dir"))
    current = flat(without_secrets(resolved(config)))
    for key in [*current, *(key for key in stored if key not in current)]:
        there, here = (side.get(key, "absent") for side in (stored, current))
        is_younger = there == "absent" and here is None  # than the run, and off
        if there not in (here, MASK) and not is_younger:
            yield key, _change(key, there, here)


def _change(key: str, there: Any, here: Any) -> str:
    group, _, reference = key.partition(".")
    if group == CODE and "absent" not in (there, here):
        return f"the file of {reference} has changed since; the run's own is in its folder {doors.FOLDER}/"
    return f"{key} is {there} there, {here} here"
