"""Named tensors in a folder, by torch's distributed checkpoint: every process writes the shards that it has, and any
number of processes reads them.

The files are safetensors, which hold numbers and nothing that could run.
"""

import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from ebft.config.schema import UserError
from ebft.output.files import sync, writing
from ebft.parallel.world import SINGLE_PROCESS, World


class Writing:
    """Tensors on their way into an empty folder, what every process has once. With several processes a thread brings
    them there, which has taken a copy when this exists; alone, all is written then."""

    def __init__(self, folder: Path, tensors: Mapping[str, Tensor], world: World = SINGLE_PROCESS) -> None:
        self.folder, self.world = folder, world
        self._future: Future[Any] | None = None
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        with self._one_cause():
            if world.size == 1:
                dcp.save(dict(tensors), storage_writer=writer, no_dist=True)
            else:
                started = dcp.async_save(dict(tensors), storage_writer=writer, process_group=_writers_group())
                assert isinstance(started, Future)
                self._future = started

    @property
    def is_done(self) -> bool:
        """Whether this process has written its part."""
        return self._future is None or self._future.done()

    def finish(self) -> None:
        """Wait until it is done, and on disk. WriteFailure where the system refuses."""
        with self._one_cause():
            if self._future is not None:
                self._future.result()
            if self.world.is_rank_zero:
                for entry in [*self.folder.iterdir(), self.folder]:
                    sync(entry)

    @contextmanager
    def _one_cause(self) -> Iterator[None]:
        with writing(self.folder), _one_cause():
            yield


@cache
def _writers_group() -> dist.ProcessGroup:
    """Threads that write talk to one another beside the processes, which go on with something else."""
    return dist.new_group(backend="gloo")


def shapes(folder: Path) -> dict[str, torch.Size]:
    """The shapes of the whole tensors, by name. Raises UserError for files that are not ours."""
    return {name: stored.size for name, stored in _stored(folder).items()}


def read_into(folder: Path, tensors: Mapping[str, Tensor], world: World = SINGLE_PROCESS) -> None:
    """Fill the given tensors, or shards of them, with what the folder has under their names, which must be all of
    them."""
    with _one_cause():
        dcp.load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=world.size == 1)


def read(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    """Whole tensors on the CPU, those whose names begin with `prefix`, without it."""
    stored = {name: entry for name, entry in _stored(folder).items() if name.startswith(prefix)}
    tensors = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in stored.items()}
    read_into(folder, tensors)
    return {name.removeprefix(prefix): value for name, value in tensors.items()}


def _stored(folder: Path) -> dict[str, TensorStorageMetadata]:
    try:
        entries = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{folder} does not hold a checkpoint's tensors; remove it, or name another checkpoint with resume=PATH."
        ) from error
    return {name: entry for name, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}


@contextmanager
def _one_cause() -> Iterator[None]:
    """What went wrong in a process, in place of a collection of all processes' errors."""
    with warnings.catch_warnings():
        # which is meant
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        try:
            yield
        except CheckpointException as error:
            cause, _ = next(iter(error.failures.values()))
            raise cause from error
