"""What is known of a job from the sweep's folder, and the lock that keeps two processes from working on it."""

import errno
import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path

from ebft.config.schema import RunFailure
from ebft.config.stored import text_of
from ebft.output import files
from ebft.sweep.jobs import Job, folder

RECORDS = "records"  # below the sweep's folder
DONE, FAILED, STOPPED, RUNNING, INTERRUPTED, NEW = "done", "failed", "stopped", "running", "interrupted", "not started"


@dataclass(frozen=True)
class State:
    kind: str  # one of the above
    note: str = ""  # why a failed or stopped run is


def state(directory: Path, job: Job) -> State:
    """The state of a job, from the run's summary, the record of its end, its lock, and whether it has a folder."""
    kept = state_unlocked(directory, job)
    return State(RUNNING) if kept.kind != DONE and is_claimed(directory, job) else kept


def state_unlocked(directory: Path, job: Job) -> State:
    """The same as `state`, for somebody who holds the lock or does not care."""
    run = folder(directory, job.name)
    try:
        summary = _read(run / "summary.json", "status")
        recorded = _read(_record(directory, job), "kind", "note")
    except _Damaged as damage:
        return State(FAILED, f"{damage} is damaged; remove it, and the run goes on from its newest checkpoint")
    if summary is not None and summary["status"] == "completed":
        return State(DONE)
    if recorded is not None:
        return State(recorded["kind"], recorded["note"])
    return State(INTERRUPTED) if run.exists() else State(NEW)


class _Damaged(Exception):
    """A file that neither a run nor a sweep has written."""


def _read(path: Path, *keys: str) -> dict[str, str] | None:
    """The texts under these keys of a JSON file; None where there is no such file, which others may remove at any time:
    a run its summary when it goes on, another sweep a record. Raises _Damaged."""
    try:
        content = json.loads(text_of(path))
        found = {key: content[key] for key in keys}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise _Damaged(str(path)) from error
    if not all(isinstance(value, str) for value in found.values()):
        raise _Damaged(str(path))
    return found


def record(directory: Path, job: Job, kind: str, note: str) -> None:
    """Keeps why a job ended without a result."""
    path = _record(directory, job)
    files.make_folder(path.parent)
    files.atomic_write_text(path, json.dumps({"kind": kind, "note": note}) + "\n")


def forget(directory: Path, job: Job) -> None:
    """The job may be tried again."""
    _record(directory, job).unlink(missing_ok=True)


def _record(directory: Path, job: Job) -> Path:
    return directory / RECORDS / f"{job.name}.json"


def claim(directory: Path, job: Job) -> int | None:
    """A descriptor that holds the job's lock until it and all copies of it are closed, as they are when a process ends;
    None: another holds it."""
    path = _lock(directory, job)
    files.make_folder(path.parent)
    return _locked(path, files.descriptor(path, os.O_RDWR), fcntl.LOCK_EX)


def is_claimed(directory: Path, job: Job) -> bool:
    """Asked with a shared lock, for which it is enough that the sweep can be read: it may be somebody else's."""
    try:
        path = _lock(directory, job)
        descriptor = _locked(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC), fcntl.LOCK_SH)
    except (FileNotFoundError, NotADirectoryError):
        return False
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


def _lock(directory: Path, job: Job) -> Path:
    return directory / "locks" / job.name


def _locked(path: Path, descriptor: int, kind: int) -> int | None:
    """The descriptor of `path` with the lock, or None where another's is in the way. Raises RunFailure where there are
    no locks."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        raise RunFailure(
            f"{path} cannot be locked ({error.strerror}); put sweep.dir on a file system that has locks."
        ) from error
    return descriptor
