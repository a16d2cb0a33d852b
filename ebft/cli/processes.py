"""A run of several processes: started here with trainer.processes=N, or joined where torchrun or srun has started them.

Only the first process composes a configuration, decides the run folder and refuses; the others get from it what to do.
A parent that starts workers never loads torch: it passes signals on, and when a worker fails it ends the others and
says which one it was and why.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import yaml
from omegaconf import OmegaConf

from ebft.cli.compose import to_config
from ebft.cli.uncollected import uncollected
from ebft.config.quoting import plain
from ebft.config.rules import split_conflicts
from ebft.config.schema import RunFailure, TrainConfig, UserError
from ebft.parallel.pulse import LOST, VERDICT
from ebft.sweep.attempt import PARENT

POLL_SECONDS, ENDING_SECONDS = 0.1, 5.0  # ENDING_SECONDS: for the others to end by themselves when one has failed
INTERRUPTED, REFUSED = 130, 2

_others_know: list[bool] = []  # filled once the first process has told the others what to do


def perform(config: TrainConfig, run_dir: Path) -> str:
    """Run `config` in as many processes as it asks for or there are. Returns `completed` or `interrupted`; raises
    UserError and RunFailure."""
    wanted = config.trainer.processes or 1
    if wanted > 1 and "RANK" not in os.environ:
        return launch(config, run_dir, wanted)
    with uncollected():
        from ebft.parallel.world import current_world

    world = current_world()
    if config.trainer.processes not in (None, world.size):
        raise UserError(
            f"trainer.processes={config.trainer.processes}, but {world.size} were started already; leave it out, or "
            "start one process."
        )
    for message in split_conflicts(config.trainer, world.size, f"A run of {world.size} processes"):
        raise UserError(message)
    world.broadcast((config, run_dir))
    _others_know.append(True)
    return work(config, run_dir)


def work(config: TrainConfig, run_dir: Path) -> str:
    """This process's part of a run, when all know what it is."""
    with uncollected():
        import transformers.modeling_utils  # noqa: F401, which set-up would import

        from ebft.parallel.world import current_world, watching
        from ebft.train.loop import train

    world = current_world()
    with watching(world, config.trainer.hang_seconds):
        return train(config, run_dir, world)


def take_part(lead: Callable[[], None]) -> None:
    """The part of one of several processes that something else has started: the first one leads, the others follow."""
    with uncollected():
        from ebft.parallel.world import process_group

    with process_group() as world:
        if not world.is_rank_zero:
            task: Any = world.broadcast(None)
            if isinstance(task, int):  # the first has ended, and said why
                sys.exit(task)
            if work(*task) == "interrupted":
                sys.exit(INTERRUPTED)
            return
        code = 1
        try:
            lead()
            code = 0
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
            raise
        finally:
            if not _others_know:
                world.broadcast(code)


def launch(config: TrainConfig, run_dir: Path, size: int, worker: str = "ebft.cli.worker") -> str:
    """Start `size` workers on this machine and see them through. Raises what they refuse as SystemExit, for they have
    said it."""
    with TemporaryDirectory(prefix="ebft-") as logs:  # this user's alone: the config may hold names that are secret
        path = Path(logs) / "task.yaml"
        with path.open("w", encoding="utf-8") as file:
            yaml.safe_dump({"config": asdict(config), "run_dir": str(run_dir)}, file, sort_keys=False)
        return _Workers(worker, path, Path(logs), size).see_through()


def read_task(path: Path) -> tuple[TrainConfig, Path]:
    """What `launch` has left for its workers."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return to_config(OmegaConf.create(plain(content["config"]))), Path(content["run_dir"])


class _Workers:
    """The processes of one run, by rank."""

    def __init__(self, module: str, task: Path, logs: Path, size: int) -> None:
        self.logs, self.size, self.asked = logs, size, 0
        self.failed: dict[int, int] = {}  # rank -> exit code of those that failed by themselves, in their order
        self.verdict = logs / "verdict"
        common = {
            "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
        }
        threads = int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0))))  # of the run
        common["OMP_NUM_THREADS"] = str(max(1, threads // size))
        variables = {**os.environ, **common, VERDICT: str(self.verdict), PARENT: str(os.getpid())}
        command = [sys.executable, "-P", "-m", module, str(task)]  # -P: a random.py of the user's folder is no module
        self.processes = [self._start(command, rank, variables) for rank in range(size)]

    def _start(self, command: list[str], rank: int, variables: dict[str, str]) -> "subprocess.Popen[bytes]":
        """The first one has the terminal, the others a file each; in a session of its own, so that Ctrl-C comes through
        here alone."""
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        output: IO[bytes] | None = None if rank == 0 else self._log(rank).open("wb")
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**variables, **own},
            )
        finally:
            if output is not None:
                output.close()

    def _log(self, rank: int) -> Path:
        return self.logs / f"rank_{rank}.log"

    def see_through(self) -> str:
        with self._passing_on():
            try:
                while self._look():
                    if self.failed:
                        self._end_others()
                    time.sleep(POLL_SECONDS)
            finally:
                self._kill()
        return self._status([process.returncode for process in self.processes])

    def _look(self) -> bool:
        """Whether any is still at it; takes down who has failed."""
        for rank, process in enumerate(self.processes):
            code = process.poll()
            if code not in (None, 0, INTERRUPTED) and rank not in self.failed:
                self.failed[rank] = code
        return any(process.returncode is None for process in self.processes)

    def _end_others(self) -> None:
        """One has ended before its time; all that wait for it end by themselves, soon."""
        deadline = time.monotonic() + ENDING_SECONDS
        while self._look() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        self._kill()

    def _kill(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()

    @contextmanager
    def _passing_on(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C reach the workers as SIGTERM: they finish their step and save. A second Ctrl-C ends them
        at once."""

        def pass_on(number: int, frame: Any) -> None:
            self.asked += 1
            if self.asked > 1 and number == signal.SIGINT:
                self._kill()
                return
            for process in self.processes:
                process.terminate()

        before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _status(self, codes: list[int]) -> str:
        if not any(codes):
            return "completed"
        if not self.failed or self.asked > 1:
            return "interrupted"
        if codes[0] == REFUSED:
            sys.exit(REFUSED)
        raise RunFailure(self._blame(codes))

    def _blame(self, codes: list[int]) -> str:
        """Who failed, and why: killed ones come before those that failed by themselves, and these before those that
        lost contact."""
        if self.verdict.is_file():
            return self.verdict.read_text(encoding="utf-8")
        rank = min(self.failed, key=lambda rank: (codes[rank] > 0, codes[rank] == LOST))
        if codes[rank] < 0:
            how = f"was killed by {signal.Signals(-codes[rank]).name}"
        elif rank == 0:
            how = f"failed with exit code {codes[rank]}"
        else:
            said = self._log(rank).read_text(encoding="utf-8", errors="replace").strip()
            return f"{said}\nRank {rank} of {self.size} failed with exit code {codes[rank]}; all processes have ended."
        return (
            f"Rank {rank} of {self.size} {how}, so all processes have ended; "
            "the same command goes on from the last checkpoint."
        )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
