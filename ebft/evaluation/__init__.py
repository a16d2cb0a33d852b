"""Held-out evaluation, the same for every method: same rows, same anchors, same draws, same frozen feature network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ebft.blocks import find_blocks, reaches
from ebft.config import EvalConfig, SamplerConfig
from ebft.evaluation.scores import cross_entropy, feature_matching
from ebft.evaluation.statistics import Ratio, concatenate
from ebft.models import FeatureNetwork, LanguageModel
from ebft.sampler import sample, uniforms
from ebft.types import Batch, Rollout

NUM_SAMPLES_SHOWN = 8


@dataclass(frozen=True)
class Sample:
    """One context with its rollouts, as token ids, for people to read."""

    context: list[int]
    reference: list[int]
    rollouts: list[list[int]]
    rewards: list[float]

    def as_row(self, decode: Callable[[list[int]], str]) -> dict[str, Any]:
        rollouts = [{"text": decode(tokens), "reward": reward} for tokens, reward in zip(self.rollouts, self.rewards, strict=True)]
        return {"context": decode(self.context), "reference": decode(self.reference), "rollouts": rollouts}


@dataclass(frozen=True)
class Evaluation:
    """Scores over documents by name, and some of the rollouts behind them."""

    scores: dict[str, Ratio]
    samples: list[Sample]

    def metrics(self) -> dict[str, float]:
        """Every score as `eval/NAME` with its standard error over documents as `eval/NAME_stderr`."""
        return _named({name: (score.value, score.stderr) for name, score in self.scores.items()})

    def change(self, base: "Evaluation") -> dict[str, float]:
        """Every score minus the base's on the same documents and draws, with the standard error of that paired difference."""
        return _named({name: score.change(base.scores[name]) for name, score in self.scores.items()})

    def state(self) -> dict[str, dict[str, Tensor]]:
        return {name: {"sums": score.sums, "counts": score.counts} for name, score in self.scores.items()}

    @classmethod
    def from_state(cls, state: dict[str, dict[str, Tensor]]) -> "Evaluation":
        return cls({name: Ratio(**score) for name, score in state.items()}, samples=[])


def _named(scores: dict[str, tuple[float, float]]) -> dict[str, float]:
    return {f"eval/{name}{suffix}": value for name, score in scores.items() for suffix, value in zip(("", "_stderr"), score, strict=True)}


class Evaluator:
    """Scores any policy on the given rows. Draws are a function of `config.seed` and the row, so that two policies can be compared in pairs.

    Horizons up to the training length are scored on rollouts of that length, which are cheap: on every row, every `config.stride` tokens.
    Longer ones are scored on rollouts to the longest horizon, on the first batches up to `config.long_documents` rows, every
    `config.long_stride` tokens.
    """

    def __init__(
        self,
        config: EvalConfig,
        sampler: SamplerConfig,
        batches: Sequence[Batch],
        long_batches: Sequence[Batch],
        phi: FeatureNetwork,
        stop_token: int | None,
    ) -> None:
        self.config, self.sampler, self.batches, self.phi, self.stop_token = config, sampler, batches, phi, stop_token
        longest = batches[0].tokens.shape[1] - config.context_length
        self.horizons = sorted({horizon for horizon in (*config.horizons, sampler.generate_length) if horizon <= longest})
        self.short, self.long = [], []
        for horizon in self.horizons:
            (self.short if horizon <= sampler.generate_length else self.long).append(horizon)
        self.long_batches = long_batches if self.long else []

    @property
    def num_ticks(self) -> int:
        return len(self.batches) + len(self.long_batches)

    def __call__(self, policy: LanguageModel, tick: Callable[[], None]) -> Evaluation:
        """Evaluate; `tick` is called after every batch and may raise to stop."""
        parts, long_parts, samples = [], [], []
        with policy.evaluating():
            for batch in self.batches:
                scores, shown = self._score(policy, batch)
                parts.append(scores)
                samples += shown
                tick()
            for batch in self.long_batches:
                long_parts.append(self._score_long(policy, batch))
                tick()
        return Evaluation(concatenate(parts) | concatenate(long_parts), samples[:NUM_SAMPLES_SHOWN])

    def _score(self, policy: LanguageModel, batch: Batch) -> tuple[dict[str, Ratio], list[Sample]]:
        trained, on_device = self.sampler.generate_length, batch.to(policy.device)
        rollout, hidden = self._roll_out(policy, batch, self.config.stride, self.short)
        matching, rewards = feature_matching(self.phi, on_device, rollout, self.sampler.anchors, self.short, trained)
        assert rewards is not None
        shown = [_show(on_device, rollout, rewards.tolist(), row, self.sampler) for row in range(min(len(batch), 2))]
        scores = {"cross_entropy": cross_entropy(policy, on_device, hidden)} | matching
        return scores, [sample for sample in shown if sample is not None]

    def _score_long(self, policy: LanguageModel, batch: Batch) -> dict[str, Ratio]:
        rollout, _ = self._roll_out(policy, batch, self.config.long_stride, self.long)
        scores, _ = feature_matching(self.phi, batch.to(policy.device), rollout, self.sampler.anchors, self.long, self.sampler.generate_length)
        return scores

    def _roll_out(self, policy: LanguageModel, batch: Batch, stride: int, horizons: list[int]) -> tuple[Rollout, Float[Tensor, "B T H"]]:
        """Rollouts to the last of `horizons`, wherever a real continuation reaches the first of them, and the rows' hidden states."""
        config, device = self.config, policy.device
        blocks = find_blocks(batch, self.sampler.anchors, config.context_length, stride, horizons[0])
        draws = uniforms(f"{config.seed}/eval/{horizons[-1]}", batch.row_ids, blocks.anchors.shape[1], config.n_samples, horizons[-1])
        return sample(policy, batch.to(device), blocks.to(device), draws.to(device), 1.0, self.stop_token)


def _show(batch: Batch, rollout: Rollout, rewards: list[list[list[float]]], row: int, sampler: SamplerConfig) -> Sample | None:
    """The middle one of a row's blocks that have a whole reference."""
    length = sampler.generate_length
    whole = rollout.blocks.valid & reaches(batch, rollout.blocks.anchors, sampler.anchors, length)
    existing = whole[row].nonzero().flatten().tolist()
    if not existing:
        return None
    block = existing[len(existing) // 2]
    anchor, tokens = int(rollout.blocks.anchors[row, block]), batch.tokens[row].tolist()
    return Sample(
        context=tokens[:anchor],
        reference=tokens[anchor : anchor + length],
        rollouts=[sampled[block][:length] for sampled in rollout.tokens[row].tolist()],
        rewards=[sampled[block] for sampled in rewards[row]],
    )
