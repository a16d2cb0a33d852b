"""What the stages of `gpu_check.py` share: where they run, where they record, what memory is held."""

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from benchmark_contenders import SAMPLER, Setting

from ebft.output.files import atomic_write_text


@dataclass(frozen=True)
class Place:
    """Where a stage runs, and how much of it."""

    device: str
    small: bool  # shapes for a rehearsal
    only: str = ""  # tests, by pytest's -k

    @property
    def model(self) -> str:
        return "toy" if self.small else "qwen2.5-1.5b"

    @property
    def others(self) -> tuple[str, ...]:
        return ("toy",) if self.small else ("qwen2.5-0.5b", "llama-3.2-1b")

    @property
    def length(self) -> int:
        return 32 if self.small else 1024

    @property
    def rows(self) -> int:
        return 2 if self.small else 16

    @property
    def max_tokens(self) -> int:
        """What 80 GB hold of the 1.5 B shape's activations beside its weights: two rows at a time."""
        return 320 if self.small else 10_240

    def setting(self, model: str, **changes: Any) -> Setting:
        dtype = "fp32" if self.small else "bf16"  # which many processors only imitate
        whole = Setting(model, self.device, dtype, SAMPLER.n_samples, self.rows, self.max_tokens, False, 1)
        return replace(whole, **changes)


class Record:
    """What a stage has found so far, in a file of its own."""

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, dict[str, Any]()

    def __call__(self, **found: Any) -> None:
        self.found |= found
        atomic_write_text(self.path, json.dumps(self.found, indent=2, default=float) + "\n")
        print("recorded", *found, flush=True)


class Nested(Record):
    """A part of another record."""

    def __init__(self, whole: Record, name: str) -> None:
        self.whole, self.name, self.found = whole, name, {}

    def __call__(self, **found: Any) -> None:
        self.found |= found
        self.whole(**{self.name: self.found})


def forget(device: str) -> None:
    gc.collect()  # a watched method refers to itself
    if device == "cuda":
        torch.cuda.empty_cache()


def restart_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def allocated(device: str) -> int:
    return torch.cuda.memory_allocated() if device == "cuda" else 0


def peak_of(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else 0


def has(package: str) -> bool:
    return find_spec(package) is not None


@contextmanager
def instead(module: Any, **values: Any) -> Iterator[None]:
    """Other values of a module's constants inside the block."""
    before = {name: getattr(module, name) for name in values}
    try:
        for name, value in values.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)
