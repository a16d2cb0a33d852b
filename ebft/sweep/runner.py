"""The loop of a sweep: starts what can start, takes note of what has ended, and says so.

It may be killed at any point: what is done lies in the run folders, a started run goes on from its checkpoint, and a
second sweep on the same folder leaves alone what this one is working on.
"""

import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Protocol, runtime_checkable

from ebft.config.sweeps import GridConfig
from ebft.output.console import clock
from ebft.output.metric_names import lower_is_better
from ebft.sweep import state as states
from ebft.sweep.attempt import AttemptResult
from ebft.sweep.jobs import Job, folder
from ebft.sweep.launchers import Handle, Launcher
from ebft.sweep.stopping import course, is_hopeless

POLL_SECONDS = 0.1
SECONDS_BETWEEN_LOOKS = 2.0  # at jobs that another sweep works on, and at the evaluations of running jobs
ENDED = (states.DONE, states.FAILED, states.STOPPED)
GRACE_SECONDS = 600.0  # for runs to save after Ctrl-C; a second Ctrl-C ends them at once


@runtime_checkable
class JobSource(Protocol):
    """A source of jobs: a grid has them all at once, a search decides from what has ended."""

    def next(self) -> Sequence[Job]:
        """Jobs to add now; none while it waits for others, and none at its end."""
        ...

    def ended(self, job: Job, state: states.State) -> None: ...


