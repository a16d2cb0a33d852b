"""Time that processes had a processor and time that they waited for one, so that a program on a busy machine is not
called slow.

The system's own figures: a process's clock, and the second number of /proc/PID/schedstat. A zygote with a root of its
own has no /proc, so it keeps the folder open from before; the processes that it forks close it before they do anything
else.
"""

import os
import resource
import sys
import time
from collections.abc import Sequence

_CPU_CLOCK = 2  # CPUCLOCK_SCHED, of linux/posix-timers.h
_PROC = "/proc"


class Clocks:
    """Of the children of the calling process."""

    def __init__(self) -> None:
        known = all(os.path.exists(f"{_PROC}/thread-self/{name}") for name in ("schedstat", "children"))
        self._proc = os.open(_PROC, os.O_RDONLY | os.O_DIRECTORY) if known else None

    def read(self, children: Sequence[int]) -> tuple[float | None, float | None]:
        """Seconds of processor time of the children, and seconds that they waited for a processor; None where the
        system does not say."""
        return _cpu_seconds(children), self._waited_seconds()

    def _waited_seconds(self) -> float | None:
        if self._proc is None:
            return None
        children = self._content("thread-self/children").split()
        return sum(_waited(self._content(path)) for child in children for path in self._threads(child))

    def _threads(self, process: str) -> list[str]:
        try:
            folder = os.open(f"{process}/task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._proc)
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            return []
        try:
            return [f"{process}/task/{thread}/schedstat" for thread in os.listdir(folder)]
        except (FileNotFoundError, ProcessLookupError):
            return []
        finally:
            os.close(folder)

    def _content(self, path: str) -> str:
        try:
            file = os.open(path, os.O_RDONLY, dir_fd=self._proc)
        except (FileNotFoundError, ProcessLookupError):  # of a thread that has just ended
            return ""
        try:
            return os.read(file, 1 << 16).decode()
        except ProcessLookupError:
            return ""
        finally:
            os.close(file)


def own_wait_seconds() -> float:
    """That the calling thread waited for a processor; 0 where the system does not say."""
    try:
        with open(f"{_PROC}/thread-self/schedstat") as file:
            return _waited(file.read())
    except OSError:
        return 0.0


def _waited(schedstat: str) -> float:
    return int(schedstat.split()[1]) / 1e9 if schedstat else 0.0


def _cpu_seconds(processes: Sequence[int]) -> float | None:
    if sys.platform != "linux":
        return None
    return sum(map(_cpu, processes))


def _cpu(process: int) -> float:
    try:
        return time.clock_gettime(~process << 3 | _CPU_CLOCK)
    except OSError:  # it has ended; what it took is known when it is waited for
        return 0.0


def total(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime
