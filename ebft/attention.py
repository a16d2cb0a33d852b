"""Attention of a row and of the branches that hang off it, without a mask over the square of the flat row.

`transformers` models call `branch_attention` in every layer, with a context that says what the tokens of this forward are: a row alone, a row
with all its branches, or one more token of every branch over cached keys. Who sees whom is decided in `blocks.py`; here it is computed.
Branches go in chunks of neighbours, and a chunk reads the row up to its largest anchor only. Whole branches go through fused attention, with a
small mask that keeps the branches of a chunk apart; single tokens through a softmax over the row's keys and each branch's own together, because
own keys grow with every step and would soon outnumber the row's. Completions, many tokens behind one anchor a row, each have a cache of their own,
for which fused attention is the fastest.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import AttentionInterface

from ebft.blocks import Branches, own_visible, prefix_visible, row_visible
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
class FlatContext(Context):
    """A row and all tokens of all its branches, as `blocks.flat_tokens` lays them out."""

    row: RowContext
    segments: list[int]  # row tokens that each chunk reads beyond the chunk before, and the rest
    chunk_tokens: int
    masks: list[Bool[Tensor, "B 1 _ _"]]  # of the chunks, each with its own sizes, over the row tokens that they read and their own

    @classmethod
    def of(cls, batch: Batch, branches: Branches) -> "FlatContext":
        num_branches, width = branches.tokens.shape[1:]
        size = max(1, min(CHUNK_BRANCHES, CHUNK_TOKENS // width)) if width else num_branches
        limits = _limits(branches.reach, size)
        bounds = [0, *limits, batch.tokens.shape[1]]
        visible = prefix_visible(batch.document_ids, branches.anchors).split(size, dim=1)
        own = own_visible(width, batch.tokens.device)
        masks = [_chunk_mask(chunk[:, :, :limit], own) for chunk, limit in zip(visible, limits, strict=True)]
        return cls(RowContext.of(batch), [stop - start for start, stop in pairwise(bounds)], size * width, masks)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        length = sum(self.segments)
        (row_query, query), (row_key, key), (row_value, value) = (x.tensor_split([length], dim=2) for x in (query, key, value))
        parts = [self.row.attend(layer, row_query, row_key, row_value, scaling)]
        row_keys, row_values = row_key.split(self.segments, dim=2), row_value.split(self.segments, dim=2)
        chunks = zip(*(x.split(self.chunk_tokens, dim=2) for x in (query, key, value)), self.masks, strict=True)
        for number, (query, key, value, mask) in enumerate(chunks, 1):
            keys, values = torch.cat([*row_keys[:number], key], dim=2), torch.cat([*row_values[:number], value], dim=2)
            parts.append(_fused(query, keys, values, mask, scaling))
        return torch.cat(parts, dim=1)


@dataclass
class StepContext(Context):
    """One more token of every branch, over the row's cached keys and values and the branches' own."""

    row_cache: dict[int, KeysValues]
    hidden: list[Bool[Tensor, "B _ _"]]  # of the chunks, each with its own sizes: row tokens that they read and a branch does not see
    num_steps: int  # tokens per branch that will pass
    step: int = 0
    own_cache: dict[int, BranchKeysValues] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: Batch, branches: Branches, row_cache: dict[int, KeysValues], num_steps: int) -> "StepContext":
        chunks = (~prefix_visible(batch.document_ids, branches.anchors)).split(CHUNK_BRANCHES, dim=1)
        limits = _limits(branches.reach, CHUNK_BRANCHES)
        return cls(row_cache, [chunk[:, :, :limit] for chunk, limit in zip(chunks, limits, strict=True)], num_steps)

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


def _limits(reach: tuple[int, ...], size: int) -> list[int]:
    """Row tokens that the chunks of `size` branches read: as many as one of their branches sees, and no fewer than the chunk before."""
    return list(accumulate((max(reach[start : start + size]) for start in range(0, len(reach), size)), max))


def _chunk_mask(row: Bool[Tensor, "B C P"], own: Bool[Tensor, "W W"]) -> Bool[Tensor, "B 1 Q S"]:
    """[row tokens | own tokens of all branches of the chunk] that the chunk's tokens see."""
    size, width = row.shape[1], len(own)
    same = torch.eye(size, dtype=torch.bool, device=row.device)
    apart = (same[:, None, :, None] & own[:, None, :]).reshape(size * width, size * width)
    return torch.cat([row.repeat_interleave(width, dim=1), apart.expand(len(row), -1, -1)], dim=-1)[:, None]


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
