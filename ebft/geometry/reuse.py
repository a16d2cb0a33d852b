"""What a batch of rollouts need not forward, because the row or another rollout has it (method.md section 9, items 4
and 5).

While a rollout's tokens equal the row's, it is a prefix of the row, and the row's forward holds its hidden states and
its next token's distribution. So a rollout with m leading matches is a branch at anchor + m that carries its later
tokens only; one that matches to its end is no branch at all, and rollouts that carry the same tokens behind the same
anchor are one branch. Exact, not an approximation.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ebft.geometry.blocks import Branches, block_branches, make_branches, to_branches
from ebft.types import Batch, Blocks, Rollout

ABOVE_TOKENS = 2**32  # what two keys of different first parts differ by


def branches_of(batch: Batch, rollout: Rollout, reuse: bool, group_tokens: int | None = None) -> Branches:
    """Branches that hold the hidden states of every valid token, with `reuse` without what the row or another branch
    has; in groups of at most `group_tokens` own tokens of a row."""
    return (
        live_branches(batch, rollout, group_tokens)
        if reuse
        else make_branches(rollout.blocks, rollout.tokens, group_tokens)
    )


def free_to_read(x: Tensor) -> bool:
    """Whether a number on which shapes depend costs nothing to read; elsewhere a device would have to finish what it
    was given first."""
    return x.device.type == "cpu"


def largest(counts: Int[Tensor, "B"], bound: int | None) -> int:
    """The largest of the counts, or its bound where there is one and the count is not free to read."""
    return int(counts.max()) if bound is None or free_to_read(counts) else bound


def leading_matches(batch: Batch, blocks: Blocks, tokens: Int[Tensor, "B N K G"]) -> Int[Tensor, "B N K"]:
    """The number of tokens with which a rollout repeats the row behind its anchor, inside the anchor's document."""
    row_length, num_steps = batch.tokens.shape[1], tokens.shape[3]
    place = blocks.anchors[..., None] + torch.arange(num_steps, device=tokens.device)
    inside, place = place < row_length, place.clamp_max(row_length - 1).flatten(1)
    reference, document = (x.gather(1, place).view(inside.shape) for x in (batch.tokens, batch.document_ids))
    inside &= document == batch.document_ids.gather(1, blocks.anchors - 1)[..., None]
    return ((tokens == reference[:, None]) & inside[:, None]).long().cumprod(-1).sum(-1)


def live_branches(batch: Batch, rollout: Rollout, group_tokens: int | None = None) -> Branches:
    """A rollout's first tokens are valid, if any."""
    tokens, n_samples, num_steps = rollout.tokens, rollout.tokens.shape[1], rollout.tokens.shape[3]
    lengths = to_branches(rollout.valid.sum(-1))
    shared = to_branches(leading_matches(batch, rollout.blocks, tokens)).minimum(lengths)
    anchors, lengths = block_branches(rollout.blocks.anchors, n_samples) + shared, lengths - shared
    step = torch.arange(num_steps, device=tokens.device)
    own = to_branches(tokens).take_along_dim((shared[..., None] + step).clamp_max(num_steps - 1), dim=2)
    own = own.masked_fill(step >= lengths[..., None], -1)
    key = anchors
    for t in range(num_steps):
        key = dense_ranks(key * ABOVE_TOKENS + own[..., t] + 1)
    number, first, exists = distinct(key, lengths > 0, rollout.max_branches(num_steps))
    lengths = lengths.gather(1, first).masked_fill(~exists, 0)
    starts = _starts(lengths, num_steps, group_tokens)
    width = largest((starts + lengths).amax(1), _max_columns(rollout.max_own_tokens, num_steps, group_tokens))
    columns = torch.where(step < lengths[..., None], starts[..., None] + step, width)
    own = own.take_along_dim(first[..., None], dim=1)
    packed, hung, steps = (
        _laid(columns, x, width, filler)
        for x, filler in ((own, 0), (anchors.gather(1, first)[..., None], 1), (step, 0))
    )
    reach, depth = [batch.tokens.shape[1]] * width, [num_steps - 1] * width
    if free_to_read(hung):
        reach, depth = torch.stack([hung.amax(0), steps.amax(0)]).tolist()
    group = max(1, width if group_tokens is None else max(group_tokens, num_steps))
    return Branches(packed, hung, steps, tuple(reach), tuple(depth), shared, starts.gather(1, number), group)


