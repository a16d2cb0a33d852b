"""The expected estimator of verifiable rewards, over every completion there is, against autograd of the exact
objective.

V = 3, G = 2, token 2 ends a completion: completions of one or two tokens with a random reward each, one prompt, a
tabular softmax policy. All draws of N completions are weighted by their probability, so that no sampling noise hides a
wrong factor.
"""

import pytest
import torch
from torch import Tensor

from ebft.objective.advantages import outcome_advantages
from ebft.objective.losses import kl_penalty, policy_gradient
from tests.reference import CONTINUATIONS, VOCABULARY, all_tuples, continuation_log_probs

STOP = 2
ENDED = CONTINUATIONS[:, 0] == STOP
VALID = torch.stack(
    [torch.ones_like(ENDED), ~ENDED], dim=-1
)  # what follows the stop token is no part of the completion


@pytest.fixture
def table() -> Tensor:
    """Logits of the policy."""
    draw = torch.Generator().manual_seed(7)
    return torch.randn(1 + VOCABULARY, VOCABULARY, generator=draw, dtype=torch.float64).requires_grad_()


@pytest.fixture
def rewards() -> Tensor:
    """Of every continuation; those that differ behind the stop token only are one completion."""
    draw = torch.Generator().manual_seed(11)
    values = torch.rand(len(CONTINUATIONS), generator=draw, dtype=torch.float64)
    values[ENDED] = values[ENDED][0].clone()
    return values


def exact_gradient(table: Tensor, rewards: Tensor) -> Tensor:
    """Of the expected reward."""
    return torch.autograd.grad(continuation_log_probs(table).sum(-1).exp() @ rewards, table)[0]


def expected_gradient(
    table: Tensor, rewards: Tensor, n_samples: int, kind: str, counted: Tensor | None = None
) -> Tensor:
    """Minus that of the loss, which is to be descended, over all draws of N completions."""
    draws, log_probs = all_tuples(n_samples), continuation_log_probs(table)
    probability = log_probs.detach().sum(-1)[draws].sum(-1).exp()
    counts = torch.ones(draws.shape, dtype=torch.bool) if counted is None else counted[draws]
    advantage = outcome_advantages(rewards[draws], counts, kind) * probability[:, None]
    loss = policy_gradient(
        log_probs[draws][:, :, None], advantage[..., None], VALID[draws][:, :, None], torch.tensor(n_samples)
    )
    return -torch.autograd.grad(loss, table)[0]


@pytest.mark.parametrize("n_samples", [2, 3])
@pytest.mark.parametrize("kind", ["none", "rloo"])
def test_expected_estimator_is_the_gradient_of_the_expected_reward(
    table: Tensor, rewards: Tensor, kind: str, n_samples: int
) -> None:
    torch.testing.assert_close(
        expected_gradient(table, rewards, n_samples, kind), exact_gradient(table, rewards), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("n_samples", [2, 3])
def test_centring_by_the_whole_group_shrinks_the_gradient(table: Tensor, rewards: Tensor, n_samples: int) -> None:
    """The group's mean holds a completion's own reward: dr_grpo follows (N - 1) / N of the gradient, in the right
    direction."""
    shrunk = expected_gradient(table, rewards, n_samples, "dr_grpo")
    torch.testing.assert_close(shrunk, (n_samples - 1) / n_samples * exact_gradient(table, rewards), rtol=0, atol=1e-10)


def test_dividing_by_the_standard_deviation_turns_the_gradient(table: Tensor, rewards: Tensor) -> None:
    ours, exact = expected_gradient(table, rewards, 3, "grpo").flatten(), exact_gradient(table, rewards).flatten()
    assert 0.5 < torch.cosine_similarity(ours, exact, dim=0) < 0.9999


def kl_gradient(log_p: Tensor, log_q: Tensor, table: Tensor) -> Tensor:
    """Of KL(p | q) over one token."""
    return torch.autograd.grad((log_p.exp() * (log_p - log_q)).sum(), table)[0]


def test_k2_as_a_loss_has_the_gradient_of_the_divergence_and_k3_that_of_its_reverse(table: Tensor) -> None:
    """One token, every value weighted by its probability. k1 as a loss would have none, which is why it is taken from
    the reward."""
    log_p = table[0].log_softmax(-1)
    log_q = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()
    valid, one = torch.ones(1, 1, 1, 1, dtype=torch.bool), torch.tensor(1)
    sampled = log_p.detach().exp()

    def as_loss(estimator: str) -> Tensor:
        pairs = ((log_p[v].view(1, 1, 1, 1), log_q[v].view(1, 1, 1, 1)) for v in range(VOCABULARY))
        terms = [weight * kl_penalty(*pair, valid, one, estimator) for weight, pair in zip(sampled, pairs, strict=True)]
        return torch.autograd.grad(torch.stack(terms).sum(), table, retain_graph=True)[0]

    torch.testing.assert_close(as_loss("k2"), kl_gradient(table[0].log_softmax(-1), log_q, table), rtol=0, atol=1e-12)
    reverse = torch.autograd.grad((log_q.exp() * (log_q - table[0].log_softmax(-1))).sum(), table)[0]
    torch.testing.assert_close(as_loss("k3"), reverse, rtol=0, atol=1e-12)


def test_estimates_of_the_divergence_are_unbiased_as_values(table: Tensor) -> None:
    log_p, log_q = table[0].detach().log_softmax(-1), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()
    divergence = float((log_p.exp() * (log_p - log_q)).sum())
    k3 = torch.exp(log_q - log_p) - 1 - (log_q - log_p)
    assert float((log_p.exp() * k3).sum()) == pytest.approx(divergence, abs=1e-12)
    shaped = log_p.view(1, 1, 1, 3), log_q.view(1, 1, 1, 3)
    assert float(kl_penalty(*shaped, torch.ones(1, 1, 1, 3, dtype=torch.bool), torch.tensor(3), "k3")) == pytest.approx(
        float(k3.mean())
    )
