"""Attention of a row and of the branches that hang off it, without a mask over the square of the flat row.

`transformers` models call `branch_attention` in every layer, with a context that says what the tokens of this forward
are: a row, whole branches over their row's keys and values, or one more token of every branch. Who sees whom is decided
in `blocks.py`; how it is computed depends on the device, in `flex.py` for CUDA and in `chunked.py` elsewhere.
Completions, many tokens behind one anchor a row, each have a cache of their own, for which fused attention is the
fastest.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ebft.geometry.blocks import OwnTokens, block_branches, prefix_visible, row_visible
from ebft.geometry.chunked import ChunkedBranches, ChunkedSteps, KeysValues, fused
from ebft.geometry.flex import FlexBranches, FlexRow, FlexSteps
from ebft.types import Batch, Blocks


class Context(ABC):
    """What the tokens of one forward are."""

    @abstractmethod
    def attend(
        self,
        layer: int,
        query: Float[Tensor, "B H S d"],
        key: Float[Tensor, "B h S d"],
        value: Float[Tensor, "B h S d"],
        scaling: float,
    ) -> Float[Tensor, "B S H d"]: ...


@dataclass
class RowContext(Context):
    """A row alone. With `keep`, its keys and values stay in `cache` for branches that follow."""

    seen: Bool[Tensor, "B 1 T T"] | FlexRow | None  # None: causal
    keep: bool = False
    cache: dict[int, KeysValues] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: Batch, keep: bool = False) -> "RowContext":
        if batch.tokens.is_cuda:
            return cls(FlexRow.of(batch.document_ids), keep)
        return cls(row_visible(batch.document_ids)[:, None] if batch.masked else None, keep)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        if self.keep:
            self.cache.setdefault(layer, (key, value))  # gradient checkpointing comes by again, with a graph of its own
        if isinstance(self.seen, FlexRow):
            return self.seen.attend(query, key, value, scaling)
        return fused(query, key, value, self.seen, scaling)


@dataclass
class BranchContext(Context):
    """Own tokens of branches, as `blocks.OwnTokens` has them, over the keys and values of their row."""

    row_cache: dict[int, KeysValues]
    seen: ChunkedBranches | FlexBranches

    @classmethod
    def of(cls, batch: Batch, own: OwnTokens, row_cache: dict[int, KeysValues]) -> "BranchContext":
        if batch.tokens.is_cuda:
            return cls(row_cache, FlexBranches.of(batch.document_ids, own.anchors, own.steps))
        return cls(row_cache, ChunkedBranches.of(batch.document_ids, own))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        return self.seen.attend(query, self.row_cache[layer], key, value, scaling)


@dataclass
class StepContext(Context):
    """One more token of every branch, over the row's cached keys and values and the branches' own."""

    document_ids: Int[Tensor, "B T"]
    row_cache: dict[int, KeysValues]
    num_steps: int  # tokens per branch that will pass
    anchors: Int[Tensor, "B R"]
    seen: ChunkedSteps | FlexSteps | None = None  # of these branches; None: not yet needed
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
        self.anchors, self.seen = anchors, None
        for layer, (keys, values) in self.own_cache.items():
            chosen = (parents + keys.shape[1] * torch.arange(len(parents), device=parents.device)[:, None]).flatten()
            inherited = (x.flatten(0, 1).index_select(0, chosen).unflatten(0, parents.shape) for x in (keys, values))
            self.own_cache[layer] = next(inherited), next(inherited)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        self.seen = self.seen or _seen_by_steps(self.document_ids, self.anchors, self.num_steps)
        key, value = key.transpose(1, 2), value.transpose(1, 2)
        if layer not in self.own_cache:
            keys, values = (x.new_zeros((*x.shape[:3], self.num_steps, x.shape[3])) for x in (key, value))
            self.own_cache[layer] = keys, values
        keys, values = self.own_cache[layer]
        keys[:, :, :, self.step], values[:, :, :, self.step] = key, value
        return self.seen.attend(
            query, self.row_cache[layer], (keys.transpose(1, 2), values.transpose(1, 2)), self.step, scaling
        )


def _seen_by_steps(
    document_ids: Int[Tensor, "B T"], anchors: Int[Tensor, "B R"], num_steps: int
) -> ChunkedSteps | FlexSteps:
    return FlexSteps.of(document_ids, anchors, num_steps) if anchors.is_cuda else ChunkedSteps.of(document_ids, anchors)


@dataclass
class CompletionContext(Context):
    """One more token of every completion. Each goes on in its own copy of its row's keys and values, so that it can
    leave when it has ended."""

    cache: dict[int, KeysValues]  # with room for all tokens to come
    visible: Bool[Tensor, "R 1 1 S"]  # row tokens that a completion sees, and all of its own
    row_length: int  # row tokens that the longest prefix has
    step: int = 0

    @classmethod
    def of(
        cls, batch: Batch, blocks: Blocks, n_samples: int, row_cache: dict[int, KeysValues], num_steps: int
    ) -> "CompletionContext":
        (limit,) = blocks.reach
        visible = prefix_visible(batch.document_ids, blocks.anchors)[:, None, :, :limit]
        context = cls(dict(row_cache), torch.nn.functional.pad(visible, (0, num_steps), value=True), limit)
        context.keep(torch.arange(len(batch), device=visible.device).repeat_interleave(n_samples))
        return context

    def keep(self, chosen: Int[Tensor, "_"]) -> None:
        """Go on with the chosen completions, or rows, each as often as it is named."""
        self.visible = self.visible[chosen]
        for layer, (
            keys,
            values,
        ) in self.cache.items():  # under autocast, attention would cast rotated keys to the values' type at every step
            self.cache[layer] = self._roomy(keys.to(values.dtype), chosen), self._roomy(values, chosen)

    def _roomy(self, cached: Float[Tensor, "R h U d"], chosen: Int[Tensor, "_"]) -> Float[Tensor, "_ h S d"]:
        passed = self.row_length + self.step
        roomy = cached.new_empty((len(chosen), cached.shape[1], self.visible.shape[3], cached.shape[3]))
        roomy[:, :, :passed] = cached[chosen, :, :passed]
        return roomy

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Query heads that share a key head stand in the place of several queries."""
        passed, num_heads = self.row_length + self.step, key.shape[1]
        keys, values = (x[:, :, : passed + 1] for x in self.cache[layer])
        keys[:, :, passed:], values[:, :, passed:] = key, value
        grouped = query.squeeze(2).unflatten(1, (num_heads, -1))
        return (
            fused(grouped, keys, values, self.visible[..., : passed + 1], scaling)
            .transpose(1, 2)
            .flatten(1, 2)[:, None]
        )
