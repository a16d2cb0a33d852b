"""Attention of a row and of the branches that hang off it, without a mask over the square of the flat row.

`transformers` models call `branch_attention` in every layer, with a context that says what the tokens of this forward are: a row alone, a row
with all its branches, or one more token of every branch over cached keys. Who sees whom is decided in `blocks.py`; here it is computed: row
tokens by fused attention, branch tokens by a softmax over the row's prefix and the branch's own tokens together.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import AttentionInterface

from ebft.blocks import Branches, own_visible, prefix_visible, row_visible
from ebft.types import Batch

NAME = "ebft_branches"
CHUNKS = 8  # of branches; a chunk reads the prefix up to its largest anchor only
KeysValues = tuple[Float[Tensor, "B h T d"], Float[Tensor, "B h T d"]]


class Context(ABC):
    """What the tokens of one forward are."""

    @abstractmethod
    def attend(
        self, layer: int, query: Float[Tensor, "B H S d"], key: Float[Tensor, "B h S d"], value: Float[Tensor, "B h S d"], scaling: float
    ) -> Float[Tensor, "B H S d"]: ...


@dataclass
class RowContext(Context):
    """A row alone. With `keep`, its keys and values stay in `cache` for branches that follow."""

    mask: Bool[Tensor, "B T T"] | None
    keep: bool = False
    cache: dict[int, KeysValues] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: Batch, keep: bool = False) -> "RowContext":
        return cls(row_visible(batch.document_ids) if batch.masked else None, keep)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        if self.keep:
            self.cache[layer] = key, value
        mask = None if self.mask is None else self.mask[:, None]
        grouped = query.shape[1] != key.shape[1]
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped
        )


@dataclass
class FlatContext(Context):
    """A row and all tokens of all its branches, as `blocks.flat_tokens` lays them out."""

    row: RowContext
    prefix_mask: Bool[Tensor, "B R T"]
    own_mask: Bool[Tensor, "W W"]
    reach: tuple[int, ...]

    @classmethod
    def of(cls, batch: Batch, branches: Branches) -> "FlatContext":
        own = own_visible(branches.tokens.shape[2], batch.tokens.device)
        return cls(RowContext.of(batch), prefix_visible(batch.document_ids, branches.anchors), own, branches.reach)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        (row_query, query), (row_key, key), (row_value, value) = (self._split(x) for x in (query, key, value))
        row = self.row.attend(layer, row_query, row_key, row_value, scaling)
        own = attend_branches(query * scaling, (row_key, row_value), (key, value), self.prefix_mask, self.own_mask, self.reach)
        return torch.cat([row, own.flatten(2, 3)], dim=2)

    def _split(self, x: Float[Tensor, "B H S d"]) -> tuple[Float[Tensor, "B H T d"], Float[Tensor, "B H R W d"]]:
        num_branches, row_length = self.prefix_mask.shape[1:]
        return x[:, :, :row_length], x[:, :, row_length:].unflatten(2, (num_branches, -1))


@dataclass
class StepContext(Context):
    """One more token of every branch, over the row's cached keys and values and the branches' own."""

    row_cache: dict[int, KeysValues]
    prefix_mask: Bool[Tensor, "B R T"]
    reach: tuple[int, ...]
    num_steps: int  # tokens per branch that will pass
    step: int = 0
    own_cache: dict[int, tuple[Float[Tensor, "B h R U d"], Float[Tensor, "B h R U d"]]] = field(default_factory=dict)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        if layer not in self.own_cache:
            keys, values = (x.new_empty((*x.shape[:3], self.num_steps, x.shape[3])) for x in (key, value))
            self.own_cache[layer] = keys, values
        keys, values = self.own_cache[layer]
        keys[:, :, :, self.step], values[:, :, :, self.step] = key, value
        seen = self.step + 1
        own = keys[:, :, :, :seen], values[:, :, :, :seen]
        every = torch.ones(1, seen, dtype=torch.bool, device=query.device)
        return attend_branches(query[:, :, :, None] * scaling, self.row_cache[layer], own, self.prefix_mask, every, self.reach).squeeze(3)


def attend_branches(
    query: Float[Tensor, "B H R W d"],
    row: KeysValues,
    own: tuple[Float[Tensor, "B h R U d"], Float[Tensor, "B h R U d"]],
    prefix_mask: Bool[Tensor, "B R T"],
    own_mask: Bool[Tensor, "W U"],
    reach: tuple[int, ...],
) -> Float[Tensor, "B H R W d"]:
    """softmax over [visible row keys | visible own keys] of scaled queries, per branch; H query heads share h key heads."""
    grouped = query.unflatten(1, (row[0].shape[1], -1))
    parts = [
        _attend_chunk(
            grouped[:, :, :, chunk],
            (row[0][:, :, :limit], row[1][:, :, :limit]),
            (own[0][:, :, None, chunk], own[1][:, :, None, chunk]),
            prefix_mask[:, chunk, :limit],
            own_mask,
        )
        for chunk, limit in _chunks(reach)
    ]
    return torch.cat(parts, dim=3).flatten(1, 2)


def _chunks(reach: tuple[int, ...]) -> Iterator[tuple[slice, int]]:
    """Slices of the branches, each with the number of row tokens that its branches see at most."""
    size = -(-len(reach) // CHUNKS)
    for start in range(0, len(reach), size):
        yield slice(start, start + size), max(reach[start : start + size])


def _attend_chunk(
    query: Float[Tensor, "B h g C W d"],
    row: KeysValues,
    own: tuple[Float[Tensor, "B h 1 C U d"], Float[Tensor, "B h 1 C U d"]],
    prefix_mask: Bool[Tensor, "B C P"],
    own_mask: Bool[Tensor, "W U"],
) -> Float[Tensor, "B h g C W d"]:
    shape, limit = query.shape[2:5], row[0].shape[2]
    prefix_scores = (query.flatten(2, 4) @ row[0].mT).unflatten(2, shape).masked_fill(~prefix_mask[:, None, None, :, None], -torch.inf)
    own_scores = (query @ own[0].mT).masked_fill(~own_mask, -torch.inf)
    weights = torch.cat([prefix_scores, own_scores], dim=-1).softmax(-1, dtype=torch.float32).to(query.dtype)
    from_row = (weights[..., :limit].flatten(2, 4) @ row[1]).unflatten(2, shape)
    return from_row + weights[..., limit:] @ own[1]


def branch_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, scaling: float, context: Context, **_: Any
) -> tuple[Float[Tensor, "B S H d"], None]:
    """The function that `transformers` models call; `context` comes through the model's keyword arguments."""
    layer = module.layer_idx
    assert isinstance(layer, int)
    return context.attend(layer, query, key, value, scaling).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, branch_attention)
