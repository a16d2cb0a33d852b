"""Attention of branches in chunks of neighbours, each of which reads its row up to its largest anchor only.

Whole branches go through fused attention, with a small mask that keeps the branches of a chunk apart; single tokens
through a softmax over the row's keys and each branch's own together, because own keys grow with every step and would
soon outnumber the row's. Scores that a layer caps go through a softmax of their own, in chunks of queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ebft.geometry.blocks import OwnTokens, first_own, own_visible, prefix_visible
from ebft.geometry.reuse import free_to_read

CHUNK_BRANCHES = 32  # at most; more of them make larger products, and read more of the row that they do not see
CHUNK_TOKENS = 128  # of whole branches: every one meets all keys of its chunk
KeysValues = tuple[Float[Tensor, "B h T d"], Float[Tensor, "B h T d"]]
BranchKeysValues = tuple[Float[Tensor, "B h R U d"], Float[Tensor, "B h R U d"]]


@dataclass
class ChunkedBranches:
    """The own tokens of branches: W queries over [T row keys | W own keys]. A chunk may begin inside a branch, whose
    tokens before it are then among the chunk's keys."""

    segments: list[int]  # row tokens that each chunk reads beyond the chunk before, and the rest
    chunk_tokens: int
    own_segments: list[int]  # of every chunk, the tokens that it alone reads and those that the next chunk reads too
    # of the chunks, each with its own sizes, over the row tokens and own tokens that they read: to be added
    masks: list[Float[Tensor, "B 1 _ _"]]

    @classmethod
    def of(cls, document_ids: Int[Tensor, "B T"], own: OwnTokens, window: int | None = None) -> "ChunkedBranches":
        num_tokens, width = own.tokens.shape[1], 1 + max(own.depth, default=0)
        size = width * max(1, min(CHUNK_BRANCHES, CHUNK_TOKENS // width))
        starts, limits = range(0, num_tokens, size), _limits(own.reach, size)
        bounds, lookback = [0, *limits, document_ids.shape[1]], [*(min(start, own.depth[start]) for start in starts), 0]
        own_segments, masks = [], []
        for chunk, (start, limit) in enumerate(zip(starts, limits, strict=True)):
            anchors, steps = (x[:, start : start + size] for x in (own.anchors, own.steps))
            own_segments += [anchors.shape[1] - lookback[chunk + 1], lookback[chunk + 1]]
            of_row = prefix_visible(document_ids[:, :limit], anchors, steps, window)
            seen = torch.cat([of_row, own_visible(steps, lookback[chunk], window)], dim=-1)
            masks.append(additive(seen)[:, None])
        return cls([stop - start for start, stop in pairwise(bounds)], size, own_segments, masks)

    def attend(
        self,
        query: Float[Tensor, "B H W d"],
        row: KeysValues,
        own_key: Float[Tensor, "B h W d"],
        own_value: Float[Tensor, "B h W d"],
        scaling: float,
        softcap: float | None = None,
    ) -> Float[Tensor, "B W H d"]:
        rows = [x.split(self.segments, dim=2) for x in row]
        owns = [x.split(self.own_segments, dim=2) for x in (own_key, own_value)]
        queries, parts = query.split(self.chunk_tokens, dim=2), []
        # once, as autocast wants them; later layers find them so
        self.masks = [mask.to(own_value.dtype) for mask in self.masks]
        for chunk, mask in enumerate(self.masks):
            mine = slice(max(0, 2 * chunk - 1), 2 * chunk + 2)
            keys, values = (
                torch.cat([*parts_of_row[: chunk + 1], *own[mine]], dim=2)
                for parts_of_row, own in zip(rows, owns, strict=True)
            )
            parts.append(attention(queries[chunk], keys, values, mask, scaling, softcap))
        return torch.cat(parts, dim=1)


@dataclass
class ChunkedSteps:
    """One more token of every branch: R queries over [T row keys | each one's own keys so far]."""

    document_ids: Int[Tensor, "B T"]
    anchors: tuple[Int[Tensor, "B _"], ...]  # of the chunks
    limits: list[int]  # row tokens that each chunk reads
    window: int | None
    step: int = -1  # that `unseen` was made for; without a window it is the same at every step
    # of the chunks, each with its own sizes: minus infinity at row tokens that a branch does not see
    unseen: list[Float[Tensor, "B _ _"]] = field(default_factory=list)

    @classmethod
    def of(
        cls, document_ids: Int[Tensor, "B T"], anchors: Int[Tensor, "B R"], window: int | None = None
    ) -> "ChunkedSteps":
        reach = anchors.amax(0).tolist() if free_to_read(anchors) else [document_ids.shape[1]] * anchors.shape[1]
        return cls(document_ids, anchors.split(CHUNK_BRANCHES, dim=1), _limits(reach, CHUNK_BRANCHES), window)

    def attend(
        self,
        query: Float[Tensor, "B H R d"],
        row: KeysValues,
        own: BranchKeysValues,
        step: int,
        scaling: float,
        softcap: float | None = None,
    ) -> Float[Tensor, "B R H d"]:
        """Own keys up to step `step` are seen."""
        self._move(step)
        grouped = (query * scaling).unflatten(1, (row[0].shape[1], -1))  # query heads by the key head that they share
        seen = (x[:, :, :, first_own(step, self.window) : step + 1].split(CHUNK_BRANCHES, dim=2) for x in own)
        split = zip(grouped.split(CHUNK_BRANCHES, dim=3), *seen, self.unseen, strict=True)
        parts = [_attend_step(queries, row, (keys, values), unseen, softcap) for queries, keys, values, unseen in split]
        return torch.cat(parts, dim=3).flatten(1, 2).transpose(1, 2)

    def _move(self, step: int) -> None:
        if not self.unseen or (self.window is not None and self.step != step):
            chunks = zip(self.anchors, self.limits, strict=True)
            self.unseen = [
                additive(prefix_visible(self.document_ids[:, :limit], anchors, step, self.window))
                for anchors, limit in chunks
            ]
            self.step = step


def _limits(reach: Sequence[int], size: int) -> list[int]:
    """Row tokens that the chunks of `size` neighbours read: as many as one of them sees, and no fewer than the chunk
    before."""
    return list(accumulate((max(reach[start : start + size]) for start in range(0, len(reach), size)), max))


def additive(seen: Bool[Tensor, "B ... S"]) -> Float[Tensor, "B ... S"]:
    """Minus infinity for scores of what is not seen: converted once, where attention would convert truth values in
    every layer."""
    return torch.zeros_like(seen, dtype=torch.float32).masked_fill_(~seen, -torch.inf)


def attention(
    query: Float[Tensor, "B H Q d"],
    key: Float[Tensor, "B h S d"],
    value: Float[Tensor, "B h S d"],
    mask: Tensor | None,
    scaling: float,
    softcap: float | None = None,
) -> Float[Tensor, "B Q H d"]:
    """Attention under a mask [B 1 Q S], or causal without one; H query heads share h key heads."""
    if softcap is None:
        return fused(query, key, value, mask, scaling)
    parts = []
    for start in range(0, query.shape[2], CHUNK_TOKENS):
        chunk = slice(start, start + CHUNK_TOKENS)
        queries, limit = query[:, :, chunk], key.shape[2]
        if mask is None:
            limit = start + queries.shape[2]
            unseen = additive(torch.ones(1, *queries.shape[2:3], limit, device=key.device).tril(start) > 0)[:, None]
        else:
            unseen = mask[:, :, chunk]
        parts.append(_capped(queries, key[:, :, :limit], value[:, :, :limit], unseen, scaling, softcap))
    return torch.cat(parts, dim=1) if parts else fused(query, key, value, mask, scaling)


def _capped(
    query: Float[Tensor, "B H C d"],
    key: Float[Tensor, "B h S d"],
    value: Float[Tensor, "B h S d"],
    mask: Tensor,
    scaling: float,
    softcap: float,
) -> Float[Tensor, "B C H d"]:
    """softmax over scores s that were made softcap tanh(s / softcap), under a mask of truth values or one to add."""
    grouped = (query * scaling).unflatten(1, (key.shape[1], -1))
    scores = cap((grouped.flatten(2, 3) @ key.mT).unflatten(2, grouped.shape[2:4]), softcap)
    unseen = (additive(mask) if mask.dtype == torch.bool else mask)[:, :, None]
    weights = (scores + unseen).softmax(-1, dtype=torch.float32).to(value.dtype)
    out = (weights.flatten(2, 3) @ value).unflatten(2, grouped.shape[2:4])
    return out.flatten(1, 2).transpose(1, 2)


def cap(scores: Float[Tensor, "*b"], softcap: float) -> Float[Tensor, "*b"]:
    return softcap * torch.tanh(scores / softcap)


def fused(
    query: Float[Tensor, "B H Q d"],
    key: Float[Tensor, "B h S d"],
    value: Float[Tensor, "B h S d"],
    mask: Tensor | None,
    scaling: float,
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
    unseen: Float[Tensor, "B C P"],
    softcap: float | None,
) -> Float[Tensor, "B h g C d"]:
    """softmax over [row keys | own keys] of scaled queries, one a branch; `unseen` is added to the row's scores."""
    shape, limit = query.shape[2:4], unseen.shape[2]
    row_key, row_value = (x[:, :, :limit] for x in row)
    row_scores = (query.flatten(2, 3) @ row_key.mT).unflatten(2, shape)
    own_scores = (own[0][:, :, None] * query[..., None, :]).sum(-1)
    if softcap is not None:
        row_scores, own_scores = cap(row_scores, softcap), cap(own_scores, softcap)
    row_scores = row_scores.add_(unseen[:, None, None])
    weights = torch.cat([row_scores, own_scores], dim=-1).softmax(-1, dtype=torch.float32).to(query.dtype)
    row_weights, own_weights = weights.tensor_split([limit], dim=-1)
    from_row = (row_weights.flatten(2, 3) @ row_value).unflatten(2, shape)
    return from_row.add_((own_weights[..., None] * own[1][:, :, None]).sum(-2))
