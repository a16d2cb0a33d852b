"""The process that forks one confined process per program, so that none pays for the start of an interpreter.

It is as strong as a fresh interpreter a program. The zygote runs no model code and reads none: a program's text, its
tests and its values go from the runner to the forked process over a socket that the zygote only hands on, so nothing of
one program is in the memory that the next one inherits, which is an interpreter with some of its library imported and
nothing else. Confinement is applied after the fork and before the first byte of the program is read. The interpreter
starts with -P -s -S and a clean environment, which is -I -S but for one variable that -I would ignore: a fixed hash
seed, without which the same program could get another verdict.

The runner writes one byte at a time: `s` with a socket for every process to start, then `t` as often as it wants to
know how much time they had (clocks.py), then `k` to kill them, or `w` to give them a moment to end by themselves first.
The answer to that is how each ended, and the processor time of all: its exit code (a negative signal), "output" if its
files outgrew the limit, null if it had to be killed. It is sent when all of them and all that they started are dead and
their folders are removed. When the runner goes, so does the zygote.
"""

import builtins
import ctypes
import dataclasses
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from ebft.sandbox import clocks, inside, kernel, namespaces
from ebft.sandbox.confinement import MAX_OPEN_FILES, check_limits, confine, library
from ebft.sandbox.levels import MAX_THREADS, PARTS, Limits, Settings
from ebft.sandbox.wire import Channel

MAX_PROCESSES = 2  # of a run: the program and its tests
_WATCH_SECONDS = 0.05  # between two looks at the files of a run
_LAST_MOMENT_SECONDS = 0.05  # a process that closed its socket is most often about to end
_SMALLEST_FILE_BYTES = 4096  # what an empty file counts, as it is not free
_LINKED_LIBRARIES = (
    "libstdc++.so.6",
    "libgcc_s.so.1",
    "libm.so.6",
    "librt.so.1",
    "libdl.so.2",
    "libz.so.1",
    "libpthread.so.0",
)
_LIKELY_IMPORTS = (
    "abc", "array", "base64", "bisect", "cmath", "collections.abc", "copy", "dataclasses", "datetime", "decimal",
    "enum", "fractions", "functools", "hashlib", "heapq", "io", "itertools", "math", "operator", "random", "re",
    "statistics", "string", "textwrap", "typing", "unicodedata",
)  # fmt: skip


@dataclass
class Process:
    pid: int
    folder: str
    flooded: bool = False


def main() -> None:
    """`argv` of the interpreter: settings as JSON, the number of the control socket."""
    given = json.loads(sys.argv[1])
    settings = Settings(given["parts"], Limits(**given["limits"]), given["folder"], given["packages"])
    sys.path[:] = [os.path.realpath(path) for path in sys.path if path != os.environ["PYTHONPATH"]]
    os.environ.clear()
    vars(builtins).update(exit=sys.exit, quit=sys.exit)  # which `site` would have made
    for name in _LIKELY_IMPORTS:
        importlib.import_module(name)
    try:
        Zygote(settings, socket.socket(fileno=int(sys.argv[2]))).serve()
    except (ConnectionError, EOFError):  # the runner was killed while we spoke to it
        return


