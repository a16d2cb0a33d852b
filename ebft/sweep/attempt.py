"""One attempt at a job: `ebft-train` in a process of its own, on whatever machine this is called."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ebft.config.quoting import quoted
from ebft.output import files
from ebft.sweep import state as states
from ebft.sweep.jobs import Job

CHILD = "ebft.cli.job"  # ebft-train, ending with the process that started it
PARENT = "EBFT_SWEEP_PROCESS"  # the environment variable that tells a child which that is
INTERRUPTED = 130
POLL_SECONDS = 0.2
SAVING_SECONDS = 60.0  # what a job that is queued again allows the run of its earlier process for saving
TAIL_BYTES = 4096


@dataclass(frozen=True)
class AttemptResult:
    kind: str  # done, failed, interrupted (killed from outside, or asked to stop), running (somebody else is at it)
    note: str = ""


class Attempt:
    """A running job. Holds the job's lock until its end is recorded, and the process holds it too, should this one be
    killed."""

    def __init__(self, directory: Path, job: Job, environment: Mapping[str, str], descriptor: int) -> None:
        self.directory, self.job, self._descriptor = directory, job, descriptor
        self.log = directory / "logs" / f"{job.name}.log"
        files.make_folder(self.log.parent)
        with files.appending(self.log) as log:
            self._process = _start(directory, job, environment, log, [descriptor])

    @classmethod
    def start(cls, directory: Path, job: Job, environment: Mapping[str, str]) -> "Attempt | AttemptResult":
        """An attempt, or what makes one needless: the job is somebody else's, or it has ended in the meantime."""
        descriptor = states.claim(directory, job)
        if descriptor is None:
            return AttemptResult(states.RUNNING)
        known = states.state_unlocked(directory, job)
        if known.kind in (states.DONE, states.FAILED, states.STOPPED):
            os.close(descriptor)
            return AttemptResult(known.kind, known.note)
        try:
            return cls(directory, job, environment, descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def poll(self) -> AttemptResult | None:
        """How the attempt ended: None while it runs; afterwards how it ended, which is then on record and the lock
        free."""
        code = self._process.poll()
        if code is None:
            return None
        outcome = self._outcome(code)
        if outcome.kind == states.FAILED:
            states.record(self.directory, self.job, states.FAILED, outcome.note)
        os.close(self._descriptor)
        return outcome

    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """Asks the run to finish its step, save and end."""
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def _outcome(self, code: int) -> AttemptResult:
        known = states.state_unlocked(self.directory, self.job)
        if known.kind in (states.DONE, states.STOPPED):
            return AttemptResult(known.kind, known.note)
        if code < 0:
            return AttemptResult(states.INTERRUPTED, f"killed by {signal.Signals(-code).name}")
        if code == INTERRUPTED:
            return AttemptResult(states.INTERRUPTED, "interrupted")
        return AttemptResult(states.FAILED, f"{last_line(self.log)} (exit code {code}, {self.log})")


def _start(
    directory: Path, job: Job, environment: Mapping[str, str], log: IO[bytes], descriptors: Sequence[int] = ()
) -> "subprocess.Popen[bytes]":
    run = files.make_folder(directory / "runs") / job.name
    files.refuse_links([run])
    command = [sys.executable, "-P", "-m", CHILD, *job.overrides, f"hydra.run.dir={quoted(str(run))}"]
    variables = {**os.environ, **environment, PARENT: str(os.getpid())}
    return subprocess.Popen(
        command,
        stdout=log,
        stderr=log,
        stdin=subprocess.DEVNULL,
        pass_fds=descriptors,
        start_new_session=True,
        env=variables,
    )


def follow(directory: Path, job: Job, environment: Mapping[str, str]) -> AttemptResult:
    """A further process of an attempt that the first of several tasks performs, which alone knows and records how it
    ends. It has the rank that the environment says."""
    known = states.state_unlocked(directory, job)
    if known.kind in (states.DONE, states.FAILED, states.STOPPED):
        return AttemptResult(known.kind, known.note)
    path = directory / "logs" / f"{job.name}.rank_{os.environ['RANK']}.log"
    files.make_folder(path.parent)
    with files.appending(path) as log:
        code = _start(directory, job, environment, log).wait()
    return AttemptResult(states.RUNNING, f"exit code {code}")


def perform(directory: Path, job: Job, environment: Mapping[str, str]) -> AttemptResult:
    """An attempt from start to end, for launchers that bring a function to another machine."""
    attempt = Attempt.start(directory, job, environment)
    deadline = time.monotonic() + SAVING_SECONDS
    while isinstance(attempt, AttemptResult) and attempt.kind == states.RUNNING and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        attempt = Attempt.start(directory, job, environment)
    if isinstance(attempt, AttemptResult):
        return attempt
    while (outcome := attempt.poll()) is None:
        if states.state_unlocked(directory, job).kind == states.STOPPED:
            attempt.stop()
        time.sleep(POLL_SECONDS)
    return outcome


def last_line(log: Path) -> str:
    """What a program said last: the sentence of a refusal, or the exception below a traceback."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
