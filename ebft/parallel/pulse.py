"""Signs of life of the processes of one run, so that one that hangs ends them all, with its name, and none waits for it
until tomorrow.

Every process tells the others, every two seconds from a thread of its own, how often it has come to a place where all
must meet, and how long ago its main thread last got anywhere. A process hangs if nothing is heard from it any more, or
if another one is ahead of it and has waited at such a place for the whole time in which this one got nowhere. So
processes that are all slow alike never hang, and neither does one that says it is busy.
"""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Protocol, runtime_checkable

BEAT_SECONDS, DONE = 2.0, -1
STARTING = timedelta(minutes=10)  # until all processes watch
# Environment variable: the file that takes the sentence about a hanging process; unset: stderr.
VERDICT = "EBFT_VERDICT"
LOST = 75  # exit code of a process that ends because of another one


class Pulse:
    """What this process is doing, for the others to see."""

    def __init__(self) -> None:
        self.num_collectives = 0  # entered, whether the others were there or not
        self.advanced_at = time.monotonic()
        self._busy = 0

    def advance(self) -> None:
        """Note that the main thread gets on."""
        self.advanced_at = time.monotonic()

    def enter_collective(self) -> None:
        """Note that it comes to where all processes must meet."""
        self.num_collectives += 1
        self.advance()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Let it take long in this block, while the others wait."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            self.advance()

    def beat(self, number: int) -> "Heartbeat":
        return Heartbeat(
            number,
            self.num_collectives,
            time.monotonic() - self.advanced_at,
            self._busy > 0,
            socket.gethostname(),
            os.getpid(),
        )


PULSE = Pulse()


@dataclass(frozen=True)
class Heartbeat:
    """What the others hear."""

    number: int
    num_collectives: int
    idle_seconds: float  # since the main thread last got on
    busy: bool
    host: str
    process: int


def hanging(beats: dict[int, Heartbeat], silent: dict[int, float], limit: float) -> tuple[int, str] | None:
    """The process that hangs, by rank, and how that shows; `silent` are the seconds since a process was last heard
    of."""
    beats = {rank: beat for rank, beat in beats.items() if beat.number != DONE}
    for rank in sorted(beats):
        if silent[rank] > limit:
            return rank, f"has given no sign of life for {silent[rank]:.0f} s"
    waiting = [beat for beat in beats.values() if beat.idle_seconds > limit]
    for rank, beat in sorted(beats.items()):
        if (
            beat.idle_seconds > limit
            and not beat.busy
            and any(other.num_collectives > beat.num_collectives for other in waiting)
        ):
            return rank, f"has got nowhere for {beat.idle_seconds:.0f} s while others wait for it"
    return None


@runtime_checkable
class Store(Protocol):
    """What `watched` needs of torch's key-value stores."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def wait(self, keys: list[str], timeout: timedelta) -> None: ...


@contextmanager
def watched(
    store: Store, rank: int, size: int, limit: float, end: Callable[[str, Heartbeat | None], None] | None = None
) -> Iterator[None]:
    """Watch over one another while in here; a process that hangs for more than `limit` seconds ends all."""
    over = threading.Event()
    watch = _Watch(store, rank, size, limit, end or end_all, over)
    watch.publish(0)
    store.wait([f"beat/{other}" for other in range(size)], STARTING)
    thread = threading.Thread(target=watch.run, daemon=True, name="pulse")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@dataclass
class _Watch:
    """One process's view of all."""

    store: Store
    rank: int
    size: int
    limit: float
    end: Callable[[str, Heartbeat | None], None]
    over: threading.Event
    beats: dict[int, Heartbeat] = field(default_factory=dict)
    last_heard: dict[int, float] = field(default_factory=dict)

    def run(self) -> None:
        number = 0
        asking = ThreadPoolExecutor(1, "pulse")  # a stopped process's store never answers, not even that it is too late
        try:
            while not self.over.wait(min(BEAT_SECONDS, self.limit / 4)):
                number += 1
                asking.submit(self._exchange, number).result(timeout=self.limit)
                silent = {rank: time.monotonic() - last_heard for rank, last_heard in self.last_heard.items()}
                found = hanging(self.beats, silent, self.limit)
                if found is not None and found[0] != self.rank:
                    self._end(*found)
                    return
            self.publish(DONE)
        except TimeoutError:
            self._end(0, f"has given no sign of life for {self.limit:.0f} s")
        except RuntimeError:  # the first process, which holds the store, has ended
            if self.rank and not self.over.wait(2 * BEAT_SECONDS):
                self._end(0, "does not answer")
        finally:
            asking.shutdown(wait=False)

    def _exchange(self, number: int) -> None:
        self.publish(number)
        self._read_all()

    def publish(self, number: int) -> None:
        self.store.set(f"beat/{self.rank}", json.dumps(asdict(PULSE.beat(number))))

    def _read_all(self) -> None:
        for rank in range(self.size):
            beat = Heartbeat(**json.loads(self.store.get(f"beat/{rank}")))
            if rank not in self.beats or beat.number != self.beats[rank].number:
                self.last_heard[rank] = time.monotonic()
            self.beats[rank] = beat

    def _end(self, culprit: int, how: str) -> None:
        """The lowest of the others says why."""
        beat = self.beats.get(culprit)
        where = "" if beat is None else f" on {beat.host}"
        sentence = (
            f"Rank {culprit} of {self.size}{where} {how}, so all processes end; "
            "the same command goes on from the last checkpoint."
        )
        tells = min(rank for rank in range(self.size) if rank != culprit)
        self.end(sentence if self.rank == tells else "", beat)


def end_all(sentence: str, culprit: Heartbeat | None) -> None:
    """Say why, if there is anything to say, end the one that hangs if it is on this machine, and this process."""
    if sentence:
        target = os.environ.get(VERDICT)
        if target:
            Path(target).write_text(sentence, encoding="utf-8")
        else:
            os.write(2, f"{sentence}\n".encode())
    if culprit is not None and culprit.host == socket.gethostname():
        with suppress(ProcessLookupError):  # another process was faster
            os.kill(culprit.process, signal.SIGKILL)
    os._exit(LOST)