class Zygote:
    def __init__(self, settings: Settings, control: socket.socket) -> None:
        self._control, self._limits = control, settings.limits
        if sys.platform == "linux":
            kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        self._parts, self._folder, self._packages = _working(settings), settings.folder, settings.packages
        if self._limits.processes is None:
            number = MAX_THREADS if "namespaces" in self._parts else 1
            self._limits = dataclasses.replace(self._limits, processes=number)
        self._clocks = clocks.Clocks()
        if self._packages:
            _load_linked_libraries()
        if "namespaces" in self._parts:
            self._own_processes = namespaces.enter(
                [*library(), *self._packages], MAX_PROCESSES * MAX_OPEN_FILES * self._limits.output_bytes
            )
            self._folder = namespaces.FOLDER
        gc.freeze()  # the garbage collector of a child need not touch, and thereby copy, what it shares with us
        Channel(control).send("parts", self._parts)

    def serve(self) -> None:
        while True:
            order, sockets, _, _ = socket.recv_fds(self._control, 1, MAX_PROCESSES)
            if order != b"s":
                return
            processes = [self._start(number) for number in sockets]
            for number in sockets:
                os.close(number)
            order = self._watch(processes)
            endings = [self._end(process) for process in processes]
            if "seccomp" not in self._parts:
                _kill_descendants(processes)
            for process in processes:
                self._remove_folder(process.folder)
            if not order:
                return
            Channel(self._control).send("ended", [ending for ending, _ in endings], sum(cpu for _, cpu in endings))

    def _start(self, number: int) -> Process:
        folder = self._new_folder()
        pid = namespaces.fork_apart(self._own_processes) if "namespaces" in self._parts else os.fork()
        if pid == 0:
            self._run(number, folder)
        return Process(pid, folder)

    def _new_folder(self) -> str:
        """With a file system of its own and always the same name, where that can be."""
        if "namespaces" not in self._parts:
            return tempfile.mkdtemp(dir=self._folder)
        folder = f"{self._folder}/{len(os.listdir(self._folder))}"
        os.mkdir(folder)
        namespaces.mount_folder(folder, MAX_OPEN_FILES * self._limits.output_bytes)
        return folder

    def _remove_folder(self, folder: str) -> None:
        if "namespaces" in self._parts:
            namespaces.unmount_folder(folder)
        else:  # only below the level `landlock` can a program leave a folder that cannot be removed
            shutil.rmtree(folder, ignore_errors=True)

    def _run(self, number: int, folder: str) -> NoReturn:
        """The life of a confined process."""
        try:
            os.setsid()
            os.closerange(3, number)
            os.closerange(number + 1, 256)
            null = os.open(os.devnull, os.O_RDWR)  # of its own: flags of an open file are those of all who share it
            os.dup2(null, 0)
            os.dup2(null, 1)
            channel = Channel(socket.socket(fileno=number))
            os.chdir(folder)
            confine(self._parts, self._limits, folder, self._packages)
            sys.path.extend(
                dict.fromkeys(map(os.path.dirname, self._packages))
            )  # no sooner, or all in it could be read
            # what goes wrong before this line is ours and belongs on the console
            os.dup2(null, 2)
            os.close(null)
            inside.serve(channel)
        except BaseException:  # whatever it is, this copy of the zygote must not go on as one
            traceback.print_exc()
        os._exit(1)

    def _watch(self, processes: list[Process]) -> bytes:
        """Wait for an order to end, and meanwhile see that files stay within their limit and say how much time the
        processes had."""
        order = b"t"
        while order == b"t":
            while not select.select([self._control], [], [], _WATCH_SECONDS)[0]:
                for process in processes:
                    if not process.flooded and _used_bytes(process.folder) > self._limits.output_bytes:
                        process.flooded = True
                        os.kill(process.pid, signal.SIGKILL)
            try:
                order = self._control.recv(1)
                if order == b"t":
                    times = self._clocks.read([process.pid for process in processes])
                    Channel(self._control).send("times", *times)
            except (ConnectionError, EOFError):  # the runner was killed; what it started is ours to clear away
                return b""
        if order == b"w":
            time.sleep(_LAST_MOMENT_SECONDS)
        return order

    def _end(self, process: Process) -> tuple[int | str | None, float]:
        """How it ended, and its processor time."""
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if not ended:
            os.kill(process.pid, signal.SIGKILL)
            _, _, usage = os.wait4(process.pid, 0)
        ending = "output" if process.flooded else os.waitstatus_to_exitcode(status) if ended else None
        return ending, clocks.total(usage)


def _load_linked_libraries() -> None:
    """The system's own that packages are linked to: they lie out of a program's reach."""
    os.putenv("OPENBLAS_NUM_THREADS", "1")  # numpy starts as many threads as it sees cores; os.environ stays empty
    for name in _LINKED_LIBRARIES:
        try:
            ctypes.CDLL(name)
        except OSError:  # of another system
            continue


def _working(settings: Settings) -> list[str]:
    """The parts that work on this machine, each tried in a process that is thrown away."""
    folder, limits = settings.folder, settings.limits
    trials: dict[str, Callable[[], Any]] = {}
    if sys.platform == "linux":
        readable = [*library(), *settings.packages]
        trials["namespaces"] = lambda: _enter_for_trial(readable, limits.output_bytes)
        trials["landlock"] = lambda: confine(["landlock"], limits, folder, settings.packages)
        trials["seccomp"] = lambda: confine(["seccomp"], limits, folder)
    parts = [part for part, trial in trials.items() if part in settings.parts and _works(trial)]

    def limited() -> None:
        if "namespaces" in parts:
            namespaces.enter(library(), limits.output_bytes)
        confine(["rlimits", *(part for part in parts if part != "landlock")], limits, folder)
        check_limits(limits)

    if "rlimits" in settings.parts and _works(limited):
        parts.append("rlimits")
    return sorted(parts, key=PARTS.index)


def _enter_for_trial(readable: list[str], size_bytes: int) -> None:
    own_processes = namespaces.enter(readable, size_bytes)
    namespaces.mount_folder(namespaces.FOLDER, size_bytes)
    namespaces.fork_apart(own_processes)


def _works(trial: Callable[[], Any]) -> bool:
    child = os.fork()
    if child == 0:
        try:
            trial()
        except (OSError, ValueError):
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def _used_bytes(folder: str) -> int:
    try:
        entries = os.listdir(folder)
    except OSError:  # below the level `landlock` a program can take its folder away
        return 0
    return sum(max(_size(f"{folder}/{name}"), _SMALLEST_FILE_BYTES) for name in entries)


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:  # the program has just removed it
        return 0


def _kill_descendants(processes: list[Process]) -> None:
    """What a program started without the filter: its group, then whatever else was handed to us when its own parent
    died."""
    for process in processes:
        _kill(os.killpg, process.pid)
    children = f"/proc/self/task/{os.getpid()}/children"
    while os.path.exists(children):
        with open(children) as file:
            for pid in map(int, file.read().split()):
                _kill(os.kill, pid)
        try:
            os.wait()
        except ChildProcessError:
            return


def _kill(send: Callable[[int, int], None], pid: int) -> None:
    try:
        send(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # gone by itself, or, on macOS, a group of the dead
        return
