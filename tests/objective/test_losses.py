"""Losses with explicit denominators (method.md section 7)."""

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ebft.geometry.blocks import Branches, from_branches, make_branches, predictors
from ebft.objective.losses import cross_entropy, policy_gradient
from ebft.types import Blocks
from tests.reference import batch_of, flat_tokens

B, N, K, G, T = 8, 3, 5, 2, 13


def rollout_parts() -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs, advantages and a ragged validity mask."""
    draw = torch.Generator().manual_seed(17)
    log_probs = -torch.rand(B, N, K, G, generator=draw, dtype=torch.float64)
    advantages = torch.randn(B, N, K, generator=draw, dtype=torch.float64)
    return log_probs.requires_grad_(), advantages, torch.rand(B, N, K, G, generator=draw) < 0.6


def test_policy_gradient_equals_the_loop() -> None:
    log_probs, advantages, valid = rollout_parts()
    places = [place for place in product(range(B), range(N), range(K), range(G)) if valid[place]]
    slow = -sum(advantages[b, n, k] * log_probs[b, n, k, g] for b, n, k, g in places) / len(places)
    torch.testing.assert_close(policy_gradient(log_probs, advantages, valid, valid.sum()), slow)


def test_policy_gradient_by_hand() -> None:
    """Advantages 2 and -1, log-probs -1, -3 and -5 with the last token behind EOS: -(2 * -1 + 2 * -3 - 1 * -5) / 3 =
    1."""
    log_probs = torch.tensor([[[[-1.0, -3.0]], [[-5.0, -7.0]]]])
    valid = torch.tensor([[[[True, True]], [[True, False]]]])
    assert policy_gradient(log_probs, torch.tensor([[[2.0], [-1.0]]]), valid, valid.sum()).item() == pytest.approx(1)


def test_no_gradient_flows_into_the_advantage() -> None:
    log_probs, advantages, valid = rollout_parts()
    loss = policy_gradient(log_probs, advantages.requires_grad_(), valid, valid.sum())
    assert torch.autograd.grad(loss, advantages, allow_unused=True) == (None,)


def test_cross_entropy_by_hand() -> None:
    log_probs = torch.tensor([[-1.0, -2.0, -4.0], [-8.0, -16.0, -32.0]])
    mask = torch.tensor([[True, False, True], [False, True, False]])
    assert cross_entropy(log_probs, mask, mask.sum()).item() == pytest.approx((1 + 4 + 16) / 3)


@pytest.mark.parametrize("micro_batch_size", [1, 3, 8])
def test_the_cut_into_micro_batches_changes_neither_loss_nor_gradient(micro_batch_size: int) -> None:
    """1 x 8 equals 8 x 1. A mean per micro-batch would weigh the tokens of short rows more."""
    log_probs, advantages, valid = rollout_parts()
    total = policy_gradient(log_probs, advantages, valid, valid.sum())
    whole = torch.autograd.grad(total, log_probs)[0]
    cuts = [slice(start, start + micro_batch_size) for start in range(0, B, micro_batch_size)]
    parts = [policy_gradient(log_probs[cut], advantages[cut], valid[cut], valid.sum()) for cut in cuts]
    torch.testing.assert_close(sum(parts), total)
    torch.testing.assert_close(torch.autograd.grad(sum(parts), log_probs)[0], whole)
    per_part = sum(
        policy_gradient(log_probs[cut], advantages[cut], valid[cut], valid[cut].sum()) for cut in cuts
    ) / len(cuts)
    assert micro_batch_size == B or (torch.autograd.grad(per_part, log_probs)[0] - whole).norm() > 0.1 * whole.norm()


@pytest.mark.parametrize("micro_batch_size", [1, 3, 8])
def test_the_cut_into_micro_batches_does_not_change_cross_entropy(micro_batch_size: int) -> None:
    draw = torch.Generator().manual_seed(19)
    log_probs = -torch.rand(B, T - 1, generator=draw, dtype=torch.float64)
    mask = torch.rand(B, T - 1, generator=draw) < 0.5
    cuts = [slice(start, start + micro_batch_size) for start in range(0, B, micro_batch_size)]
    parts = [cross_entropy(log_probs[cut], mask[cut], mask.sum()) for cut in cuts]
    torch.testing.assert_close(sum(parts), -log_probs[mask].mean())


@pytest.mark.parametrize("rubbish", [-torch.inf, torch.nan, 1e30])
def test_invalid_tokens_contribute_nothing(rubbish: float) -> None:
    """Tokens after EOS and in blocks that do not exist; 0 * -inf would be NaN."""
    log_probs, advantages, valid = rollout_parts()
    clean = policy_gradient(log_probs, advantages, valid, valid.sum())
    expected = torch.autograd.grad(clean, log_probs)[0]
    dirty = torch.where(valid, log_probs.detach(), rubbish).requires_grad_()
    loss = policy_gradient(dirty, advantages, valid, valid.sum())
    torch.testing.assert_close(loss, clean)
    torch.testing.assert_close(torch.autograd.grad(loss, dirty)[0], expected)


@pytest.mark.parametrize("rubbish", [-torch.inf, torch.nan, 1e30])
def test_tokens_that_do_not_count_stay_out_of_the_cross_entropy(rubbish: float) -> None:
    log_probs = torch.tensor([[-1.0, rubbish, -4.0]], requires_grad=True)
    mask = torch.tensor([[True, False, True]])
    loss = cross_entropy(log_probs, mask, mask.sum())
    assert loss.item() == pytest.approx(2.5)
    assert torch.autograd.grad(loss, log_probs)[0].tolist() == [[-0.5, 0, -0.5]]


def test_nothing_valid_is_a_zero_loss_with_a_zero_gradient() -> None:
    """Rows too short for one block: 0 over 0 was a NaN loss, or a constant without a gradient that broke backward."""
    log_probs, advantages, valid = rollout_parts()
    loss = policy_gradient(log_probs, advantages, torch.zeros_like(valid), torch.tensor(0))
    assert loss.item() == 0
    assert torch.autograd.grad(loss, log_probs)[0].eq(0).all()
    row = -torch.ones(2, T - 1, requires_grad=True)
    none = cross_entropy(row, torch.zeros(2, T - 1, dtype=torch.bool), torch.tensor(0))
    assert none.item() == 0
    assert torch.autograd.grad(none, row)[0].eq(0).all()


STEPS = 5


def tabular() -> tuple[Tensor, Tensor, Branches, Tensor, Tensor]:
    """A policy that is a table of logits, one row a token; a flat row of 13 tokens with K anchors; the rollout's tokens
    and advantages."""
    draw = torch.Generator().manual_seed(23)
    tokens = torch.randint(T, (1, N, K, STEPS), generator=draw)
    anchors = 2 + 2 * torch.arange(K)
    branches = make_branches(Blocks(anchors[None], torch.ones(1, K, dtype=torch.bool), tuple(anchors.tolist())), tokens)
    table = torch.randn(T, T, generator=draw, dtype=torch.float64).requires_grad_()
    return (
        table,
        flat_tokens(batch_of([[0] * T]), branches),
        branches,
        tokens,
        torch.randn(1, N, K, generator=draw, dtype=torch.float64),
    )


def through_the_flat_row(table: Tensor, flat: Tensor, branches: Branches, tokens: Tensor, advantages: Tensor) -> Tensor:
    """The policy gradient as the program takes it: log-probs at the predictors' places, back on named axes."""
    before = flat[0][predictors(branches.anchors[:, ::STEPS], branches, T, STEPS)[0]]
    log_probs = from_branches(table.log_softmax(-1)[before, branches.tokens[0].unflatten(0, (-1, STEPS))][None], N)
    return policy_gradient(
        log_probs, advantages, torch.ones_like(tokens, dtype=torch.bool), torch.tensor(tokens.numel())
    )


