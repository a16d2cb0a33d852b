"""Branches without what the row or another branch has, against every rollout's own history (method.md section 9, items
4 and 5)."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ebft.geometry import reuse
from ebft.geometry.blocks import Branches, OwnTokens, block_branches, from_branches, predictors, token_places
from ebft.geometry.reuse import _starts, branches_of, dense_ranks, distinct, leading_matches, live_branches
from ebft.types import Batch, Blocks, Rollout
from tests.helpers import existing, partly_the_row
from tests.reference import batch_of, dense_mask, flat_positions, flat_tokens, leading_matches_loop

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
    """Rows of three different tokens, K = 5 blocks at any real place, some of which do not exist, rollouts that are
    often the row or twins."""
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


@pytest.mark.slow
@generated
@given(case=rollouts())
def test_leading_matches_equal_the_comparison_token_by_token(case: tuple[list[list[int]], int, int, int]) -> None:
    batch, rollout = made_of(case)
    assert leading_matches(batch, rollout.blocks, rollout.tokens).tolist() == leading_matches_loop(
        batch, rollout.blocks, rollout.tokens
    )


@pytest.mark.slow
@generated
@given(case=rollouts())
def test_every_needed_token_stands_behind_its_own_history_and_no_branch_is_there_twice(
    case: tuple[list[list[int]], int, int, int],
) -> None:
    """Where a valid token stands, and where it is predicted, the flat row shows the context and the rollout's tokens
    before, and nothing else."""
    batch, rollout = made_of(case)
    branches, T, (_, N, _, G) = live_branches(batch, rollout), batch.tokens.shape[1], rollout.tokens.shape
    assert branches.tokens.shape[1] == different_tokens(batch, rollout)
    anchors = block_branches(rollout.blocks.anchors, N)
    places, before = (from_branches(find(anchors, branches, T, G), N) for find in (token_places, predictors))
    flat, positions, mask = flat_tokens(batch, branches), flat_positions(batch, branches), dense_mask(batch, branches)
    for b, n, k, g in rollout.valid.nonzero().tolist():
        a = int(rollout.blocks.anchors[b, k])
        document = [j for j in range(a) if batch.document_ids[b, j] == batch.document_ids[b, a - 1]]
        for place, last in ((int(places[b, n, k, g]), g), (int(before[b, n, k, g]), g - 1)):
            assert positions[b, place] == a + last
            assert (
                flat[b][mask[b, place]].tolist()
                == batch.tokens[b, document].tolist() + rollout.tokens[b, n, k, : last + 1].tolist()
            )
    assert places.max() < max(flat.shape[1], 1)


@pytest.mark.slow
@generated
@given(case=rollouts())
def test_bounds_hold_for_every_row_and_branches_come_in_order_of_their_anchors(
    case: tuple[list[list[int]], int, int, int],
) -> None:
    batch, rollout = made_of(case)
    branches = live_branches(batch, rollout)
    assert branches.reach == tuple(branches.anchors.amax(0).tolist())
    assert branches.depth == tuple(branches.steps.amax(0).tolist())
    filler = torch.zeros_like(branches.tokens, dtype=torch.bool)
    filler[:, 1:] = branches.anchors[:, 1:] < branches.anchors[:, :-1]
    assert (filler.int().cumsum(1) <= 1).all()  # anchors fall at most once: where a row is filled up
    assert (branches.steps * filler == 0).all()


@pytest.mark.slow
@generated
@given(case=rollouts(), group_tokens=st.integers(1, 7))
def test_groups_hold_whole_branches_and_together_all_of_them(
    case: tuple[list[list[int]], int, int, int], group_tokens: int
) -> None:
    batch, rollout = made_of(case)
    whole, grouped = live_branches(batch, rollout), live_branches(batch, rollout, group_tokens)
    assert grouped.group == max(group_tokens, rollout.tokens.shape[3])

    def as_branches(tokens: OwnTokens, row: int) -> list[list[tuple[int, int]]]:
        """Of a row, its branches as (anchor, token) pairs, without what rows are filled up with: single tokens 0 behind
        anchor 1."""
        found: list[list[tuple[int, int]]] = []
        for anchor, step, token in zip(
            tokens.anchors[row].tolist(), tokens.steps[row].tolist(), tokens.tokens[row].tolist(), strict=True
        ):
            assert step == (len(found[-1]) if step else 0)
            found = [*found, []] if step == 0 else found
            found[-1].append((anchor, token))
        return [branch for branch in found if branch != [(1, 0)]]

    for row in range(len(batch)):
        assert [branch for _, group in grouped.groups() for branch in as_branches(group, row)] == as_branches(
            whole, row
        )
    (_, n_samples, _, num_steps), row_length = rollout.tokens.shape, batch.tokens.shape[1]
    places = from_branches(
        token_places(block_branches(rollout.blocks.anchors, n_samples), grouped, row_length, num_steps), n_samples
    )
    for b, n, k, g in rollout.valid.nonzero().tolist():
        assert flat_tokens(batch, grouped)[b, places[b, n, k, g]] == rollout.tokens[b, n, k, g]


def test_rollouts_without_tokens_of_their_own_are_in_no_group() -> None:
    """A range with steps of 0, where a limit of tokens was what rows without blocks have."""
    blocks = Blocks(torch.tensor([[1], [1]]), torch.tensor([[False], [False]]), (1,))
    rollout = valid_rollout(blocks, torch.zeros(2, 3, 1, 0, dtype=torch.long))
    assert [*live_branches(batch_of([[0] * 7] * 2), rollout, 0).groups()] == []


def test_groups_by_hand() -> None:
    """Groups of 5 of branches that fill two of them, and of branches of which none goes with the next; a branch that
    no rollout has is empty."""
    lengths = torch.tensor([[3, 2, 2, 3, 1], [2, 2, 3, 3, 0]])
    assert _starts(lengths, 3, 5).tolist() == [[0, 3, 5, 7, 10], [0, 2, 5, 10, 13]]
    assert _starts(lengths[:1], 3, None).tolist() == [[0, 3, 5, 7, 10]]


def test_groups_by_hand_where_lengths_are_not_free_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Branches of 3, 2, 2, 3 and 1 tokens in groups of 5, of which 2 are for what reaches back: they end at 3, 5, 7, 10
    and 11 of 3 a group."""
    monkeypatch.setattr(reuse, "free_to_read", lambda _: False)
    assert _starts(torch.tensor([[3, 2, 2, 3, 1]]), 3, 5).tolist() == [[0, 5, 10, 15, 18]]


