"""When a run has had its time: by the processor, and on the clock only for what it did not spend waiting for one."""

import time
from collections.abc import Callable

from ebft.sandbox.clocks import own_wait_seconds

MAX_CLOCK = 20.0  # times what a program may take on the clock: a run without a processor for so long is given up


class Starved(Exception):
    """The machine had no processor for the run."""


class Stopwatch:
    """Of one run. `ask` gives the processor time of its processes and the time that they waited for a processor, None
    where the system does not know."""

    def __init__(
        self,
        cpu_seconds: float,
        clock_seconds: float,
        ask: Callable[[], tuple[float | None, float | None]],
        is_busy: Callable[[], bool],
    ) -> None:
        self._cpu_seconds, self._clock_seconds = cpu_seconds, clock_seconds
        self._ask, self._is_busy = ask, is_busy
        self._started, self._own_wait = time.monotonic(), own_wait_seconds()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def look(self) -> None:
        """TimeoutError where the processor time is used up, and where too much time on the clock was spent neither
        computing nor waiting for a processor, as in an endless sleep; Starved where neither can be said in the end."""
        cpu, waited = self._ask()
        if cpu is not None and cpu >= self._cpu_seconds:
            raise TimeoutError
        if waited is None:
            if self.seconds >= self._clock_seconds:
                raise Starved if self._is_busy() else TimeoutError
            return
        idle = self.seconds - (cpu or 0.0) - waited - (own_wait_seconds() - self._own_wait)
        if idle >= self._clock_seconds:
            raise TimeoutError
        if self.seconds >= MAX_CLOCK * self._clock_seconds:
            raise Starved
