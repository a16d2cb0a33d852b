"""Several processes of one run on this machine, over gloo."""

import multiprocessing
import pickle
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PRELOADED = [
    "torch",
    "ebft.train.loop",
    "tests.debug_run",
    "tests.warm",
    "peft",
    "torch.distributed.fsdp",
]  # into the server that processes are forked from, so that they start at once
SECONDS = 120.0


def run_together(size: int, folder: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(world, *arguments)` returns in each of `size` processes, by rank. An exception in one of them is
    raised here."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    meeting = folder / "rendezvous"
    meeting.unlink(missing_ok=True)
    pipes, processes = [], []
    for rank in range(size):
        here, there = context.Pipe(duplex=False)
        processes.append(
            context.Process(target=_perform, args=(there, rank, size, meeting, work, arguments), daemon=True)
        )
        processes[-1].start()
        there.close()
        pipes.append(here)
    try:
        results = [_received(pipe, rank) for rank, pipe in enumerate(pipes)]
    finally:
        for process in processes:
            process.kill()
            process.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def _received(pipe: Connection, rank: int) -> Any:
    assert pipe.poll(SECONDS), f"rank {rank} has nothing to tell after {SECONDS} s"
    try:
        return pickle.loads(pipe.recv_bytes())  # tensors by value, not through memory that ends with its process
    except EOFError:
        return AssertionError(f"rank {rank} has died")


def _perform(
    pipe: Connection, rank: int, size: int, meeting: Path, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    import torch

    from ebft.parallel.world import World

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    try:
        pipe.send_bytes(pickle.dumps(work(World(rank, size), *arguments)))
    except Exception as error:
        pipe.send_bytes(pickle.dumps(error))
        raise
    finally:
        torch.distributed.destroy_process_group()
