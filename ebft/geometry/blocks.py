"""The geometry of strided block-parallel rollouts, and the only place that knows how named axes become the flat row a
model sees.

A row has anchors; `n_samples` branches hang off every anchor. A branch continues the row's prefix as if nothing stood
behind it:

    row       t0 t1 t2 t3 t4 t5 t6 t7 ...             position j sees positions <= j of its own document
    block k            a_k = 3                        conditions on tokens[:3], has tokens[3 : 3 + G] as reference
    branch             `-- y0 y1 .. y(G-1)            y_t stands at position a_k + t, sees tokens[:3] and y0 .. y_t

    flat row  [ T row tokens | own tokens of a branch | own tokens of the next | ... ]
    rollouts  block-major: r = k * N + n

Source: method.md section 2 (Jelassi et al., arXiv 2603.12248). Which position holds or predicts which token is decided
in `_places`, who sees whom in `row_span`, `prefix_span`, `own_span` and `first_own`, nowhere else: whatever a token
sees of the row or of the own tokens is one run of them. In a layer with a sliding window of w tokens, the token at
position p sees nothing in front of position p - w + 1; positions count the tokens of the row, so that a window is as
long in a document behind others as in the first one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from ebft.types import Batch, Blocks


def find_blocks(batch: Batch, anchors: str, context_length: int, stride: int, generate_length: int) -> Blocks:
    """The blocks of every row, in order of their anchors, padded to the largest number of blocks in the batch (at least
    1).

    `anchors="all"`: positions c0 + k * s. `anchors="completion"`: in every completion that starts at p, positions
    max(p, c0) + k * s whose whole reference lies in it. Either way the position before the anchor and the reference
    belong to one document, none is padding, and the reference holds no beginning-of-sequence token.
    """
    position = row_positions(batch)
    start = torch.full_like(batch.tokens, context_length)
    if anchors == "completion":
        start = _run_starts(batch.completion_mask, batch.document_ids).clamp_min(context_length)
    on_grid = (position >= start) & ((position - start) % stride == 0)
    return _compact(on_grid & reaches(batch, position, anchors, generate_length))


def completion_blocks(batch: Batch) -> Blocks:
    """The case K = 1 of padded pairs: one block a row, at the end of its prompt."""
    return find_blocks(batch, "completion", context_length=1, stride=batch.tokens.shape[1], generate_length=1)


def reaches(batch: Batch, positions: Int[Tensor, "B K"], anchors: str, length: int) -> Bool[Tensor, "B K"]:
    """True where a block at that position has a real continuation of `length` tokens: of one document, and with
    `anchors="completion"` of one completion. Nothing is asked to say a beginning-of-sequence token."""
    whole = fits(batch.document_ids, positions, length)
    if batch.starts is not None:
        whole &= _window_all(~batch.starts, length).gather(1, positions)
    if anchors == "completion":
        whole &= _window_all(batch.completion_mask, length).gather(1, positions)
    return whole


def fits(document_ids: Int[Tensor, "B T"], anchors: Int[Tensor, "B K"], length: int) -> Bool[Tensor, "B K"]:
    """True where positions anchor - 1 .. anchor + length - 1 exist and belong to one document."""
    changes = document_ids[:, 1:] != document_ids[:, :-1]
    seams = torch.nn.functional.pad(changes.long().cumsum(1), (1, 0))  # seams[j]: document changes up to position j
    last = anchors + length - 1
    exists = (anchors >= 1) & (last < document_ids.shape[1])
    before, after = (anchors - 1).clamp_min(0), last.clamp_max(document_ids.shape[1] - 1)
    whole = seams.gather(1, before) == seams.gather(1, after)
    return exists & whole & (document_ids.gather(1, before) >= 0)


def _window_all(mask: Bool[Tensor, "B T"], length: int) -> Bool[Tensor, "B T"]:
    """True at t if mask holds on t .. t + length - 1."""
    padded = torch.nn.functional.pad(mask, (0, length - 1))
    return padded.unfold(1, length, 1).all(-1)


def _run_starts(mask: Bool[Tensor, "B T"], document_ids: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """For every position, where the latest run of `mask` inside one document began."""
    begins = mask.clone()
    begins[:, 1:] &= ~mask[:, :-1] | (document_ids[:, 1:] != document_ids[:, :-1])
    position = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(begins, position, 0).cummax(1).values


def _compact(chosen: Bool[Tensor, "B T"]) -> Blocks:
    width = max(1, int(chosen.sum(1).max()))
    anchors = chosen.int().argsort(dim=1, descending=True, stable=True)[:, :width]
    valid = chosen.gather(1, anchors)
    anchors = torch.where(valid, anchors, 1)  # a placeholder that every row can hold: see one token, be masked out
    return Blocks(anchors=anchors, valid=valid, reach=tuple(int(anchor) for anchor in anchors.amax(0)))


def to_branches(x: Shaped[Tensor, "B N K *rest"]) -> Shaped[Tensor, "B R *rest"]:
    """Lay samples and blocks out block-major: branch r = k * N + n."""
    return x.transpose(1, 2).flatten(1, 2)


def from_branches(x: Shaped[Tensor, "B R *rest"], n_samples: int) -> Shaped[Tensor, "B N K *rest"]:
    """Undo `to_branches`."""
    return x.unflatten(1, (-1, n_samples)).transpose(1, 2)


def block_branches(x: Shaped[Tensor, "B K *rest"], n_samples: int) -> Shaped[Tensor, "B R *rest"]:
    """Give every branch the value of its block."""
    return x.repeat_interleave(n_samples, dim=1)


@dataclass(frozen=True)
class OwnTokens:
    """Tokens of branches as the model sees them, one branch behind the other.

    Own token w is number `steps[w]` of a branch that hangs off `anchors[w]`. `reach` and `depth` bound anchors and
    steps over the batch, in Python integers, so that attention can leave out keys that no token of a chunk sees without
    asking the device.
    """

    tokens: Int[Tensor, "B W"]
    anchors: Int[Tensor, "B W"]
    steps: Int[Tensor, "B W"]
    reach: tuple[int, ...]
    depth: tuple[int, ...]

    @property
    def positions(self) -> Int[Tensor, "B W"]:
        return self.anchors + self.steps


@dataclass(frozen=True)
class Branches(OwnTokens):
    """All branches of a batch.

    Rollout r is the row's for its first `shared[r]` tokens; its others are own tokens from `starts[r]` on, which
    another rollout may share. No branch lies on both sides of a multiple of `group`.
    """

    shared: Int[Tensor, "B R"]
    starts: Int[Tensor, "B R"]
    group: int

    def groups(self) -> Iterator[tuple[int, OwnTokens]]:
        """The own tokens in groups of whole branches, each with the number of its first token."""
        for start in range(0, self.tokens.shape[1], self.group):
            here = slice(start, start + self.group)
            yield (
                start,
                OwnTokens(
                    self.tokens[:, here], self.anchors[:, here], self.steps[:, here], self.reach[here], self.depth[here]
                ),
            )


def make_branches(blocks: Blocks, tokens: Int[Tensor, "B N K G"], group_tokens: int | None = None) -> Branches:
    """Branches that start at their block's anchor and carry all the given tokens, one for every rollout; in groups of
    at most `group_tokens`."""
    batch, n_samples, num_blocks, width = tokens.shape
    num_branches, device = num_blocks * n_samples, tokens.device
    anchors = block_branches(blocks.anchors, n_samples * width)
    steps = torch.arange(width, device=device).repeat(num_branches).expand(batch, -1)
    starts = (width * torch.arange(num_branches, device=device)).expand(batch, -1)
    reach = tuple(bound for bound in blocks.reach for _ in range(n_samples * width))
    depth = tuple(range(width)) * num_branches
    group = max(1, num_branches if group_tokens is None else group_tokens // max(1, width)) * max(1, width)
    return Branches(
        to_branches(tokens).flatten(1), anchors, steps, reach, depth, torch.zeros_like(starts), starts, group
    )


def row_positions(batch: Batch) -> Int[Tensor, "B T"]:
    return torch.arange(batch.tokens.shape[1], device=batch.tokens.device).expand_as(batch.tokens)


def token_places(
    anchors: Int[Tensor, "B R"], branches: Branches, row_length: int, num_steps: int
) -> Int[Tensor, "B R G"]:
    """Flat index of token t of every rollout; `anchors` are those of the rollouts' blocks."""
    return _places(anchors, branches, row_length, torch.arange(num_steps, device=anchors.device))