def valid_rollout(blocks: Blocks, tokens: Tensor, valid: list | None = None) -> Rollout:
    kept = torch.ones_like(tokens, dtype=torch.bool) if valid is None else torch.tensor(valid)
    return Rollout(blocks, tokens, torch.zeros(tokens.shape), kept)


def by_hand(*rollouts: list[int], valid: list[bool] | None = None) -> tuple[Batch, Rollout]:
    """A row 0 .. 6 and rollouts of one block at 2, whose real continuation is 2 3 4."""
    blocks, tokens = Blocks(torch.tensor([[2]]), torch.tensor([[True]]), (2,)), torch.tensor(rollouts)[None, :, None]
    return batch_of([[0] * 7]), valid_rollout(blocks, tokens, None if valid is None else [[[valid]] * len(rollouts)])


def test_branches_by_hand() -> None:
    """The first parts after a token; the second and fourth are the same throughout; the third is the row's."""
    live = live_branches(*by_hand([2, 8, 9], [7, 3, 4], [2, 3, 4], [7, 3, 4], [2, 8, 6]))
    assert live.tokens.tolist() == [[7, 3, 4, 8, 6, 8, 9]]
    assert live.anchors.tolist() == [[2, 2, 2, 3, 3, 3, 3]]
    assert live.steps.tolist() == [[0, 1, 2, 0, 1, 0, 1]]
    assert live.shared.tolist() == [[1, 0, 3, 0, 1]]
    assert live.starts[0, [0, 1, 3, 4]].tolist() == [5, 0, 0, 3]


def test_rollouts_that_differ_in_a_token_that_nobody_needs_are_one() -> None:
    made = by_hand([2, 8, 9], [2, 8, 6], valid=[True, True, False])
    assert live_branches(*made).tokens.tolist() == [[8]]
    assert branches_of(*made, reuse=False).tokens.tolist() == [[2, 8, 9, 2, 8, 6]]


def test_equal_branches_of_different_blocks_are_one() -> None:
    """From 2 after the row's token 2, and from 3 at once."""
    blocks = Blocks(torch.tensor([[2, 3]]), torch.tensor([[True, True]]), (2, 3))
    tokens = torch.tensor([[[[2, 9, 8], [9, 8, 0]]]])
    live = live_branches(
        batch_of([[0] * 7]), valid_rollout(blocks, tokens, [[[[True, True, True], [True, True, False]]]])
    )
    assert (live.tokens.tolist(), live.anchors.tolist()) == ([[9, 8]], [[3, 3]])


def test_nothing_is_left_of_rollouts_that_are_the_row_s() -> None:
    live: Branches = live_branches(*by_hand([2, 3, 4], [2, 3, 4]))
    assert live.tokens.shape == (1, 0)
    assert token_places(torch.tensor([[2, 2]]), live, 7, 3).tolist() == [[[2, 3, 4], [2, 3, 4]]]


def test_numbers_of_different_keys_by_hand() -> None:
    keys, chosen = (
        torch.tensor([[5, 3, 5, 9], [4, 4, 4, 1]]),
        torch.tensor([[True, True, True, False], [True, False, True, False]]),
    )
    assert dense_ranks(keys).tolist() == [[1, 0, 1, 2], [1, 1, 1, 0]]
    number, first, exists = distinct(keys, chosen, None)
    assert number[chosen].tolist() == [1, 0, 1, 0, 0]
    assert exists.tolist() == [[True, True], [True, False]]
    assert keys.gather(1, first)[exists].tolist() == [3, 5, 4]
    assert number.max() < 2
