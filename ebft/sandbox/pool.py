"""The sandbox as the rest of the program sees it: programs in, outcomes out, several at a time."""

import importlib.util
import math
import os
import queue
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType

from ebft.config.schema import RunFailure, SandboxConfig, UserError
from ebft.sandbox import levels
from ebft.sandbox.programs import Case, Program, ProgramResult, Read, Tests
from ebft.sandbox.worker import Worker, ZygoteStopped

_DOUBLE = Tests("double", cases=(Case((2,), 4),), code="assert double('ab') == 'abab'\nassert candidate(0.5) == 1.0")
CANARIES = {
    "passed": Program("def double(x):\n    return x + x\n", _DOUBLE),
    "failed": Program("def double(x):\n    return x\n", _DOUBLE),
}


class Sandbox:
    """Runs programs, each in processes of its own, confined as well as this machine allows: at `level` (levels.py).

    Programs have Python's standard library, `config.packages` and nothing else. What is passed to a program's function
    and what it returns must be plain data (wire.py). Where test code needs more than that it runs in the program's own
    process, unless `config.strict`; cases never do, and the outcome is failed, `not_plain_data`. UserError where the
    level is below `config.require`. Whether a model's code may run at all is for the caller to ask. Safe to use from
    several threads; `close` ends all processes, as does the end of a `with` block or of the last reference.
    """

    def __init__(self, config: SandboxConfig) -> None:
        if sys.platform == "win32":
            raise UserError("The sandbox needs Linux or macOS; on Windows, run inside WSL.")
        self._config, self._packages = config, [*map(_folders, config.packages)]
        self._num_workers = config.workers or _num_cores()
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()  # None: to be started when it is needed
        for _ in range(self._num_workers):
            self._idle.put(None)
        self.close = weakref.finalize(self, _close_all, self._idle)
        self.parts = self._probe()
        self.level = levels.level(self.parts)
        self._check_level()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def run(self, program: Program) -> ProgramResult:
        """Waits for a free worker. An outcome of status `error` says what failed of ours."""
        started = time.monotonic()
        try:
            with self._worker() as worker:
                return worker.run(program)
        except ZygoteStopped:
            return ProgramResult("failed", "forbidden", 0, time.monotonic() - started)
        except (OSError, EOFError) as error:
            return ProgramResult("error", f"{type(error).__name__}: {error}", 0, time.monotonic() - started)

    def read_all(self, how: str, texts: Sequence[Sequence[str]]) -> list[Read]:
        """Reads texts in one of `reading.WAYS`, one after another in a confined process; nothing of them is run. Where
        the machine failed it is tried once more."""
        error = ""
        for _ in range(2):
            try:
                with self._worker() as worker:
                    return [Read(found) for found in worker.read(how, texts)]
            except (OSError, EOFError) as failure:
                error = f"{type(failure).__name__}: {failure}"
        return [Read(error=error)] * len(texts)

    @contextmanager
    def _worker(self) -> Iterator[Worker]:
        """A free worker, waited for. One that fails in the block is not used again."""
        assert self.close.alive, "the sandbox is closed"
        worker, sound = self._idle.get(), None
        try:
            worker = worker or self._start()
            if worker.parts != self.parts:
                raise OSError(f"a new process reached {worker.parts} instead of {self.parts}")
            yield worker
            sound = worker
        finally:
            if worker is not None and sound is None:
                worker.close()
            self._idle.put(sound)

    def run_all(self, programs: Sequence[Program]) -> list[ProgramResult]:
        """Runs the programs in parallel and gives their results in order. Where the machine failed one, it is tried
        again alone when the others are done. Those not started within `batch_seconds` are errors."""
        deadline = time.monotonic() + self._config.batch_seconds

        def run(program: Program) -> ProgramResult:
            if time.monotonic() > deadline:
                return ProgramResult("error", "not started within sandbox.batch_seconds", 0, 0.0)
            return self.run(program)

        with ThreadPoolExecutor(self._num_workers) as threads:
            results = list(threads.map(run, programs))
        return [
            run(program) if result.status == "error" else result
            for program, result in zip(programs, results, strict=True)
        ]

    def check_canaries(self) -> None:
        """RunFailure unless a program known to be right passes and one known to be wrong fails."""
        for status, program in CANARIES.items():
            outcome = self.run(program)
            if outcome.status != status:
                raise RunFailure(
                    f"The sandbox cannot be trusted here: a program that should have {status} got {outcome.status} "
                    f"({outcome.kind})."
                )

    def _start(self) -> Worker:
        config = self._config
        limits = levels.Limits(
            cpu_seconds=2 * math.ceil(config.seconds) + 1,
            memory_bytes=config.memory_mb << 20,
            output_bytes=config.output_kb << 10,
            processes=config.processes,
        )
        folders = [folder for found in self._packages for folder in found]
        settings = levels.Settings(levels.PARTS, limits, tempfile.gettempdir(), folders)
        return Worker(settings, config.seconds, config.clock_factor * config.seconds, config.strict)

    def _probe(self) -> list[str]:
        self._idle.get()
        try:
            worker = self._start()
        except (OSError, EOFError) as error:
            raise RunFailure(
                f"The sandbox could not start its first process ({type(error).__name__}: {error})."
            ) from error
        self._idle.put(worker)
        return worker.parts

    def _check_level(self) -> None:
        config, ranks = self._config, list(levels.LEVELS)
        if ranks.index(self.level) < ranks.index(config.require):
            missing = ", ".join(part for part in levels.LEVELS[config.require] if part not in self.parts)
            self.close()
            raise UserError(
                f"sandbox.require={config.require}, but this machine reaches only {self.level}: {missing} failed; "
                f"use another machine, or accept weaker confinement with sandbox.require={self.level}."
            )
        if (config.processes or 1) > 1 and self.level != "namespaces":
            self.close()
            raise UserError(
                f"sandbox.processes={config.processes} can be enforced with namespaces only, which failed here; set "
                "it to 1."
            )


def _folders(package: str) -> list[str]:
    """Where an installed package lies, and the C libraries that it brings. UserError where it is none."""
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"sandbox.packages holds {package}, which is no package that is installed here; install it, or take it out."
        )
    folder = os.path.realpath(spec.submodule_search_locations[0])
    return [path for path in (folder, f"{folder}.libs") if os.path.isdir(path)]


def _num_cores() -> int:
    """This machine's, over the processes of the run that it has, if torchrun or ebft-train has started several."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _close_all(idle: "queue.LifoQueue[Worker | None]") -> None:
    for _ in range(idle.qsize()):
        worker = idle.get()
        if worker is not None:
            worker.close()
