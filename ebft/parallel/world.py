"""Several processes as one run: who they are, and what they tell one another.

Every process takes its share of each optimiser batch and of each evaluation; sums and means are those of the whole.
Only the first one decides, writes and speaks. Torch's process group does the talking (gloo between hosts, NCCL between
GPUs). A run of one process talks to nobody, and none of this costs it anything.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from ebft.config.schema import RunFailure, UserError
from ebft.parallel.launched import from_slurm, num_processes
from ebft.parallel.pulse import PULSE, watched

Item = TypeVar("Item")
Result = TypeVar("Result")

RENDEZVOUS_SECONDS = 60.0  # within which all processes of a run must have found one another
COLLECTIVE_TIMEOUT = timedelta(minutes=30)  # for which processes wait for one another, whatever the reason
BUCKET_ELEMENTS = 2**25  # of gradients that are all-reduced together


@dataclass(frozen=True)
class World:
    """The processes of a run, as one of them sees them; without arguments the only one. All of them must ask the same
    questions in the same order."""

    rank: int = 0
    size: int = 1

    @property
    def is_rank_zero(self) -> bool:
        return self.rank == 0

    @property
    def rank_suffix(self) -> str:
        """Ends the names of files that every process writes."""
        return f"_rank_{self.rank}" if self.size > 1 else ""

    def all_reduce(self, x: Shaped[Tensor, "*n"]) -> Shaped[Tensor, "*n"]:
        """The sum over all processes; the same bits in each."""
        if self.size > 1:
            PULSE.enter_collective()
            x = x.clone()
            dist.all_reduce(x)
        return x

    def all_reduce_number(self, number: float) -> float:
        """The sum over all processes."""
        return self.all_reduce(torch.tensor(number, dtype=torch.float64)).item()

    def all_reduce_max(self, numbers: Sequence[int]) -> list[int]:
        """The largest over all processes, of each number."""
        if self.size == 1:
            return [*numbers]
        PULSE.enter_collective()
        largest = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return largest.tolist()

    def any(self, flag: bool) -> bool:
        return self.all_reduce_max([int(flag)]) == [1]

    def all_gather(self, item: Item) -> list[Item]:
        """The items of all processes, by rank."""
        if self.size == 1:
            return [item]
        PULSE.enter_collective()
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item)
        return items

    def broadcast(self, item: Item) -> Item:
        """The item of rank 0."""
        return self.all_gather(item)[0]

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.all_gather(None)

    @contextmanager
    def raise_together(self) -> Iterator[None]:
        """What one process refuses in this block, all refuse behind it."""
        refused: UserError | RunFailure | None = None
        try:
            yield
        except (UserError, RunFailure) as error:
            refused = error
        for everybody in self.all_gather(refused):
            if everybody is not None:
                raise everybody

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's part of items that divide evenly, neighbours together."""
        each, rest = divmod(len(items), self.size)
        assert not rest, (len(items), self.size)
        return items[self.rank * each : (self.rank + 1) * each]

    def map(self, items: Sequence[Item], work: Callable[[Item], Result], tick: Callable[[], None]) -> list[Result]:
        """`work` on every item, in rounds of one item a process, each followed by a `tick`. All get all results, in the
        order of the items.

        In a last round with too few items the other processes do the last one over again, so that all work alike at any
        time.
        """
        own: list[Result] = []
        for start in range(0, len(items), self.size):
            place = start + self.rank
            result = work(items[min(place, len(items) - 1)])
            if place < len(items):
                own.append(result)
            tick()
        everybody = self.all_gather(own)
        return [everybody[place % self.size][place // self.size] for place in range(len(items))]

    def num_rounds(self, num_items: int) -> int:
        return math.ceil(num_items / self.size)

    def all_reduce_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by the sum of all processes'."""
        if self.size == 1:
            return
        bucket: list[Tensor] = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            bucket.append(parameter.grad)
            if sum(gradient.numel() for gradient in bucket) >= BUCKET_ELEMENTS:
                _all_reduce_bucket(bucket)
                bucket = []
        _all_reduce_bucket(bucket)


SINGLE_PROCESS = World()


def _all_reduce_bucket(gradients: Sequence[Tensor]) -> None:
    """Sum gradients over all processes, in one message."""
    if not gradients:
        return
    PULSE.enter_collective()
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, total in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))


class LostContact(RunFailure):
    """Another process of the run has ended, or no longer answers."""


@contextmanager
def in_contact() -> Iterator[None]:
    """What torch raises in here when another process has gone becomes LostContact."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or any(sign in str(error) for sign in ("gloo/", "Gloo", "NCCL")):
            raise LostContact(
                "Another process of this run has ended; the same command goes on from the last checkpoint."
            ) from error
        raise


def current_world() -> World:
    """The processes that this one is connected to."""
    return World(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else SINGLE_PROCESS


def watching(world: World, limit: float) -> AbstractContextManager[None]:
    """Inside the block the processes watch over one another: one that hangs for more than `limit` seconds ends all."""
    if world.size == 1:
        return nullcontext()
    client = dist.TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timedelta(seconds=limit)
    )
    return watched(dist.PrefixStore("pulse", client), world.rank, world.size, limit)


@contextmanager
def process_group() -> Iterator[World]:
    """The processes that torchrun, srun or ebft-train has started as one run. Raises UserError where they do not find
    one another."""
    os.environ.update(from_slurm(os.environ))
    if num_processes(os.environ) == 1:
        yield SINGLE_PROCESS
        return
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} without {', '.join(missing)}; start the processes with torchrun, "
            "or set these too."
        )
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    if torch.cuda.is_available() and int(os.environ["LOCAL_RANK"]) < torch.cuda.device_count():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    if not dist.is_gloo_available():
        raise UserError(
            "Several processes need gloo, which this torch was built without; install torch as constraints.txt has it."
        )
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=timedelta(seconds=RENDEZVOUS_SECONDS)))
        store.set(f"here/{rank}", "")
        store.wait([f"here/{other}" for other in range(size)], timedelta(seconds=RENDEZVOUS_SECONDS))
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT)
    except (dist.DistError, ValueError) as error:
        raise UserError(
            f"The {os.environ['WORLD_SIZE']} processes of this run did not meet at {where} within "
            f"{RENDEZVOUS_SECONDS:.0f} s; see that all were "
            "started, that MASTER_ADDR and MASTER_PORT are the first one's, and that its port is open."
        ) from error
    try:
        yield World(rank, size)
    finally:
        dist.destroy_process_group()
