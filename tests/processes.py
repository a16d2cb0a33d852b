"""Several processes of one run on this machine, over gloo."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SECONDS = 120.0


def run_together(size: int, folder: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(world, *arguments)` returns in each of `size` processes, by rank. An exception in one of them is
    raised here."""
    (folder / "rendezvous").unlink(missing_ok=True)
    (folder / "work").write_bytes(pickle.dumps((work, arguments)))
    command = [sys.executable, "-m", "tests.processes", str(folder), str(size)]
    processes = [subprocess.Popen([*command, str(rank)], cwd=ROOT) for rank in range(size)]
    try:
        results = [_result(process, folder, rank) for rank, process in enumerate(processes)]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def _result(process: "subprocess.Popen[bytes]", folder: Path, rank: int) -> Any:
    process.wait(SECONDS)
    path = folder / f"result_{rank}"
    if not path.exists():
        return AssertionError(f"rank {rank} has died")
    result = pickle.loads(path.read_bytes())
    path.unlink()
    return result


def main() -> None:
    """The process of one rank."""
    import torch

    from ebft.parallel.world import World

    folder, size, rank = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    work, arguments = pickle.loads((folder / "work").read_bytes())
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'rendezvous'}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    result: Any = None
    try:
        result = work(World(rank, size), *arguments)
    except Exception as error:
        result = error
        raise
    finally:
        (folder / f"result_{rank}").write_bytes(pickle.dumps(result))  # tensors by value
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
