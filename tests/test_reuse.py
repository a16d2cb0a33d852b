"""Branches without what the row or another branch has, against every rollout's own history (method.md section 9, items 4 and 5)."""

from itertools import product

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ebft.blocks import Branches, block_branches, flat_positions, flat_tokens, from_branches, predictors, token_places
from ebft.reuse import branches_of, dense_ranks, distinct, leading_matches, live_branches
from ebft.types import Batch, Blocks, Rollout
from tests.helpers import existing, partly_the_row
from tests.reference import batch_of, dense_mask, leading_matches_loop

generated = settings(derandomize=True, deadline=None, database=None, max_examples=100)
NUM_ROWS = 3


@st.composite
def rollouts(draw: st.DrawFn) -> tuple[list[list[int]], int, int, int]:
    """Document ids, N, G and a seed."""
    row_length = draw(st.integers(3, 13))
    ids = []
    for _ in range(draw(st.integers(1, NUM_ROWS))):
        seam, end = draw(st.integers(1, row_length)), draw(st.integers(1, row_length))
        ids.append([-1 if t >= end else int(t >= seam) for t in range(row_length)])
    return ids, draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(0, 2**32 - 1))


def made_of(case: tuple[list[list[int]], int, int, int]) -> tuple[Batch, Rollout]:
    """Rows of three different tokens, K = 5 blocks at any real place, some of which do not exist, rollouts that are often the row or twins."""
    ids, n_samples, num_steps, seed = case
    batch, draw, num_blocks = batch_of(ids), torch.Generator().manual_seed(seed), 5
    batch.tokens.copy_(torch.randint(3, batch.tokens.shape, generator=draw))
    last = (batch.document_ids >= 0).sum(1, keepdim=True)
    anchors = (1 + torch.rand(len(ids), num_blocks, generator=draw) * last).long()
    valid = torch.rand(len(ids), num_blocks, generator=draw) < 0.8
    blocks = Blocks(anchors, valid, tuple(anchors.amax(0).tolist()))
    tokens = torch.randint(3, (len(ids), n_samples, num_blocks, num_steps), generator=draw)
    rollout = Rollout(blocks, tokens, torch.zeros(tokens.shape), valid[:, None, :, None].expand(tokens.shape))
    return batch, partly_the_row(batch, rollout, seed)


def different_tokens(batch: Batch, rollout: Rollout) -> int:
    """Own tokens of the row that has most of them, counted branch by branch."""
    matches = leading_matches_loop(batch, rollout.blocks, rollout.tokens)
    branches: list[set[tuple[int, ...]]] = [set() for _ in range(len(batch))]
    for (b, k), n in product(existing(rollout.blocks), range(rollout.tokens.shape[1])):
        m, length = matches[b][n][k], int(rollout.valid[b, n, k].sum())
        branches[b].add((int(rollout.blocks.anchors[b, k]) + m, *rollout.tokens[b, n, k, m:length].tolist()))
    return max(sum(len(branch) - 1 for branch in row) for row in branches)


@generated
@given(case=rollouts())
def test_leading_matches_equal_the_comparison_token_by_token(case: tuple[list[list[int]], int, int, int]) -> None:
    batch, rollout = made_of(case)
    assert leading_matches(batch, rollout.blocks, rollout.tokens).tolist() == leading_matches_loop(batch, rollout.blocks, rollout.tokens)


@generated
@given(case=rollouts())
def test_every_needed_token_stands_behind_its_own_history_and_no_branch_is_there_twice(case: tuple[list[list[int]], int, int, int]) -> None:
    """Where a valid token stands, and where it is predicted, the flat row shows the context and the rollout's tokens before, and nothing else."""
    batch, rollout = made_of(case)
    branches, T, (_, N, _, G) = live_branches(batch, rollout.blocks, rollout.tokens, rollout.valid), batch.tokens.shape[1], rollout.tokens.shape
    assert branches.tokens.shape[1] == different_tokens(batch, rollout)
    anchors = block_branches(rollout.blocks.anchors, N)
    places, before = (from_branches(find(anchors, branches, T, G), N) for find in (token_places, predictors))
    flat, positions, mask = flat_tokens(batch, branches), flat_positions(batch, branches), dense_mask(batch, branches)
    for b, n, k, g in rollout.valid.nonzero().tolist():
        a = int(rollout.blocks.anchors[b, k])
        document = [j for j in range(a) if batch.document_ids[b, j] == batch.document_ids[b, a - 1]]
        for place, last in ((int(places[b, n, k, g]), g), (int(before[b, n, k, g]), g - 1)):
            assert positions[b, place] == a + last
            assert flat[b][mask[b, place]].tolist() == batch.tokens[b, document].tolist() + rollout.tokens[b, n, k, : last + 1].tolist()
    assert places.max() < max(flat.shape[1], 1)