def _starts(lengths: Int[Tensor, "B C"], longest: int, group_tokens: int | None) -> Int[Tensor, "B C"]:
    """The places where branches of these lengths begin if they lie one behind the other, none on both sides of a
    multiple of `group_tokens`.

    A group takes as many as it holds; where that is not free to read, a branch goes into the group in which its last
    token would fall if groups took `group_tokens` less what it can reach into the group before.
    """
    ends = lengths.cumsum(1)
    starts = ends - lengths
    if group_tokens is None:
        return starts
    group = max(group_tokens, longest)
    if free_to_read(lengths):
        opens = _opening(starts, ends, group)
    else:
        number = (ends - 1).clamp_min(0) // (group - longest + 1)
        opens = torch.nn.functional.pad(number[:, 1:] > number[:, :-1], (1, 0), value=True)
    return starts - torch.where(opens, starts, 0).cummax(1).values + group * (opens.cumsum(1) - 1)


def _opening(starts: Int[Tensor, "B C"], ends: Int[Tensor, "B C"], group: int) -> Bool[Tensor, "B C"]:
    """True where a branch is the first of a group, which takes as many as it holds."""
    num_branches = starts.shape[1]
    opens = torch.zeros(len(starts), num_branches + 1, dtype=torch.bool, device=starts.device)
    first = torch.zeros_like(starts[:, :1])
    while bool((first < num_branches).any()):
        opens.scatter_(1, first, True)
        begin = starts.gather(1, first.clamp_max(num_branches - 1))
        first = torch.searchsorted(ends, begin + group, right=True)
    return opens[:, :num_branches]


def _max_columns(own_tokens: int | None, longest: int, group_tokens: int | None) -> int | None:
    """How far branches of so many tokens reach at most, if that is known."""
    if own_tokens is None or group_tokens is None:
        return own_tokens
    group = max(group_tokens, longest)
    return -(-own_tokens // (group - longest + 1)) * group


def _laid(columns: Int[Tensor, "B C G"], values: Int[Tensor, "..."], width: int, filler: int) -> Int[Tensor, "B W"]:
    """Values in their columns, of which `width` and later ones are left out; elsewhere the filler, which nothing
    reads."""
    row = columns.new_full((len(columns), width + 1), filler)
    return row.scatter(1, columns.flatten(1), values.expand_as(columns).flatten(1))[:, :width]


def dense_ranks(keys: Int[Tensor, "B R"]) -> Int[Tensor, "B R"]:
    """How many different smaller keys a row has."""
    ordered, order = keys.sort(dim=1)
    rank = torch.nn.functional.pad((ordered[:, 1:] != ordered[:, :-1]).cumsum(1), (1, 0))
    return torch.empty_like(keys).scatter(1, order, rank)


def distinct(
    keys: Int[Tensor, "B R"], chosen: Bool[Tensor, "B R"], most: int | None
) -> tuple[Int[Tensor, "B R"], Int[Tensor, "B C"], Bool[Tensor, "B C"]]:
    """Number the different chosen keys of a row in their order, C at `most`: everyone's number, and of every number who
    has it and whether anyone does.

    The others' numbers are arbitrary, but below C, which is at least 1.
    """
    number = dense_ranks(keys.masked_fill(~chosen, torch.iinfo(keys.dtype).max))
    counts = number.masked_fill(~chosen, -1).amax(1) + 1
    width = max(1, largest(counts, most))
    who = torch.arange(keys.shape[1], device=keys.device).expand_as(keys)
    first = torch.zeros_like(keys[:, :1]).repeat(1, width + 1).scatter(1, number.clamp_max(width), who)[:, :width]
    exists = torch.arange(width, device=keys.device) < counts[:, None]
    return number.clamp_max(width - 1), first, exists