def test_each_advantage_lands_on_its_label() -> None:
    table, flat, branches, tokens, advantages = tabular()
    slow = torch.zeros((), dtype=torch.float64)
    for n, k in product(range(N), range(K)):
        previous = 1 + 2 * k  # token j of the row is j; the anchor is 2 + 2 k
        for token in tokens[0, n, k].tolist():
            slow = slow - advantages[0, n, k] * table[previous].log_softmax(-1)[token] / (N * K * STEPS)
            previous = token
    torch.testing.assert_close(through_the_flat_row(table, flat, branches, tokens, advantages), slow)


@pytest.mark.parametrize("mistake", ["log-probs by a plain shift", "advantages block by block", "both"])
def test_a_shifted_flat_row_trains_on_something_else(mistake: str) -> None:
    """The bug: log-probs read by a plain shift of a flat row laid out step by step, and advantages repeated block by
    block onto it. Nothing crashes, losses look plausible, and the gradient has nothing to do with the right one. Each
    half is enough."""
    table, flat, branches, tokens, advantages = tabular()
    right = through_the_flat_row(table, flat, branches, tokens, advantages)

    step_major = tokens[0].permute(2, 1, 0)  # [steps, K, N]
    row = torch.cat([flat[0, :T], step_major.flatten()])
    of_blocks = torch.cat([flat[0, 1 : 1 + 2 * K : 2].repeat_interleave(N), step_major[:-1].flatten()])
    previous = of_blocks if mistake == "advantages block by block" else row[T - 1 : -1]
    onto_steps = advantages[0].T.repeat(STEPS, 1).flatten()
    onto_blocks = advantages[0].T.flatten().repeat_interleave(STEPS)
    weights = onto_steps if mistake == "log-probs by a plain shift" else onto_blocks
    wrong = -(weights * table.log_softmax(-1)[previous, row[T:]]).mean()

    gradients = [torch.autograd.grad(loss, table)[0].flatten() for loss in (right, wrong)]
    assert abs(float(cosine_similarity(*gradients, dim=0))) < 0.2
    assert 0.2 < float(gradients[1].norm() / gradients[0].norm()) < 5
