"""Attention of a row and of the branches that hang off it, without a mask over the square of the flat row.

`transformers` models call `branch_attention` in every layer, with a context that says what the tokens of this forward
are: a row, whole branches over their row's keys and values, or one more token of every branch. Who sees whom is decided
in `blocks.py`; how it is computed depends on the device and the row's length, in `flex.py` for CUDA and in `chunked.py`
elsewhere.
Completions, many tokens behind one anchor a row, are in `completions.py`.

Every layer says how wide its sliding window is, if it has one, and at what it caps its scores. Layers of equal windows
share a mask, and a window that holds all that a forward can see is none. Caches keep keys that have left a window:
another branch may still see them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ebft.geometry.blocks import OwnTokens, block_branches, row_visible
from ebft.geometry.chunked import ChunkedBranches, ChunkedSteps, KeysValues, attention
from ebft.geometry.flex import FlexBranches, FlexRow, FlexSteps
from ebft.types import Batch, Blocks

Mask = TypeVar("Mask")
FLEX_FROM = 0  # tokens of a row, on CUDA; shorter rows and their branches go in chunks


def uses_flex(document_ids: Int[Tensor, "B T"]) -> bool:
    return document_ids.is_cuda and document_ids.shape[1] >= FLEX_FROM


@dataclass(frozen=True)
class LayerAttention:
    """How a layer attends."""

    index: int  # of the layer, by which its keys and values are kept
    scaling: float  # of the scores
    window: int | None = None  # tokens that a query sees, itself among them; None: all before it
    softcap: float | None = None  # what scores are capped at; None: nothing


class Context(ABC):
    """What the tokens of one forward are."""

    @abstractmethod
    def attend(
        self,
        layer: LayerAttention,
        query: Float[Tensor, "B H S d"],
        key: Float[Tensor, "B h S d"],
        value: Float[Tensor, "B h S d"],
    ) -> Float[Tensor, "B S H d"]: ...


def _by_window(
    masks: dict[int | None, Mask], window: int | None, num_positions: int, make: Callable[[int | None], Mask]
) -> Mask:
    """The mask of layers with that window, made when the first of them asks. A window as wide as all positions is
    none."""
    width = None if window is None or window >= num_positions else window
    if width not in masks:
        masks[width] = make(width)
    return masks[width]


@dataclass
class RowContext(Context):
    """A row alone. With `keep`, its keys and values stay in `cache` for branches that follow."""

    document_ids: Int[Tensor, "B T"]
    masked: bool
    keep: bool = False
    cache: dict[int, KeysValues] = field(default_factory=dict)
    seen: dict[int | None, Bool[Tensor, "B 1 T T"] | FlexRow | None] = field(default_factory=dict)  # None: causal

    @classmethod
    def of(cls, batch: Batch, keep: bool = False) -> "RowContext":
        return cls(batch.document_ids, batch.masked, keep)

    def attend(self, layer: LayerAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self.keep:
            # gradient checkpointing comes by again, with a graph of its own
            self.cache.setdefault(layer.index, (key, value))
        seen = _by_window(self.seen, layer.window, self.document_ids.shape[1], self._seen)
        if isinstance(seen, FlexRow):
            return seen.attend(query, key, value, layer.scaling, layer.softcap)
        return attention(query, key, value, seen, layer.scaling, layer.softcap)

    def _seen(self, window: int | None) -> Tensor | FlexRow | None:
        if uses_flex(self.document_ids):
            return FlexRow.of(self.document_ids, window)
        return row_visible(self.document_ids, window)[:, None] if self.masked or window is not None else None


@dataclass
class BranchContext(Context):
    """Own tokens of branches, as `blocks.OwnTokens` has them, over the keys and values of their row."""

    row_cache: dict[int, KeysValues]
    document_ids: Int[Tensor, "B T"]
    own: OwnTokens
    num_positions: int  # at most
    seen: dict[int | None, ChunkedBranches | FlexBranches] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: Batch, own: OwnTokens, row_cache: dict[int, KeysValues]) -> "BranchContext":
        num_positions = max(own.reach, default=0) + max(own.depth, default=0) + 1
        return cls(row_cache, batch.document_ids, own, num_positions)

    def attend(self, layer: LayerAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        seen = _by_window(self.seen, layer.window, self.num_positions, self._seen)
        return seen.attend(query, self.row_cache[layer.index], key, value, layer.scaling, layer.softcap)

    def _seen(self, window: int | None) -> ChunkedBranches | FlexBranches:
        if uses_flex(self.document_ids):
            return FlexBranches.of(self.document_ids, self.own.anchors, self.own.steps, window)
        return ChunkedBranches.of(self.document_ids, self.own, window)


@dataclass
class StepContext(Context):
    """One more token of every branch, over the row's cached keys and values and the branches' own."""

    document_ids: Int[Tensor, "B T"]
    row_cache: dict[int, KeysValues]
    num_steps: int  # tokens per branch that will pass
    anchors: Int[Tensor, "B R"]
    seen: dict[int | None, ChunkedSteps | FlexSteps] = field(default_factory=dict)  # of these branches
    step: int = 0
    # branch by branch
    own_cache: dict[int, tuple[Float[Tensor, "B R h U d"], Float[Tensor, "B R h U d"]]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, batch: Batch, blocks: Blocks, n_samples: int, row_cache: dict[int, KeysValues], num_steps: int
    ) -> "StepContext":
        return cls(batch.document_ids, row_cache, num_steps, block_branches(blocks.anchors, n_samples))

    def regroup(self, anchors: Int[Tensor, "B C"], parents: Int[Tensor, "B C"]) -> None:
        """Go on with branches at `anchors`, each behind the tokens that its parent among the branches so far has
        seen."""
        self.anchors, self.seen = anchors, {}
        for index, (keys, values) in self.own_cache.items():
            chosen = (parents + keys.shape[1] * torch.arange(len(parents), device=parents.device)[:, None]).flatten()
            inherited = (x.flatten(0, 1).index_select(0, chosen).unflatten(0, parents.shape) for x in (keys, values))
            self.own_cache[index] = next(inherited), next(inherited)

    def attend(self, layer: LayerAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        key, value = key.transpose(1, 2), value.transpose(1, 2)
        if layer.index not in self.own_cache:
            keys, values = (x.new_zeros((*x.shape[:3], self.num_steps, x.shape[3])) for x in (key, value))
            self.own_cache[layer.index] = keys, values
        keys, values = self.own_cache[layer.index]
        keys[:, :, :, self.step], values[:, :, :, self.step] = key, value
        seen = _by_window(self.seen, layer.window, self.document_ids.shape[1] + self.num_steps, self._seen)
        own = keys.transpose(1, 2), values.transpose(1, 2)
        return seen.attend(query, self.row_cache[layer.index], own, self.step, layer.scaling, layer.softcap)

    def _seen(self, window: int | None) -> ChunkedSteps | FlexSteps:
        if uses_flex(self.document_ids):
            return FlexSteps.of(self.document_ids, self.anchors, self.num_steps, window)
        return ChunkedSteps.of(self.document_ids, self.anchors, window)
