"""Attention of a row and of the branches that hang off it by flex attention, for CUDA: fused kernels, and no mask over
queries and keys.

What a query sees is one run of the row's keys and, in a branch, one run of own keys: the spans of `blocks.py`. They
decide of every 128 queries which 128 keys none of them sees, which are left out; which all of them see, which are read
without a mask; and which some see. Masks are built once a forward and shared by its layers, and nothing here asks the
device for a value. Kernels are compiled for a shape. Lengths that change from step to step are therefore padded to
buckets: queries behind the last see key 0, and are cut off; keys behind the last are seen by none of the others. A
sliding window moves where spans begin, and a cap on scores is a function that the kernel is compiled with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.compiler.config
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention, or_masks

from ebft.geometry.blocks import first_own, own_span, prefix_span, row_span

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
    def of(cls, document_ids: Int[Tensor, "B T"], window: int | None = None) -> "FlexRow":
        length = bucket(document_ids.shape[1])
        return cls(_block_mask(length, (_longer(*row_span(document_ids, window), length),)))

    def attend(
        self,
        query: Float[Tensor, "B H T d"],
        key: Float[Tensor, "B h T d"],
        value: Float[Tensor, "B h T d"],
        scaling: float,
        softcap: float | None = None,
    ) -> Float[Tensor, "B T H d"]:
        length, padded = query.shape[2], bucket(query.shape[2])
        if padded > length:
            query, key, value = (_padded(x, padded) for x in (query, key, value))
        return _flex(query, key, value, self.mask, scaling, softcap)[:, :length]


@dataclass(frozen=True)
class FlexBranches:
    """The own tokens of branches, one branch behind the other: W queries over [T row keys | W own keys]."""

    mask: BlockMask

    @classmethod
    def of(
        cls,
        document_ids: Int[Tensor, "B T"],
        anchors: Int[Tensor, "B W"],
        steps: Int[Tensor, "B W"],
        window: int | None = None,
    ) -> "FlexBranches":
        row_keys, length = bucket(document_ids.shape[1]), bucket(steps.shape[1])
        first, stop = own_span(steps, window)
        spans = prefix_span(document_ids, anchors, steps, window), (row_keys + first, row_keys + stop)
        return cls(_block_mask(row_keys + length, tuple(_longer(*span, length) for span in spans)))

    def attend(
        self,
        query: Float[Tensor, "B H W d"],
        row: RowKeysValues,
        own_key: Float[Tensor, "B h W d"],
        own_value: Float[Tensor, "B h W d"],
        scaling: float,
        softcap: float | None = None,
    ) -> Float[Tensor, "B W H d"]:
        return _attend_behind_row(query, row, (own_key, own_value), self.mask, scaling, softcap)


@dataclass(frozen=True)
class FlexSteps:
    """One more token of every branch: R queries over [T row keys | U own keys of branch 0 | U of branch 1 | ...].

    The mask reads the spans, which every step moves, and names the blocks that are seen at any step.
    """

    mask: BlockMask
    prefix: Span  # P is R in its bucket
    own: Span
    whole_prefix: Span  # at the first step
    own_start: Int[Tensor, "B P"]
    window: int | None
    window_start: Int[Tensor, "B P"]  # at the first step, wherever the document begins

    @classmethod
    def of(
        cls,
        document_ids: Int[Tensor, "B T"],
        anchors: Int[Tensor, "B R"],
        num_steps: int,
        window: int | None = None,
    ) -> "FlexSteps":
        row_keys, length = bucket(document_ids.shape[1]), bucket(anchors.shape[1])
        start = (row_keys + num_steps * torch.arange(anchors.shape[1], device=anchors.device)).expand_as(anchors)
        whole, last = (
            _longer(*prefix_span(document_ids, anchors, step, window), length) for step in (0, max(0, num_steps - 1))
        )
        prefix = whole[0].clone(), whole[1]
        own_start, own_stop = _longer(start, start + num_steps, length)
        own = own_start.clone(), own_stop
        widest, narrowest = (whole, (own_start, own_stop.clone())), (last, (own_stop.clone(), own_stop.clone()))
        mask = _block_mask(row_keys + length * num_steps, (prefix, own), widest, narrowest)
        window_start = torch.nn.functional.pad(
            (anchors + 1 - (window or 0)).int(), (0, length - anchors.shape[1]), value=-num_steps
        )
        return cls(mask, prefix, own, whole, own_start, window, window_start)

    def attend(
        self,
        query: Float[Tensor, "B H R d"],
        row: RowKeysValues,
        own: tuple[Float[Tensor, "B h R U d"], Float[Tensor, "B h R U d"]],
        step: int,
        scaling: float,
        softcap: float | None = None,
    ) -> Float[Tensor, "B R H d"]:
        """Own keys up to step `step` are seen. Values of later ones are read with weight 0, so that they must be
        finite: zeros, not empty."""
        own_first, own_stop = self.own
        torch.add(self.own_start, step + 1, out=own_stop)
        if self.window is not None:
            torch.add(self.own_start, first_own(step, self.window), out=own_first)
            first, stop = self.prefix
            torch.maximum(self.whole_prefix[0], self.window_start + step, out=first)
            torch.minimum(first, stop, out=first)
        joined = own[0].flatten(2, 3), own[1].flatten(2, 3)
        return _attend_behind_row(query, row, joined, self.mask, scaling, softcap)


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


def _block_mask(
    num_keys: int,
    seen: tuple[Span, ...],
    widest: tuple[Span, ...] | None = None,
    narrowest: tuple[Span, ...] | None = None,
) -> BlockMask:
    """Whole blocks of queries over whole blocks of keys. A query sees the keys of all its spans; no two spans share a
    block of keys. Spans that move while the mask is used have the keys of `widest` at most and those of `narrowest` at
    least."""
    some, every = _touched(widest or seen, num_keys), _covered(narrowest or seen, num_keys)
    return BlockMask.from_kv_blocks(
        *_listed(some & ~every),
        *_listed(every),
        BLOCK_SIZE=BLOCK,
        mask_mod=or_masks(*(_sees(*span) for span in seen)),
        seq_lengths=(seen[0][0].shape[1], num_keys),
    )


def _touched(spans: tuple[Span, ...], num_keys: int) -> Bool[Tensor, "B I J"]:
    """[b, i, j]: some query of block i sees some key of block j. Exact, from queries x blocks of keys."""
    begin = torch.arange(0, num_keys, BLOCK, device=spans[0][0].device)
    tables = [
        (first[..., None] < begin + BLOCK) & (stop[..., None] > begin) & (first < stop)[..., None]
        for first, stop in spans
    ]
    return torch.stack(tables).any(0).unflatten(1, (-1, BLOCK)).any(2)


def _covered(spans: tuple[Span, ...], num_keys: int) -> Bool[Tensor, "B I J"]:
    """[b, i, j]: every query of block i sees every key of block j."""
    begin = torch.arange(0, num_keys, BLOCK, device=spans[0][0].device)
    tables = [(first[..., None] <= begin) & (stop[..., None] >= begin + BLOCK) for first, stop in spans]
    return torch.stack(tables).any(0).unflatten(1, (-1, BLOCK)).all(2)


def _listed(table: Bool[Tensor, "B I J"]) -> tuple[Int[Tensor, "B 1 I"], Int[Tensor, "B 1 I J"]]:
    """How many blocks of keys every block of queries has, and their numbers, before the numbers of those that it does
    not have."""
    chosen = table[:, None].int()
    return chosen.sum(-1, dtype=torch.int32), chosen.argsort(dim=-1, descending=True, stable=True).int()


def _sees(first: Int[Tensor, "B Q"], stop: Int[Tensor, "B Q"]) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    return lambda b, h, q, k: (k >= first[b, q]) & (k < stop[b, q])


def _attend_behind_row(
    query: Float[Tensor, "B H Q d"],
    row: RowKeysValues,
    own: OwnKeysValues,
    mask: BlockMask,
    scaling: float,
    softcap: float | None,
) -> Float[Tensor, "B Q H d"]:
    """Queries over [row keys | own keys], each in whole blocks."""
    num_queries, num_keys = mask.seq_lengths
    key, value = (_joined(*pair, num_keys) for pair in zip(row, own, strict=True))
    return _flex(_padded(query, num_queries), key, value, mask, scaling, softcap)[:, : query.shape[2]]


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
    softcap: float | None,
) -> Float[Tensor, "B Q H d"]:
    """Under autocast, rotated queries and keys are wider than the values; they are read as what the values are."""
    head_dim, query, key = query.shape[3], query.to(value.dtype), key.to(value.dtype)
    if head_dim < MIN_HEAD_DIM:
        query, key, value = (torch.nn.functional.pad(x, (0, MIN_HEAD_DIM - head_dim)) for x in (query, key, value))
    out = _kernel(query.device.type)(
        query,
        key,
        value,
        score_mod=None if softcap is None else _capped_by(softcap),
        block_mask=mask,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out[..., :head_dim].transpose(1, 2)


@cache
def _capped_by(softcap: float) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    """One function for each cap, because kernels are compiled for a function."""
    return lambda score, b, h, q, k: softcap * torch.tanh(score / softcap)


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
