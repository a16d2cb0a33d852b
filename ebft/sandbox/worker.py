"""The runner's hold on one zygote, which runs one program at a time."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ebft.sandbox.levels import Settings
from ebft.sandbox.limits import Stopwatch
from ebft.sandbox.programs import Program, ProgramResult
from ebft.sandbox.tester import (
    CLOSED,
    IN_PROCESS,
    PASSED,
    STARVED,
    Asker,
    BesideTester,
    CaseTester,
    Reader,
    RelayTester,
    ScriptTester,
)
from ebft.sandbox.wire import Channel

_PATH = str(Path(__file__).parents[2])  # where `import ebft` finds this package
_COMMAND = [sys.executable, "-P", "-s", "-S", "-c", "from ebft.sandbox.zygote import main; main()"]
_READING_SECONDS = 1.0  # of processor time; a text of some pages takes milliseconds
_PATIENCE_SECONDS = 60.0  # for our own machinery, on a machine that is busy


class ZygoteStopped(Exception):
    """Our process does not run on: a program has stopped it, which needs no more than the same user where no filter is
    in its way."""


class Worker:
    """Starts a zygote. OSError and EOFError are failures of our machinery, after which only `close` makes sense.

    A program with all its tests may take `cpu_seconds` of processor time, and `clock_seconds` beside what it waits for
    a processor. With `strict`, tests never run in a program's own process.
    """

    def __init__(self, settings: Settings, cpu_seconds: float, clock_seconds: float, strict: bool) -> None:
        self._cpu_seconds, self._clock_seconds, self._strict = cpu_seconds, clock_seconds, strict
        self._output_bytes = settings.limits.output_bytes
        self._socket, theirs = socket.socketpair()
        self._control = Channel(self._socket)
        with contextlib.ExitStack() as undo, theirs:
            undo.callback(self._socket.close)
            self._process = subprocess.Popen(
                [*_COMMAND, json.dumps(dataclasses.asdict(settings)), str(theirs.fileno())],
                env={"PYTHONPATH": _PATH, "PYTHONHASHSEED": "0"},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
            undo.callback(self.close)
            theirs.close()
            self.parts: list[str] = self._listen()[0]
            undo.pop_all()

    def run(self, program: Program) -> ProgramResult:
        """Raises ZygoteStopped, after which only `close` makes sense."""
        tests = program.tests
        if tests.exchanges:
            return self._run_script(program)
        if tests.in_process:
            return self._run_beside(program)
        done = self._attempt(RelayTester(program) if tests.code else CaseTester(program))
        if done.kind != IN_PROCESS:
            return done
        return dataclasses.replace(done, kind="not_plain_data") if self._strict else self._run_beside(program)

    def _run_beside(self, program: Program) -> ProgramResult:
        if self._strict:
            return ProgramResult("failed", IN_PROCESS, 0, 0.0)
        return dataclasses.replace(self._attempt(BesideTester(program)), in_process=True)

    def _run_script(self, program: Program) -> ProgramResult:
        """One process an exchange, all within the limits of one program."""
        passed, cpu = ProgramResult("passed", PASSED, 0, 0.0), 0.0
        for exchange in program.tests.exchanges:
            if len(exchange.given) > self._output_bytes:
                return dataclasses.replace(passed, status="failed", kind="broken_test")
            done = self._attempt(ScriptTester(program, exchange), self._cpu_seconds - cpu)
            cpu += self._taken
            num_tests, seconds = passed.num_tests + done.num_tests, passed.seconds + done.seconds
            passed = dataclasses.replace(done, num_tests=num_tests, seconds=seconds)
            if done.status != "passed":
                break
        return passed

    def read(self, how: str, texts: Sequence[Sequence[str]]) -> list[list[Any] | None]:
        """What each text is read as (reading.WAYS); None for one that takes too much though nothing was read before it
        in its process."""
        found: list[list[Any] | None] = []
        while len(found) < len(texts):
            reader = Reader(how, texts[len(found) :])
            done = self._attempt(reader, _READING_SECONDS)
            if done.status == "error":
                raise OSError(done.kind)
            found += [*reader.found] or [None]
        return found

    def _attempt(self, asker: Asker, cpu_seconds: float | None = None) -> ProgramResult:
        cpu_seconds = self._cpu_seconds if cpu_seconds is None else cpu_seconds
        with contextlib.ExitStack() as stack:
            pairs = [socket.socketpair() for _ in range(asker.num_processes)]
            for ours, theirs in pairs:
                stack.enter_context(ours)
                stack.enter_context(theirs)
            socket.send_fds(self._socket, [b"s"], [theirs.fileno() for _, theirs in pairs])
            channels = [Channel(ours, asker.max_bytes or self._output_bytes) for ours, _ in pairs]
            for channel, (_, theirs) in zip(channels, pairs, strict=True):
                theirs.close()
                channel.patient(_PATIENCE_SECONDS, self._refuse_stopped)
                assert channel.receive() == ["ready"]
            watch = Stopwatch(cpu_seconds, self._clock_seconds, self._times, _is_busy)
            for channel in channels:
                channel.watch(watch.look)
            kind = asker.kind(channels)
            self._socket.sendall(b"w" if kind == CLOSED else b"k")
            seconds = watch.seconds
        endings, self._taken = self._listen()
        if kind == CLOSED:
            kind = self._cause(endings, cpu_seconds)
        if kind == PASSED and self._taken > cpu_seconds and sys.platform == "linux":
            kind = "timeout"  # so that a verdict does not depend on when we looked
        status: Literal["passed", "failed", "error"] = "passed" if kind == PASSED else "failed"
        if kind == STARVED:
            status, kind = "error", "the machine had no processor for the program"
        return ProgramResult(status, kind, asker.num_tests, seconds)

    def _times(self) -> tuple[float | None, float | None]:
        self._socket.sendall(b"t")
        cpu, waited = self._listen()
        return cpu, waited

    def close(self) -> None:
        """End the zygote and all that it runs."""
        self._socket.close()
        if self._is_stopped():
            self._process.kill()
        try:
            self._process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _is_stopped(self) -> bool:
        flags = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        return self._process.poll() is None and os.waitid(os.P_PID, self._process.pid, flags) is not None

    def _refuse_stopped(self) -> None:
        if self._is_stopped():
            raise ZygoteStopped

    def _listen(self) -> list[Any]:
        self._control.patient(_PATIENCE_SECONDS, self._refuse_stopped)
        return self._control.receive()[1:]

    def _cause(self, endings: list[Any], cpu_seconds: float) -> str:
        """How a program failed whose process closed its socket. Under the filter it cannot kill itself, and of our
        limits only the one of processor time kills."""
        for ending in endings:
            if ending == "output":
                return "output"
            if ending == -signal.SIGKILL and self._taken >= cpu_seconds:
                return "timeout"
            if ending == -signal.SIGKILL and "seccomp" in self.parts:
                raise OSError("the system killed the program's process, perhaps for want of memory")
        return "exit"


def _is_busy() -> bool:
    """Whether programs may wait for a processor, on a system that does not say how long they did."""
    return os.getloadavg()[0] > (os.cpu_count() or 1)