@generated
@given(case=rollouts())
def test_bounds_hold_for_every_row_and_branches_come_in_order_of_their_anchors(case: tuple[list[list[int]], int, int, int]) -> None:
    batch, rollout = made_of(case)
    branches = live_branches(batch, rollout.blocks, rollout.tokens, rollout.valid)
    assert branches.reach == tuple(branches.anchors.amax(0).tolist())
    assert branches.depth == tuple(branches.steps.amax(0).tolist())
    filler = torch.zeros_like(branches.tokens, dtype=torch.bool)
    filler[:, 1:] = branches.anchors[:, 1:] < branches.anchors[:, :-1]
    assert (filler.int().cumsum(1) <= 1).all()  # anchors fall at most once: where a row is filled up
    assert (branches.steps * filler == 0).all()


def by_hand(*rollouts: list[int]) -> tuple[Batch, Blocks, Tensor]:
    """A row 0 .. 6 and rollouts of one block at 2, whose real continuation is 2 3 4."""
    return batch_of([[0] * 7]), Blocks(torch.tensor([[2]]), torch.tensor([[True]]), (2,)), torch.tensor(rollouts)[None, :, None]


def test_branches_by_hand() -> None:
    """The first parts after a token; the second and fourth are the same throughout; the third is the row's."""
    batch, blocks, tokens = by_hand([2, 8, 9], [7, 3, 4], [2, 3, 4], [7, 3, 4], [2, 8, 6])
    live = live_branches(batch, blocks, tokens, torch.ones_like(tokens, dtype=torch.bool))
    assert live.tokens.tolist() == [[7, 3, 4, 8, 6, 8, 9]]
    assert live.anchors.tolist() == [[2, 2, 2, 3, 3, 3, 3]]
    assert live.steps.tolist() == [[0, 1, 2, 0, 1, 0, 1]]
    assert live.shared.tolist() == [[1, 0, 3, 0, 1]]
    assert live.starts[0, [0, 1, 3, 4]].tolist() == [5, 0, 0, 3]


def test_rollouts_that_differ_in_a_token_that_nobody_needs_are_one() -> None:
    batch, blocks, tokens = by_hand([2, 8, 9], [2, 8, 6])
    assert live_branches(batch, blocks, tokens, torch.tensor([[[[True, True, False]]] * 2])).tokens.tolist() == [[8]]
    assert branches_of(batch, blocks, tokens, torch.tensor([[[[True, True, False]]] * 2]), reuse=False).tokens.tolist() == [[2, 8, 9, 2, 8, 6]]


def test_equal_branches_of_different_blocks_are_one() -> None:
    """From 2 after the row's token 2, and from 3 at once."""
    blocks = Blocks(torch.tensor([[2, 3]]), torch.tensor([[True, True]]), (2, 3))
    tokens = torch.tensor([[[[2, 9, 8], [9, 8, 0]]]])
    live = live_branches(batch_of([[0] * 7]), blocks, tokens, torch.tensor([[[[True, True, True], [True, True, False]]]]))
    assert (live.tokens.tolist(), live.anchors.tolist()) == ([[9, 8]], [[3, 3]])


def test_nothing_is_left_of_rollouts_that_are_the_row_s() -> None:
    batch, blocks, tokens = by_hand([2, 3, 4], [2, 3, 4])
    live: Branches = live_branches(batch, blocks, tokens, torch.ones_like(tokens, dtype=torch.bool))
    assert live.tokens.shape == (1, 0)
    assert token_places(torch.tensor([[2, 2]]), live, 7, 3).tolist() == [[[2, 3, 4], [2, 3, 4]]]


def test_numbers_of_different_keys_by_hand() -> None:
    keys, chosen = torch.tensor([[5, 3, 5, 9], [4, 4, 4, 1]]), torch.tensor([[True, True, True, False], [True, False, True, False]])
    assert dense_ranks(keys).tolist() == [[1, 0, 1, 2], [1, 1, 1, 0]]
    number, first, exists = distinct(keys, chosen)
    assert number[chosen].tolist() == [1, 0, 1, 0, 0]
    assert exists.tolist() == [[True, True], [True, False]]
    assert keys.gather(1, first)[exists].tolist() == [3, 5, 4]
    assert number.max() < 2