def predictors(
    anchors: Int[Tensor, "B R"], branches: Branches, row_length: int, num_steps: int
) -> Int[Tensor, "B R G"]:
    """Flat index of the position whose output predicts token t of every rollout: that of token t - 1, or the row's
    before the anchor."""
    return _places(anchors, branches, row_length, torch.arange(num_steps, device=anchors.device) - 1)


def _places(
    anchors: Int[Tensor, "B R"], branches: Branches, row_length: int, step: Int[Tensor, "G"]
) -> Int[Tensor, "B R G"]:
    """A token that no branch carries has an arbitrary place."""
    shared = branches.shared[..., None]
    own = row_length + branches.starts[..., None] + step - shared
    return torch.where(step < shared, anchors[..., None] + step, own).clamp_max(
        row_length + branches.tokens.shape[1] - 1
    )


def row_span(
    document_ids: Int[Tensor, "B T"], window: int | None = None
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """(first, stop) at [b, i]: row position i sees row positions first <= j < stop, its document's up to itself. A
    document is one run of its id."""
    whole = torch.ones_like(document_ids, dtype=torch.bool)
    stop = torch.arange(1, document_ids.shape[1] + 1, device=document_ids.device).expand_as(document_ids)
    first = _run_starts(whole, document_ids)
    return (first, stop) if window is None else (first.maximum(stop - window), stop)


def prefix_span(
    document_ids: Int[Tensor, "B T"],
    anchors: Int[Tensor, "B Q"],
    steps: Int[Tensor, "B Q"] | int = 0,
    window: int | None = None,
) -> tuple[Int[Tensor, "B Q"], Int[Tensor, "B Q"]]:
    """(first, stop) at [b, q]: token number `steps` of a branch that hangs off anchor q sees row positions first <= j <
    stop: those that the position before the anchor sees, but for what has left its window. Behind the window first is
    stop."""
    first, stop = (bound.gather(1, anchors - 1) for bound in row_span(document_ids))
    return (first, stop) if window is None else (first.maximum(anchors + steps + 1 - window).minimum(stop), stop)


def own_span(steps: Int[Tensor, "B Q"], window: int | None = None) -> tuple[Int[Tensor, "B Q"], Int[Tensor, "B Q"]]:
    """(first, stop) at [b, q]: own token q sees own tokens first <= o < stop, its branch's up to itself."""
    query = torch.arange(steps.shape[1], device=steps.device)
    return query - (steps if window is None else steps.clamp_max(window - 1)), (query + 1).expand_as(steps)


def first_own(step: int, window: int | None = None) -> int:
    """The number of the first own token that token number `step` of the same branch sees."""
    return 0 if window is None else max(0, step + 1 - window)


def row_visible(document_ids: Int[Tensor, "B T"], window: int | None = None) -> Bool[Tensor, "B T T"]:
    """[b, i, j]: row position i sees row position j."""
    return _inside(*row_span(document_ids, window), 0, document_ids.shape[1])


def prefix_visible(
    document_ids: Int[Tensor, "B T"],
    anchors: Int[Tensor, "B Q"],
    steps: Int[Tensor, "B Q"] | int = 0,
    window: int | None = None,
) -> Bool[Tensor, "B Q T"]:
    """[b, q, j]: token number `steps` of what hangs off anchor q sees row position j. A branch belongs to the document
    of the position before its anchor."""
    return _inside(*prefix_span(document_ids, anchors, steps, window), 0, document_ids.shape[1])


def own_visible(steps: Int[Tensor, "B Q"], lookback: int, window: int | None = None) -> Bool[Tensor, "B Q O"]:
    """[b, q, o]: own token q sees own token o, with the `lookback` tokens before the first of the Q as keys as well: O
    = lookback + Q."""
    return _inside(*own_span(steps, window), -lookback, steps.shape[1])


def _inside(first: Int[Tensor, "B Q"], stop: Int[Tensor, "B Q"], begin: int, end: int) -> Bool[Tensor, "B Q O"]:
    """[b, q, o]: key begin + o lies in the query's span; O = end - begin."""
    key = torch.arange(begin, end, device=first.device)
    return (key >= first[..., None]) & (key < stop[..., None])
