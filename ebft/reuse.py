"""What a batch of rollouts need not forward, because the row or another rollout has it (method.md section 9, items 4 and 5).

While a rollout's tokens equal the row's, it is a prefix of the row, and the row's forward holds its hidden states and its next token's distribution.
So a rollout with m leading matches is a branch at anchor + m that carries its later tokens only; one that matches to its end is no branch at all, and
rollouts that carry the same tokens behind the same anchor are one branch. Exact, not an approximation.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ebft.blocks import Branches, block_branches, make_branches, to_branches
from ebft.types import Batch, Blocks

ABOVE_TOKENS = 2**32  # what two keys of different first parts differ by


def branches_of(batch: Batch, blocks: Blocks, tokens: Int[Tensor, "B N K G"], needed: Bool[Tensor, "B N K G"], reuse: bool) -> Branches:
    """Branches that hold the hidden states of every needed token: with `reuse` without what the row or another branch has."""
    return live_branches(batch, blocks, tokens, needed) if reuse else make_branches(blocks, tokens)


def leading_matches(batch: Batch, blocks: Blocks, tokens: Int[Tensor, "B N K G"]) -> Int[Tensor, "B N K"]:
    """With how many tokens a rollout repeats the row behind its anchor, inside the anchor's document."""
    row_length, num_steps = batch.tokens.shape[1], tokens.shape[3]
    place = blocks.anchors[..., None] + torch.arange(num_steps, device=tokens.device)
    inside, place = place < row_length, place.clamp_max(row_length - 1).flatten(1)
    reference, document = (x.gather(1, place).view(inside.shape) for x in (batch.tokens, batch.document_ids))
    inside &= document == batch.document_ids.gather(1, blocks.anchors - 1)[..., None]
    return ((tokens == reference[:, None]) & inside[:, None]).long().cumprod(-1).sum(-1)


def live_branches(batch: Batch, blocks: Blocks, tokens: Int[Tensor, "B N K G"], needed: Bool[Tensor, "B N K G"]) -> Branches:
    """`needed` holds for a rollout's first tokens, if for any."""
    n_samples, num_steps = tokens.shape[1], tokens.shape[3]
    lengths = to_branches(needed.sum(-1))
    shared = to_branches(leading_matches(batch, blocks, tokens)).minimum(lengths)
    anchors, lengths = block_branches(blocks.anchors, n_samples) + shared, lengths - shared
    step = torch.arange(num_steps, device=tokens.device)
    own = to_branches(tokens).take_along_dim((shared[..., None] + step).clamp_max(num_steps - 1), dim=2)
    own = own.masked_fill(step >= lengths[..., None], -1)
    key = anchors
    for t in range(num_steps):
        key = dense_ranks(key * ABOVE_TOKENS + own[..., t] + 1)
    number, first, exists = distinct(key, lengths > 0)
    lengths = lengths.gather(1, first).masked_fill(~exists, 0)
    return _packed(anchors.gather(1, first), lengths, own.take_along_dim(first[..., None], dim=1), shared, number)


def dense_ranks(keys: Int[Tensor, "B R"]) -> Int[Tensor, "B R"]:
    """How many different smaller keys a row has."""
    ordered, order = keys.sort(dim=1)
    rank = torch.nn.functional.pad((ordered[:, 1:] != ordered[:, :-1]).cumsum(1), (1, 0))
    return torch.empty_like(keys).scatter(1, order, rank)


def distinct(keys: Int[Tensor, "B R"], chosen: Bool[Tensor, "B R"]) -> tuple[Int[Tensor, "B R"], Int[Tensor, "B C"], Bool[Tensor, "B C"]]:
    """Number the different chosen keys of a row in their order, C at most: everyone's number, and of every number who has it and whether anyone does.

    The others' numbers are arbitrary, but below max(1, C).
    """
    number = dense_ranks(keys.masked_fill(~chosen, torch.iinfo(keys.dtype).max))
    counts = number.masked_fill(~chosen, -1).amax(1) + 1
    width = int(counts.max())
    who = torch.arange(keys.shape[1], device=keys.device).expand_as(keys)
    first = torch.zeros_like(keys[:, :1]).repeat(1, width + 1).scatter(1, number.clamp_max(width), who)[:, :width]
    exists = torch.arange(width, device=keys.device) < counts[:, None]
    return number.clamp_max(max(0, width - 1)), first, exists


def _packed(
    anchors: Int[Tensor, "B C"], lengths: Int[Tensor, "B C"], tokens: Int[Tensor, "B C G"], shared: Int[Tensor, "B R"], number: Int[Tensor, "B R"]
) -> Branches:
    """Lay C branches of different lengths one behind the other; rows that hold less are filled up with tokens that nothing reads."""
    ends, width = lengths.cumsum(1), int(lengths.sum(1).max())
    place = torch.arange(width, device=anchors.device).repeat(len(anchors), 1)
    branch = torch.searchsorted(ends, place, right=True)
    filler, branch = branch == anchors.shape[1], branch.clamp_max(anchors.shape[1] - 1)
    steps = (place - (ends - lengths).gather(1, branch)).masked_fill(filler, 0)
    anchors = anchors.gather(1, branch).masked_fill(filler, 1)
    packed = tokens.flatten(1).gather(1, branch * tokens.shape[2] + steps).masked_fill(filler, 0)
    starts = torch.nn.functional.pad(ends, (1, 0)).gather(1, number)
    reach, depth = torch.stack([anchors.amax(0), steps.amax(0)]).tolist()
    return Branches(packed, anchors, steps, shared, starts, tuple(reach), tuple(depth))
