"""The runner's hold on one zygote, which runs one program at a time."""

import contextlib
import dataclasses
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ebft.sandbox.levels import Settings
from ebft.sandbox.programs import Program, ProgramResult
from ebft.sandbox.tester import CLOSED, PASSED, ProgramTester
from ebft.sandbox.wire import Channel

_PATH = str(Path(__file__).parents[2])  # where `import ebft` finds this package
_COMMAND = [sys.executable, "-P", "-s", "-S", "-c", "from ebft.sandbox.zygote import main; main()"]
_PATIENCE_SECONDS = 60.0  # for our own machinery, on a machine that is busy


class Worker:
    """Starts a zygote. OSError and EOFError are failures of our machinery, after which only `close` makes sense."""

    def __init__(self, settings: Settings, seconds: float) -> None:
        self._seconds, self._output_bytes = seconds, settings.limits.output_bytes
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
            self.parts: list[str] = self._listen()
            undo.pop_all()

    def run(self, program: Program) -> ProgramResult:
        started = time.monotonic()
        with contextlib.ExitStack() as stack:
            pairs = [socket.socketpair() for _ in range(2 if program.tests.code else 1)]
            for ours, theirs in pairs:
                stack.enter_context(ours)
                stack.enter_context(theirs)
            socket.send_fds(self._socket, [b"s"], [theirs.fileno() for _, theirs in pairs])
            channels = [Channel(ours, self._output_bytes) for ours, _ in pairs]
            for channel, (_, theirs) in zip(channels, pairs, strict=True):
                theirs.close()
                channel.deadline = started + _PATIENCE_SECONDS
                assert channel.receive() == ["ready"]
            started = time.monotonic()
            for channel in channels:
                channel.deadline = started + self._seconds
            tester = ProgramTester(program, channels[0], channels[1] if program.tests.code else None)
            kind = tester.kind()
            self._socket.sendall(b"w" if kind == CLOSED else b"k")
            seconds = time.monotonic() - started
        endings = self._listen()
        if kind == CLOSED:
            kind = self._cause(endings)
        return ProgramResult("passed" if kind == PASSED else "failed", kind, tester.num_tests, seconds)

    def close(self) -> None:
        """End the zygote and all that it runs."""
        self._socket.close()
        try:
            self._process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _listen(self) -> list[Any]:
        self._control.deadline = time.monotonic() + _PATIENCE_SECONDS
        _, content = self._control.receive()
        return content

    def _cause(self, endings: list[Any]) -> str:
        """How a program failed whose process closed its socket. Under the filter it cannot kill itself, and no limit of
        ours kills."""
        for ending in endings:
            if ending == "output":
                return "output"
            if ending == -signal.SIGKILL and "seccomp" in self.parts:
                raise OSError("the system killed the program's process, perhaps for want of memory")
        return "exit"
