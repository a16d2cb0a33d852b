"""Scores of a batch of held-out rows: cross-entropy, and feature matching at every horizon (method.md section 8)."""

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor

from ebft.evaluation.ratios import Ratio
from ebft.geometry.blocks import reaches
from ebft.models.logprobs import row_labels
from ebft.models.own_features import Phi
from ebft.models.policy import LanguageModel
from ebft.objective.rewards import alignment_and_diversity, feature_matching_loss
from ebft.types import Batch, Embeddings, Rollout

AUTHORS_WHITENING = (
    "reference_code"  # of `whitened_feature_reward`, which is the figure that the authors' script reports
)


def cross_entropy(policy: LanguageModel, batch: Batch, hidden: Float[Tensor, "B T H"]) -> Ratio:
    """Nats per token over the tokens that count, at temperature 1, from the rows' last hidden states."""
    labels = row_labels(batch)
    (log_probs,) = policy.log_probs(hidden, labels)
    return Ratio((-log_probs * labels.wanted).sum(1).double().cpu(), labels.wanted.sum(1).double().cpu())


def feature_matching(
    phi: Phi,
    batch: Batch,
    rollout: Rollout,
    anchors: str,
    horizons: Sequence[int],
    reward_horizon: int,
    reuse: bool,
) -> tuple[dict[str, Ratio], Float[Tensor, "B N K"] | None]:
    """Unbiased L_CFM of raw features at every horizon, from one set of rollouts; and the rewards at `reward_horizon`,
    if it is one of them.

    A block counts at a horizon that its real continuation reaches (`blocks.reaches`). Rewards have coefficients 1 and
    the run's whitening: `reward` is the mean of eq. 7, `whitened_feature_reward` the mean of alignment - diversity / 2
    under the authors' whitening.
    """
    scores: dict[str, Ratio] = {}
    reward = None
    for horizon, embeddings in zip(horizons, phi.by_horizon(batch, rollout, horizons, reuse), strict=True):
        reached = rollout.blocks.valid & reaches(batch, rollout.blocks.anchors, anchors, horizon)
        scores[f"feature_matching_loss@{horizon}"] = _per_row(feature_matching_loss(embeddings), reached)
        if horizon == reward_horizon:
            alignment, diversity = alignment_and_diversity(embeddings, phi.features.whitening)
            reward = alignment - diversity
            scores["reward"] = _per_row(reward.mean(1), reached)
            scores["whitened_feature_reward"] = _per_row(_authors_reward(embeddings), reached)
    return scores, reward


def _authors_reward(embeddings: Embeddings) -> Float[Tensor, "B K"]:
    alignment, diversity = alignment_and_diversity(embeddings, AUTHORS_WHITENING)
    return (alignment - diversity / 2).mean(1)


def _per_row(values: Float[Tensor, "B K"], counted: Bool[Tensor, "B K"]) -> Ratio:
    return Ratio((values * counted).sum(1).double().cpu(), counted.sum(1).double().cpu())
