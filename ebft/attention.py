"""Attention of a row and of the branches that hang off it, without a mask over the square of the flat row.

`transformers` models call `branch_attention` in every layer, with a context that says what the tokens of this forward are: a row, whole branches
over their row's keys and values, or one more token of every branch. Who sees whom is decided in `blocks.py`; here it is computed.
Branches go in chunks of neighbours, and a chunk reads the row up to its largest anchor only. Whole branches go through fused attention, with a
small mask that keeps the branches of a chunk apart; single tokens through a softmax over the row's keys and each branch's own together, because
own keys grow with every step and would soon outnumber the row's. Completions, many tokens behind one anchor a row, each have a cache of their own,
for which fused attention is the fastest.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import AttentionInterface

from ebft.blocks import OwnTokens, block_branches, own_visible, prefix_visible, row_visible
from ebft.reuse import free_to_read
from ebft.types import Batch, Blocks

NAME = "ebft_branches"
CHUNK_BRANCHES = 32  # at most; more of them make larger products, and read more of the row that they do not see
CHUNK_TOKENS = 128  # of whole branches: every one meets all keys of its chunk
KeysValues = tuple[Float[Tensor, "B h T d"], Float[Tensor, "B h T d"]]
BranchKeysValues = tuple[Float[Tensor, "B h R U d"], Float[Tensor, "B h R U d"]]


class Context(ABC):
    """What the tokens of one forward are."""

    @abstractmethod
    def attend(
        self, layer: int, query: Float[Tensor, "B H S d"], key: Float[Tensor, "B h S d"], value: Float[Tensor, "B h S d"], scaling: float
    ) -> Float[Tensor, "B S H d"]: ...


@dataclass
class RowContext(Context):
    """A row alone. With `keep`, its keys and values stay in `cache` for branches that follow."""

    mask: Bool[Tensor, "B 1 T T"] | None
    keep: bool = False
    cache: dict[int, KeysValues] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: Batch, keep: bool = False) -> "RowContext":
        return cls(row_visible(batch.document_ids)[:, None] if batch.masked else None, keep)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        if self.keep:
            self.cache[layer] = key, value
        return _fused(query, key, value, self.mask, scaling)


@dataclass
class BranchContext(Context):
    """Own tokens of branches, as `blocks.OwnTokens` has them, over the keys and values of their row. A chunk may begin inside a branch, whose tokens
    before it are then among the chunk's keys."""

    row: dict[int, KeysValues]
    segments: list[int]  # row tokens that each chunk reads beyond the chunk before, and the rest
    chunk_tokens: int
    own_segments: list[int]  # of every chunk, the tokens that it alone reads and those that the next chunk reads too
    masks: list[Bool[Tensor, "B 1 _ _"]]  # of the chunks, each with its own sizes, over the row tokens and own tokens that they read

    @classmethod
    def of(cls, batch: Batch, own: OwnTokens, row: dict[int, KeysValues]) -> "BranchContext":
        num_tokens, width = own.tokens.shape[1], 1 + max(own.depth, default=0)
        size = width * max(1, min(CHUNK_BRANCHES, CHUNK_TOKENS // width))
        starts, limits = range(0, num_tokens, size), _limits(own.reach, size)
        bounds, lookback = [0, *limits, batch.tokens.shape[1]], [*(min(start, own.depth[start]) for start in starts), 0]
        own_segments, masks = [], []
        for chunk, (start, limit) in enumerate(zip(starts, limits, strict=True)):
            anchors, steps = (x[:, start : start + size] for x in (own.anchors, own.steps))
            own_segments += [anchors.shape[1] - lookback[chunk + 1], lookback[chunk + 1]]
            masks.append(_chunk_mask(prefix_visible(batch.document_ids[:, :limit], anchors), own_visible(steps, lookback[chunk])))
        return cls(row, [stop - start for start, stop in pairwise(bounds)], size, own_segments, masks)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        rows = [x.split(self.segments, dim=2) for x in self.row[layer]]
        owns = [x.split(self.own_segments, dim=2) for x in (key, value)]
        queries, parts = query.split(self.chunk_tokens, dim=2), []
        for chunk, mask in enumerate(self.masks):
            mine = slice(max(0, 2 * chunk - 1), 2 * chunk + 2)
            keys, values = (torch.cat([*row[: chunk + 1], *own[mine]], dim=2) for row, own in zip(rows, owns, strict=True))
            parts.append(_fused(queries[chunk], keys, values, mask, scaling))
        return torch.cat(parts, dim=1)


@dataclass
class StepContext(Context):
    """One more token of every branch, over the row's cached keys and values and the branches' own."""

    document_ids: Int[Tensor, "B T"]
    row_cache: dict[int, KeysValues]
    num_steps: int  # tokens per branch that will pass
    hidden: list[Bool[Tensor, "B _ _"]]  # of the chunks, each with its own sizes: row tokens that they read and a branch does not see
    step: int = 0
    own_cache: dict[int, BranchKeysValues] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: Batch, blocks: Blocks, n_samples: int, row_cache: dict[int, KeysValues], num_steps: int) -> "StepContext":
        anchors, reach = block_branches(blocks.anchors, n_samples), [bound for bound in blocks.reach for _ in range(n_samples)]
        return cls(batch.document_ids, row_cache, num_steps, _hidden(batch.document_ids, anchors, reach))

    def regroup(self, anchors: Int[Tensor, "B C"], parents: Int[Tensor, "B C"]) -> None:
        """Go on with branches at `anchors`, each behind the tokens that its parent among the branches so far has seen."""
        self.hidden = _hidden(self.document_ids, anchors, _reach(anchors, self.document_ids.shape[1]))
        for layer, (keys, values) in self.own_cache.items():
            self.own_cache[layer] = self._inherited(keys, parents), self._inherited(values, parents)

    def _inherited(self, cached: Float[Tensor, "B h R U d"], parents: Int[Tensor, "B C"]) -> Float[Tensor, "B h C U d"]:
        roomy = cached.new_empty((*cached.shape[:2], parents.shape[1], *cached.shape[3:]))
        rows = torch.arange(len(parents), device=parents.device)[:, None]
        roomy[:, :, :, : self.step] = cached[rows, :, parents, : self.step].transpose(1, 2)
        return roomy

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        row, own = self.row_cache[layer], self._append(layer, key, value)
        grouped = (query * scaling).unflatten(1, (key.shape[1], -1))  # query heads by the key head that they share
        split = grouped.split(CHUNK_BRANCHES, dim=3), *(x.split(CHUNK_BRANCHES, dim=2) for x in own)
        parts = [_attend_step(query, row, (keys, values), hidden) for query, keys, values, hidden in zip(*split, self.hidden, strict=True)]
        return torch.cat(parts, dim=3).flatten(1, 2).transpose(1, 2)

    def _append(self, layer: int, key: Tensor, value: Tensor) -> BranchKeysValues:
        if layer not in self.own_cache:
            keys, values = (x.new_empty((*x.shape[:3], self.num_steps, x.shape[3])) for x in (key, value))
            self.own_cache[layer] = keys, values
        keys, values = self.own_cache[layer]
        keys[:, :, :, self.step], values[:, :, :, self.step] = key, value
        return keys[:, :, :, : self.step + 1], values[:, :, :, : self.step + 1]


@dataclass
class CompletionContext(Context):
    """One more token of every completion. Each goes on in its own copy of its row's keys and values, so that it can leave when it has ended."""

    cache: dict[int, KeysValues]  # with room for all tokens to come
    visible: Bool[Tensor, "R 1 1 S"]  # row tokens that a completion sees, and all of its own
    row_length: int  # row tokens that the longest prefix has
    step: int = 0

    @classmethod
    def of(cls, batch: Batch, blocks: Blocks, n_samples: int, row_cache: dict[int, KeysValues], num_steps: int) -> "CompletionContext":
        (limit,) = blocks.reach
        visible = prefix_visible(batch.document_ids, blocks.anchors)[:, None, :, :limit]
        context = cls(dict(row_cache), torch.nn.functional.pad(visible, (0, num_steps), value=True), limit)
        context.keep(torch.arange(len(batch), device=visible.device).repeat_interleave(n_samples))
        return context

    def keep(self, chosen: Int[Tensor, "_"]) -> None:
        """Go on with the chosen completions, or rows, each as often as it is named."""
        self.visible = self.visible[chosen]
        for layer, (keys, values) in self.cache.items():  # under autocast, attention would cast rotated keys to the values' type at every step
            self.cache[layer] = self._roomy(keys.to(values.dtype), chosen), self._roomy(values, chosen)

    def _roomy(self, cached: Float[Tensor, "R h U d"], chosen: Int[Tensor, "_"]) -> Float[Tensor, "_ h S d"]:
        passed = self.row_length + self.step
        roomy = cached.new_empty((len(chosen), cached.shape[1], self.visible.shape[3], cached.shape[3]))
        roomy[:, :, :passed] = cached[chosen, :, :passed]
        return roomy

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        passed = self.row_length + self.step
        keys, values = (x[:, :, : passed + 1] for x in self.cache[layer])
        keys[:, :, passed:], values[:, :, passed:] = key, value
        return _fused(query, keys, values, self.visible[..., : passed + 1], scaling)


def _reach(anchors: Int[Tensor, "B C"], row_length: int) -> list[int]:
    """The largest anchor of every column where it costs nothing to read, else what bounds them all."""
    return anchors.amax(0).tolist() if free_to_read(anchors) else [row_length] * anchors.shape[1]


def _limits(reach: Sequence[int], size: int) -> list[int]:
    """Row tokens that the chunks of `size` neighbours read: as many as one of them sees, and no fewer than the chunk before."""
    return list(accumulate((max(reach[start : start + size]) for start in range(0, len(reach), size)), max))


def _chunk_mask(row: Bool[Tensor, "B Q P"], own: Bool[Tensor, "B Q O"]) -> Bool[Tensor, "B 1 Q S"]:
    """[row tokens | own tokens] that the chunk's tokens see."""
    return torch.cat([row, own], dim=-1)[:, None]


def _hidden(document_ids: Int[Tensor, "B T"], anchors: Int[Tensor, "B R"], reach: Sequence[int]) -> list[Bool[Tensor, "B _ _"]]:
    """Of the chunks, the row tokens that they read and a branch does not see."""
    chunks = zip(anchors.split(CHUNK_BRANCHES, dim=1), _limits(reach, CHUNK_BRANCHES), strict=True)
    return [~prefix_visible(document_ids[:, :limit], chunk) for chunk, limit in chunks]


def _fused(
    query: Float[Tensor, "B H Q d"], key: Float[Tensor, "B h S d"], value: Float[Tensor, "B h S d"], mask: Tensor | None, scaling: float
) -> Float[Tensor, "B Q H d"]:
    """Fused attention under a mask, or causal without one; H query heads share h key heads."""
    grouped = query.shape[1] != key.shape[1]
    out = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped
    )
    return out.transpose(1, 2)


