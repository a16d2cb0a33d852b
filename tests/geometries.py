"""Rows and branches long enough for several blocks of 128 queries and keys, and the dense masks of what flex attention
computes over them."""

import torch
from torch import Tensor

from ebft.geometry.blocks import Branches, own_visible, prefix_visible
from tests.reference import pack_loop

LENGTH, QUERY_HEADS, HEADS = 293, 6, 2  # three query heads share one of keys and values
ROWS = {
    "plain": [[0] * LENGTH, [0] * LENGTH],
    "documents": [
        [0] * 101 + [1] * 150 + [2] * 42,
        [7] * 17 + [2] * 213 + [9] * 30 + [-1] * 33,
    ],  # an id says nothing but who belongs together
    "padded": [[0] * LENGTH, [0] * 131 + [-1] * 162],
}
RULES = [(None, None), (2, None), (149, 1.3)]  # windows, and caps of scores
BRANCHES = {"sorted": 263, "loose": 101, "long": 2}  # how many


def row_ids(layout: str) -> Tensor:
    return torch.tensor(ROWS[layout])


def anchors_in(document_ids: Tensor, num_branches: int, seed: int = 3) -> Tensor:
    """[B, R] behind real positions, in no order."""
    draw = torch.Generator().manual_seed(seed)
    last = (document_ids >= 0).sum(1, keepdim=True)
    return 1 + (torch.rand(len(document_ids), num_branches, generator=draw) * last).long()


def branches_in(document_ids: Tensor, kind: str) -> Branches:
    """Short branches in order of their anchors, so many that blocks of padding follow; short ones in no order, some
    without a token; or long ones."""
    anchors = anchors_in(document_ids, BRANCHES[kind])
    if kind == "long":
        lengths = torch.tensor([[307, 89], [83, 311]])
    else:
        lengths = torch.randint(int(kind == "sorted"), 8, anchors.shape, generator=torch.Generator().manual_seed(5))
    anchors = anchors.sort(dim=1).values if kind == "sorted" else anchors
    return pack_loop(anchors, lengths, torch.zeros(*anchors.shape, int(lengths.max()), dtype=torch.long))


def branches_mask(document_ids: Tensor, branches: Branches, window: int | None = None) -> Tensor:
    """[B, W, T + W]"""
    of_row = prefix_visible(document_ids, branches.anchors, branches.steps, window)
    return torch.cat([of_row, own_visible(branches.steps, lookback=0, window=window)], dim=-1)


def steps_mask(document_ids: Tensor, anchors: Tensor, num_steps: int, step: int, window: int | None = None) -> Tensor:
    """[B, R, T + R * U]: a branch sees its own keys up to `step`."""
    num_rows, num_branches = anchors.shape
    number = torch.arange(num_steps)
    near = (number <= step) & (number > step - (window or num_steps))
    own = torch.eye(num_branches, dtype=torch.bool)[:, :, None] & near
    of_row = prefix_visible(document_ids, anchors, step, window)
    return torch.cat([of_row, own.flatten(1).expand(num_rows, -1, -1)], dim=-1)


def random_heads(*sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed + sum(sizes)))