class GridSource:
    """All jobs at once."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = list(jobs)

    def next(self) -> Sequence[Job]:
        jobs, self._jobs = self._jobs, []
        return jobs

    def ended(self, job: Job, state: states.State) -> None:
        pass


@dataclass
class Progress:
    """The state of every job of a sweep."""

    waiting: list[Job] = field(default_factory=list)
    # name -> job, handle, when it was started
    running: dict[str, tuple[Job, Handle, float]] = field(default_factory=dict)
    elsewhere: dict[str, Job] = field(default_factory=dict)  # another sweep works on them
    ended: dict[str, states.State] = field(default_factory=dict)
    restarts: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)  # that the jobs which this sweep completed took


class SweepRunner:
    def __init__(
        self,
        directory: Path,
        config: GridConfig,
        launcher: Launcher,
        source: JobSource,
        keep: Callable[[Sequence[Job]], None],  # called with all jobs so far before new ones start
        say: Callable[[str], None],
    ) -> None:
        self.directory, self.config, self.launcher, self.source, self.keep, self.say = (
            directory,
            config,
            launcher,
            source,
            keep,
            say,
        )
        self.jobs: dict[str, Job] = {}
        self.progress = Progress()
        self.stop_requests = 0
        self._looked = 0.0

    def run(self) -> dict[str, states.State]:
        """The state of every job when there is nothing left to do, or when a signal came."""
        previous = {number: signal.signal(number, self._handle_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self._add_all()
            self._say_what_was_done()
            while self._is_busy() and not self.stop_requests:
                self._start_what_can()
                time.sleep(POLL_SECONDS)
                self._collect_what_ended()
                self._look()
                self._add_all()
            if self.stop_requests:
                self._wind_down()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self.launcher.close()
        return {name: self.progress.ended.get(name, states.State(states.INTERRUPTED)) for name in self.jobs}

    def _handle_signal(self, number: int, frame: object) -> None:
        self.stop_requests += 1

    def _is_busy(self) -> bool:
        return bool(self.progress.waiting or self.progress.running or self.progress.elsewhere)

    def _add_all(self) -> None:
        """New jobs wait; of those that ended before this sweep began only the state is taken."""
        while jobs := self.source.next():
            for job in jobs:
                self.jobs[job.name] = job
                known = self._known(job)
                if known.kind in ENDED:
                    self._take(job, known)
                else:
                    self.progress.waiting.append(job)
            self.keep(list(self.jobs.values()))

    def _known(self, job: Job) -> states.State:
        known = states.state(self.directory, job)
        again = {states.FAILED: self.config.retry_failed, states.STOPPED: self.config.early_stopping == "none"}
        if not again.get(known.kind, False):
            return known
        states.forget(self.directory, job)
        return states.State(states.INTERRUPTED)

    def _say_what_was_done(self) -> None:
        if self.progress.ended:
            counts = Counter(known.kind for known in self.progress.ended.values())
            self.say(
                f"{', '.join(f'{count} {kind}' for kind, count in counts.items())} before, of {len(self.jobs)} runs"
            )

    def _start_what_can(self) -> None:
        for job in list(self.progress.waiting):
            if self.stop_requests or not self.launcher.room():
                return
            if self._is_blocked(job) or self._is_hopeless_cell(job):
                continue
            self.progress.waiting.remove(job)
            handle = self.launcher.start(job)
            if not isinstance(handle, AttemptResult):
                self.progress.running[job.name] = (job, handle, time.monotonic())
                self.say(f"started   {self._title(job)}")
            elif handle.kind == states.RUNNING:
                self.progress.elsewhere[job.name] = job
                self.say(f"elsewhere {self._title(job)}: another ebft-sweep is at it")
            else:
                self._end(job, states.State(handle.kind, handle.note))

    def _is_blocked(self, job: Job) -> bool:
        """Waits for the run that it starts from, and fails with it."""
        if job.needs is None:
            return False
        needed = self.progress.ended.get(job.needs)
        if needed is None:
            return True
        if needed.kind != states.DONE:
            self.progress.waiting.remove(job)
            self._end(job, states.State(states.FAILED, f"{job.needs}, whose model it starts from, is {needed.kind}"))
            return True
        return False

    def _collect_what_ended(self) -> None:
        for name, (job, handle, started) in list(self.progress.running.items()):
            outcome = handle.poll()
            if outcome is None:
                continue
            del self.progress.running[name]
            if outcome.kind == states.RUNNING:  # somebody was faster on another machine
                self.progress.elsewhere[name] = job
            elif outcome.kind == states.INTERRUPTED and not self.stop_requests:
                self._restart(job, outcome.note)
            elif outcome.kind != states.INTERRUPTED:
                if outcome.kind == states.DONE:
                    self.progress.seconds.append(time.monotonic() - started)
                self._end(job, states.State(outcome.kind, outcome.note))

    def _restart(self, job: Job, note: str) -> None:
        self.progress.restarts[job.name] += 1
        if self.progress.restarts[job.name] <= self.config.max_restarts:
            self.say(f"again     {self._title(job)}: {note}; going on from its checkpoint")
            self.progress.waiting.insert(0, job)
            return
        note = f"{note}, {self.progress.restarts[job.name]} times in this sweep"
        states.record(self.directory, job, states.FAILED, note)
        self._end(job, states.State(states.FAILED, note))

    def _look(self) -> None:
        """Now and then: at what another sweep works on, and at how the running jobs do."""
        if time.monotonic() - self._looked < SECONDS_BETWEEN_LOOKS:
            return
        self._looked = time.monotonic()
        for name, job in list(self.progress.elsewhere.items()):
            known = states.state(self.directory, job)
            if known.kind == states.RUNNING:
                continue
            del self.progress.elsewhere[name]
            if known.kind in ENDED:
                self._end(job, known)
            else:
                self.progress.waiting.append(job)
        if self.config.early_stopping == "median":
            self._stop_the_hopeless()

    def _stop_the_hopeless(self) -> None:
        """A run goes when it does worse than the median of the runs of other cells; the rest of its cell does not
        start."""
        lower, metric = lower_is_better(self.config.metric), self.config.metric
        assert lower is not None, metric
        known = {name: course(folder(self.directory, name), metric) for name in self.jobs}
        for name, (job, handle, _) in self.progress.running.items():
            others = [theirs for other, theirs in known.items() if theirs and _cell(self.jobs[other]) != _cell(job)]
            if states.state_unlocked(self.directory, job).kind != states.STOPPED and is_hopeless(
                known[name], others, lower, self.config.early_stopping_after
            ):
                last = max(known[name])
                value = f"{metric} {known[name][last]:.4f}"
                note = f"stopped early at step {last}: {value} is worse than the median of the others"
                states.record(self.directory, job, states.STOPPED, note)
                handle.stop()

    def _is_hopeless_cell(self, job: Job) -> bool:
        stopped = [
            name
            for name, known in self.progress.ended.items()
            if known.kind == states.STOPPED and _cell(self.jobs[name]) == _cell(job)
        ]
        if not stopped or job.name in stopped:
            return False
        self.progress.waiting.remove(job)
        note = f"not started: {stopped[0]} of the same cell was stopped early"
        states.record(self.directory, job, states.STOPPED, note)
        self._end(job, states.State(states.STOPPED, note))
        return True

    def _end(self, job: Job, known: states.State) -> None:
        self._take(job, known)
        self.say(f"{known.kind:9} {self._title(job)}{f': {known.note}' if known.note else ''} ({self._standing()})")

    def _take(self, job: Job, known: states.State) -> None:
        self.progress.ended[job.name] = known
        self.source.ended(job, known)

    def _standing(self) -> str:
        """How far the sweep is, and for how long it will go on if the rest takes as long as what it has done."""
        counts = Counter(known.kind for known in self.progress.ended.values())
        text = f"{counts[states.DONE]} of {len(self.jobs)} done" + (
            f", {counts[states.FAILED]} failed" if counts[states.FAILED] else ""
        )
        left, at_a_time = (
            len(self.progress.waiting) + len(self.progress.running),
            max(1, len(self.progress.running) + 1),
        )
        return text + (
            f", {clock(fmean(self.progress.seconds) * left / at_a_time)} left" if left and self.progress.seconds else ""
        )

    def _wind_down(self) -> None:
        """Running jobs save and end; a second signal ends them at once."""
        self.say(
            f"stopping: {len(self.progress.running)} runs finish their step and save; press Ctrl-C again to end at once"
        )
        for _, handle, _ in self.progress.running.values():
            handle.stop()
        deadline = time.monotonic() + GRACE_SECONDS
        while self.progress.running and time.monotonic() < deadline:
            if self.stop_requests > 1:
                for _, handle, _ in self.progress.running.values():
                    handle.kill()
            self._collect_what_ended()
            time.sleep(POLL_SECONDS)

    @staticmethod
    def _title(job: Job) -> str:
        return f"{job.name}  {title(job)}"


def title(job: Job) -> str:
    """What tells the job from the others, for people."""
    return " ".join([*([job.variant] if job.variant else []), *(f"{key}={value}" for key, value in job.keys.items())])


def _cell(job: Job) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Jobs of one cell differ in their seed alone."""
    return job.variant, tuple((key, value) for key, value in job.keys.items() if key != "seed")