def _attend_step(
    query: Float[Tensor, "B h g C d"],
    row: KeysValues,
    own: tuple[Float[Tensor, "B h C U d"], Float[Tensor, "B h C U d"]],
    hidden: Bool[Tensor, "B C P"],
) -> Float[Tensor, "B h g C d"]:
    """softmax over [row keys not hidden | own keys] of scaled queries, one a branch."""
    shape, limit = query.shape[2:4], hidden.shape[2]
    row_key, row_value = (x[:, :, :limit] for x in row)
    row_scores = (query.flatten(2, 3) @ row_key.mT).unflatten(2, shape).masked_fill_(hidden[:, None, None], -torch.inf)
    own_scores = (own[0][:, :, None] @ query[..., None]).squeeze(-1)
    weights = torch.cat([row_scores, own_scores], dim=-1).softmax(-1, dtype=torch.float32).to(query.dtype)
    row_weights, own_weights = weights.tensor_split([limit], dim=-1)
    from_row = (row_weights.flatten(2, 3) @ row_value).unflatten(2, shape)
    return from_row + (own_weights[..., None, :] @ own[1][:, :, None]).squeeze(-2)


def branch_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, scaling: float, context: Context, **_: Any
) -> tuple[Float[Tensor, "B S H d"], None]:
    """The function that `transformers` models call; `context` comes through the model's keyword arguments."""
    layer = module.layer_idx
    assert isinstance(layer, int)
    return context.attend(layer, query, key, value, scaling), None


AttentionInterface.register(NAME, branch_attention)
