"""The expected estimator, over every rollout there is, against autograd of the exact objective (method.md sections 1,
4, 5 and 7).

V = 3, G = 2: nine continuations with a random feature each, one context, a tabular softmax policy. All 9^N draws of N
rollouts are weighted by their probability, so that no sampling noise hides a wrong factor.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from ebft.objective.advantages import advantages, leave_row_out, row_sums
from ebft.objective.losses import policy_gradient
from ebft.objective.rewards import alignment_and_diversity
from ebft.types import Embeddings
from tests.reference import CONTINUATIONS, STEPS, VOCABULARY, all_tuples, continuation_log_probs

D = 5
Credit = Callable[[Tensor, Tensor], Tensor]
EVERY_STEP = torch.ones(len(CONTINUATIONS), STEPS, dtype=torch.bool)


@pytest.fixture
def table() -> Tensor:
    """Logits of the policy."""
    draw = torch.Generator().manual_seed(7)
    return torch.randn(1 + VOCABULARY, VOCABULARY, generator=draw, dtype=torch.float64).requires_grad_()


@pytest.fixture
def features() -> Tensor:
    """Feature of every continuation, and of the reference in the last row; none of unit length."""
    draw = torch.Generator().manual_seed(11)
    return torch.randn(len(CONTINUATIONS) + 1, D, generator=draw, dtype=torch.float64)


def exact_gradient(table: Tensor, features: Tensor, alignment_coef: float = 1.0, diversity_coef: float = 1.0) -> Tensor:
    """Of diversity_coef |E phi|^2 - 2 alignment_coef E phi . phi_y, which is L_CFM - |phi_y|^2 when both are 1."""
    mean = continuation_log_probs(table).sum(-1).exp() @ features[:-1]
    objective = diversity_coef * mean @ mean - 2 * alignment_coef * mean @ features[-1]
    return torch.autograd.grad(objective, table)[0]


def expected_gradient(
    table: Tensor, features: Tensor, n_samples: int, credit: Credit, valid: Tensor = EVERY_STEP
) -> Tensor:
    """Of `policy_gradient`, over all draws of N rollouts, times G: the loss is a mean over the tokens of a branch, the
    objective is not."""
    draws, log_probs = all_tuples(n_samples), continuation_log_probs(table)
    probability = log_probs.detach().sum(-1)[draws].sum(-1).exp()[:, None, None]
    embeddings = Embeddings(features[draws][:, :, None], features[-1].expand(len(draws), 1, D))
    weight = probability * credit(*alignment_and_diversity(embeddings, "none"))
    loss = policy_gradient(
        log_probs[draws][:, :, None], weight, valid[draws][:, :, None], torch.tensor(n_samples * STEPS)
    )
    return STEPS * torch.autograd.grad(loss, table)[0]


def our_credit(kind: str, alignment_coef: float = 1.0, diversity_coef: float = 1.0) -> Credit:
    return lambda alignment, diversity: advantages(alignment, diversity, alignment_coef, diversity_coef, kind)


def plain_leave_one_out(alignment: Tensor, diversity: Tensor) -> Tensor:
    reward = alignment - diversity
    return reward - (reward.sum(1, keepdim=True) - reward) / (reward.shape[1] - 1)


@pytest.mark.parametrize("coefs", [(1.0, 1.0), (1.0, 0.5), (0.7, 0.7), (1.0, 0.0)])
@pytest.mark.parametrize("n_samples", [2, 3])
@pytest.mark.parametrize("kind", ["none", "rloo"])
def test_expected_estimator_is_the_gradient_of_the_exact_objective(
    table: Tensor, features: Tensor, kind: str, n_samples: int, coefs: tuple[float, float]
) -> None:
    expected = expected_gradient(table, features, n_samples, our_credit(kind, *coefs))
    torch.testing.assert_close(expected, exact_gradient(table, features, *coefs), rtol=0, atol=1e-10)


def test_expected_estimator_with_the_batch_baseline_is_the_gradient_of_the_exact_objective(
    table: Tensor, features: Tensor
) -> None:
    """Two rows of one policy and different features: all 81 x 81 draws of N = 2 in both."""
    other = torch.randn(features.shape, generator=torch.Generator().manual_seed(13), dtype=torch.float64)
    draws, log_probs = all_tuples(2), continuation_log_probs(table)
    first, second = (x.flatten() for x in torch.meshgrid(*2 * [torch.arange(len(draws))], indexing="ij"))
    rows = torch.stack([draws[first], draws[second]], dim=1)  # [6561, B, N]
    probability = log_probs.detach().sum(-1)[rows].sum((1, 2)).exp()
    parts = [
        alignment_and_diversity(Embeddings(phi[rows[:, b]][:, :, None], phi[-1].expand(len(rows), 1, D)), "none")
        for b, phi in enumerate((features, other))
    ]
    reward = torch.stack([advantages(*both, 1.0, 1.0, "batch") for both in parts], dim=1)  # [6561, B, N, 1]
    scored = log_probs[rows][:, :, :, None]
    advantage, valid = reward.clone(), torch.ones_like(scored, dtype=torch.bool)
    for draw in range(len(rows)):
        sums = row_sums(reward[draw], scored[draw].detach(), valid[draw])
        advantage[draw] -= leave_row_out(sums, *sums.sum(1))[:, None, None]
    weight = (probability[:, None, None, None] * advantage).flatten(0, 1)
    loss = policy_gradient(scored.flatten(0, 1), weight, valid.flatten(0, 1), torch.tensor(2 * 2 * STEPS))
    expected = 2 * STEPS * torch.autograd.grad(loss, table)[0]
    exact = exact_gradient(table, features) + exact_gradient(table, other)
    torch.testing.assert_close(expected, exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["none", "rloo"])
def test_both_coefficients_scale_the_gradient_as_rl_coef_does(table: Tensor, features: Tensor, kind: str) -> None:
    """rl_coef * L_CFM: a common factor on both reward parts is a factor on the objective."""
    scaled = expected_gradient(table, features, 2, our_credit(kind, 3.0, 3.0))
    torch.testing.assert_close(scaled, 3.0 * exact_gradient(table, features), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["none", "rloo"])
def test_branches_that_stop_at_eos_keep_the_gradient_exact(table: Tensor, features: Tensor, kind: str) -> None:
    """Token 2 ends a branch: what follows is out of the loss, and the feature is that of the last valid token."""
    stopped = CONTINUATIONS[:, 0] == 2
    features[:-1][stopped] = features[:-1][stopped][0].clone()
    valid = torch.stack([torch.ones_like(stopped), ~stopped], dim=-1)
    expected = expected_gradient(table, features, 3, our_credit(kind), valid)
    torch.testing.assert_close(expected, exact_gradient(table, features), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("n_samples", "own_weight"), [(2, 0.0), (3, 1 / 2), (4, 2 / 3)])
def test_plain_leave_one_out_baseline_shrinks_the_diversity_weight(
    table: Tensor, features: Tensor, n_samples: int, own_weight: float
) -> None:
    """The baseline of the combined reward holds every pair with sample j, so the objective descended is one with less
    diversity."""
    biased = expected_gradient(table, features, n_samples, plain_leave_one_out)
    torch.testing.assert_close(biased, exact_gradient(table, features, 1.0, own_weight), rtol=0, atol=1e-10)
    assert (biased - exact_gradient(table, features)).norm() > 0.1


def test_diversity_without_its_factor_two_is_half_the_diversity(table: Tensor, features: Tensor) -> None:
    """The value of the objective has |E phi|^2 once, and its gradient twice: an implementation took the factor of the
    value."""
    biased = expected_gradient(table, features, 3, lambda alignment, diversity: alignment - diversity / 2)
    torch.testing.assert_close(biased, exact_gradient(table, features, 1.0, 0.5), rtol=0, atol=1e-10)
    assert (biased - exact_gradient(table, features)).norm() > 0.1


def test_cosine_alignment_is_biased_unless_features_are_unit_length(table: Tensor, features: Tensor) -> None:
    """A port took 2 cos(phi_j, phi_y) as alignment, beside diversity from raw dot products."""

    def agreement(phi: Tensor) -> float:
        cosine = 2 * cosine_similarity(phi[:-1], phi[-1:])[all_tuples(2)][:, :, None]
        biased = expected_gradient(table, phi, 2, lambda _, diversity: cosine - diversity)
        return float(cosine_similarity(biased.flatten(), exact_gradient(table, phi).flatten(), dim=0))

    uneven = features * torch.linspace(0.2, 5, len(features), dtype=torch.float64)[:, None]
    assert agreement(uneven) < 0.9
    assert agreement(normalize(uneven, dim=-1)) == pytest.approx(1, abs=1e-12)
