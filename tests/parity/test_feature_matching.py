"""The feature-matching loss over every rollout there is, against L_CFM itself (method.md sections 1 and 8)."""

import pytest
import torch

from ebft.objective.rewards import feature_matching_loss
from ebft.types import Embeddings
from tests.reference import CONTINUATIONS, VOCABULARY, all_tuples, continuation_log_probs

D = 5


@pytest.mark.parametrize("n_samples", [2, 3])
def test_feature_matching_loss_is_unbiased_and_the_distance_of_the_mean_is_not(n_samples: int) -> None:
    """E |mean_j f_j - g|^2 = L_CFM + trace Cov(f) / N: with few samples most of that number can be noise of the
    policy's own."""
    draw = torch.Generator().manual_seed(13)
    features = torch.randn(len(CONTINUATIONS), D, generator=draw, dtype=torch.float64)
    reference = torch.randn(D, generator=draw, dtype=torch.float64)
    table = torch.randn(1 + VOCABULARY, VOCABULARY, generator=draw, dtype=torch.float64)
    probability = continuation_log_probs(table).sum(-1).exp()
    mean = probability @ features
    exact = (mean - reference).square().sum()
    variance = probability @ features.square().sum(-1) - mean @ mean

    draws = all_tuples(n_samples)
    weight = probability[draws].prod(-1)
    rollout = features[draws][:, :, None]
    estimate = feature_matching_loss(Embeddings(rollout, reference.expand(len(draws), 1, D)))
    naive = (rollout.mean(1) - reference).square().sum(-1)

    assert weight.sum().item() == pytest.approx(1, abs=1e-12)
    assert (weight @ estimate[:, 0]).item() == pytest.approx(exact.item(), abs=1e-10)
    assert (weight @ naive[:, 0]).item() == pytest.approx((exact + variance / n_samples).item(), abs=1e-10)
    assert variance > 0.5
