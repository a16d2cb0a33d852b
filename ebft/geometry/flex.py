"""Attention of a row and of the branches that hang off it by flex attention, for CUDA: fused kernels, and no mask over
queries and keys.

What a query sees is one run of the row's keys and, in a branch, one run of own keys: the spans of `blocks.py`. They
decide of every 128 queries which 128 keys none of them sees, which are left out; which all of them see, which are read
without a mask; and which some see. Masks are built once a forward and shared by its layers, and nothing here asks the
device for a value. Kernels are compiled for a shape. Lengths that change from step to step are therefore padded to
buckets: queries behind the last see key 0, and are cut off; keys behind the last are seen by none of the others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.compiler.config
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention, or_masks

from ebft.geometry.blocks import own_span, prefix_span, row_span

BLOCK = 128  # queries, and keys, that are left out or read together
MAX_KERNELS = 512  # of all shapes, with and without gradients; one more is an error, never attention without a kernel
MIN_HEAD_DIM = 16  # of flex attention's CUDA kernels; narrower heads are filled up with zeros
Span = tuple[Int[Tensor, "B Q"], Int[Tensor, "B Q"]]  # first <= key < stop
RowKeysValues = tuple[Float[Tensor, "B h T d"], Float[Tensor, "B h T d"]]
OwnKeysValues = tuple[Float[Tensor, "B h O d"], Float[Tensor, "B h O d"]]


@dataclass(frozen=True)
class FlexRow:
    """A row alone: T queries over T keys."""

    mask: BlockMask

    @classmethod
    def of(cls, document_ids: Int[Tensor, "B T"]) -> "FlexRow":
        length = bucket(document_ids.shape[1])
        return cls(_block_mask(length, _longer(*row_span(document_ids), length)))

    def attend(
        self,
        query: Float[Tensor, "B H T d"],
        key: Float[Tensor, "B h T d"],
        value: Float[Tensor, "B h T d"],
        scaling: float,
    ) -> Float[Tensor, "B T H d"]:
        length, padded = query.shape[2], bucket(query.shape[2])
        if padded > length:
            query, key, value = (_padded(x, padded) for x in (query, key, value))
        return _flex(query, key, value, self.mask, scaling)[:, :length]


@dataclass(frozen=True)
class FlexBranches:
    """The own tokens of branches, one branch behind the other: W queries over [T row keys | W own keys]."""

    mask: BlockMask

    @classmethod
    def of(
        cls, document_ids: Int[Tensor, "B T"], anchors: Int[Tensor, "B W"], steps: Int[Tensor, "B W"]
    ) -> "FlexBranches":
        row_keys, length = bucket(document_ids.shape[1]), bucket(steps.shape[1])
        first, stop = own_span(steps)
        spans = prefix_span(document_ids, anchors), (row_keys + first, row_keys + stop)
        return cls(_block_mask(row_keys + length, *(_longer(*span, length) for span in spans)))

    def attend(
        self,
        query: Float[Tensor, "B H W d"],
        row: RowKeysValues,
        own_key: Float[Tensor, "B h W d"],
        own_value: Float[Tensor, "B h W d"],
        scaling: float,
    ) -> Float[Tensor, "B W H d"]:
        return _attend_behind_row(query, row, (own_key, own_value), self.mask, scaling)


@dataclass(frozen=True)
class FlexSteps:
    """One more token of every branch: R queries over [T row keys | U own keys of branch 0 | U of branch 1 | ...]."""

    mask: BlockMask  # of blocks, as at the last step
    first: Int[Tensor, "B P"]  # own key of a branch; P is R in its bucket
    stop: Int[Tensor, "B P"]  # behind its last own key so far: the mask reads it, and every step moves it

    @classmethod
    def of(cls, document_ids: Int[Tensor, "B T"], anchors: Int[Tensor, "B R"], num_steps: int) -> "FlexSteps":
        row_keys, length = bucket(document_ids.shape[1]), bucket(anchors.shape[1])
        first = (row_keys + num_steps * torch.arange(anchors.shape[1], device=anchors.device)).expand_as(anchors)
        prefix, own = (
            _longer(*span, length) for span in (prefix_span(document_ids, anchors), (first, first + num_steps))
        )
        return cls(_block_mask(row_keys + length * num_steps, prefix, own), *own)

    def attend(
        self,
        query: Float[Tensor, "B H R d"],
        row: RowKeysValues,
        own: tuple[Float[Tensor, "B h R U d"], Float[Tensor, "B h R U d"]],
        step: int,
        scaling: float,
    ) -> Float[Tensor, "B R H d"]:
        """Own keys of steps 0 .. `step` are seen. Values of later ones are read with weight 0, so that they must be
        finite: zeros, not empty."""
        torch.add(self.first, step + 1, out=self.stop)
        return _attend_behind_row(query, row, (own[0].flatten(2, 3), own[1].flatten(2, 3)), self.mask, scaling)


def bucket(length: int) -> int:
    """The next of 128 x {1, 1.25, 1.5, 1.75} x 2^k in whole 128s; at least 128, and beyond 512 less than a quarter
    above `length`."""
    length = max(length, 1)
    power_below = (1 << (length - 1).bit_length()) // 2
    return _rounded_up(length, max(BLOCK, power_below // 4))


def _rounded_up(length: int, size: int) -> int:
    return -(-length // size) * size


def _longer(
    first: Int[Tensor, "B Q"], stop: Int[Tensor, "B Q"], length: int
) -> tuple[Int[Tensor, "B P"], Int[Tensor, "B P"]]:
    """The spans of `length` queries; those behind the last of the Q see key 0."""
    missing = len(first), length - first.shape[1]
    return torch.cat([first, first.new_zeros(missing)], dim=1).int(), torch.cat(
        [stop, stop.new_ones(missing)], dim=1
    ).int()


def _block_mask(num_keys: int, *spans: Span) -> BlockMask:
    """Whole blocks of queries over whole blocks of keys. A query sees the keys of all its spans; no two spans share a
    block of keys."""
    some, every = _blocks(spans, num_keys)
    return BlockMask.from_kv_blocks(
        *_listed(some & ~every),
        *_listed(every),
        BLOCK_SIZE=BLOCK,
        mask_mod=or_masks(*(_sees(*span) for span in spans)),
        seq_lengths=(spans[0][0].shape[1], num_keys),
    )


def _blocks(spans: tuple[Span, ...], num_keys: int) -> tuple[Bool[Tensor, "B I J"], Bool[Tensor, "B I J"]]:
    """[b, i, j]: some query of block i sees some key of block j; every query sees every key. Exact, from queries x
    blocks of keys."""
    begin = torch.arange(0, num_keys, BLOCK, device=spans[0][0].device)
    end = begin + BLOCK
    touched = torch.stack([(first[..., None] < end) & (stop[..., None] > begin) for first, stop in spans])
    covered = torch.stack([(first[..., None] <= begin) & (stop[..., None] >= end) for first, stop in spans])
    some, every = (table.any(0).unflatten(1, (-1, BLOCK)) for table in (touched, covered))
    return some.any(2), every.all(2)


def _listed(table: Bool[Tensor, "B I J"]) -> tuple[Int[Tensor, "B 1 I"], Int[Tensor, "B 1 I J"]]:
    """How many blocks of keys every block of queries has, and their numbers, before the numbers of those that it does
    not have."""
    chosen = table[:, None].int()
    return chosen.sum(-1, dtype=torch.int32), chosen.argsort(dim=-1, descending=True, stable=True).int()


def _sees(first: Int[Tensor, "B Q"], stop: Int[Tensor, "B Q"]) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    return lambda b, h, q, k: (k >= first[b, q]) & (k < stop[b, q])


def _attend_behind_row(
    query: Float[Tensor, "B H Q d"], row: RowKeysValues, own: OwnKeysValues, mask: BlockMask, scaling: float
) -> Float[Tensor, "B Q H d"]:
    """Queries over [row keys | own keys], each in whole blocks."""
    num_queries, num_keys = mask.seq_lengths
    key, value = (_joined(*pair, num_keys) for pair in zip(row, own, strict=True))
    return _flex(_padded(query, num_queries), key, value, mask, scaling)[:, : query.shape[2]]


def _joined(row: Float[Tensor, "B h T d"], own: Float[Tensor, "B h O d"], length: int) -> Float[Tensor, "B h S d"]:
    row_keys = bucket(row.shape[2])
    return torch.cat(
        [row, _zeros(row, row_keys - row.shape[2]), own, _zeros(own, length - row_keys - own.shape[2])], dim=2
    )


def _padded(x: Float[Tensor, "B h Q d"], length: int) -> Float[Tensor, "B h P d"]:
    """Always a new tensor, in one layout, because kernels are compiled for strides as well."""
    return torch.cat([x, _zeros(x, length - x.shape[2])], dim=2)


def _zeros(like: Float[Tensor, "B h _ d"], length: int) -> Float[Tensor, "B h O d"]:
    return like.new_zeros((*like.shape[:2], length, like.shape[3]))


def _flex(
    query: Float[Tensor, "B H Q d"],
    key: Float[Tensor, "B h S d"],
    value: Float[Tensor, "B h S d"],
    mask: BlockMask,
    scaling: float,
) -> Float[Tensor, "B Q H d"]:
    """Under autocast, rotated queries and keys are wider than the values; they are read as what the values are."""
    head_dim, query, key = query.shape[3], query.to(value.dtype), key.to(value.dtype)
    if head_dim < MIN_HEAD_DIM:
        query, key, value = (torch.nn.functional.pad(x, (0, MIN_HEAD_DIM - head_dim)) for x in (query, key, value))
    out = _kernel(query.device.type)(
        query, key, value, block_mask=mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    )
    return out[..., :head_dim].transpose(1, 2)


@cache
def _kernel(device: str) -> Callable[..., Tensor]:
    """Flex attention, compiled for CUDA. Elsewhere, for tests, only traced: recompiled as often, and computed with all
    scores."""
    compiler = torch.compiler.config
    compiler.recompile_limit = max(compiler.recompile_limit, MAX_KERNELS)
    compiler.accumulated_recompile_limit = max(compiler.accumulated_recompile_limit, MAX_KERNELS)
    return torch.compile(
        flex_attention, fullgraph=True, dynamic=False, backend="inductor" if device == "cuda" else "eager"
    )
