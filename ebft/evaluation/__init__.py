"""Held-out evaluation, the same for every method: same rows, same anchors, same draws, same frozen feature network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ebft.config.schema import EvalConfig, SamplerConfig
from ebft.data.tokenization import Tokenization
from ebft.evaluation.answers import Answer, Answers, Examiner
from ebft.evaluation.names import names_of
from ebft.evaluation.ratios import Ratio, concatenate, named
from ebft.evaluation.scores import cross_entropy, feature_matching
from ebft.geometry.blocks import find_blocks, reaches
from ebft.models.own_features import Phi
from ebft.models.policy import LanguageModel
from ebft.output.row_scores import RowScores
from ebft.parallel.world import SINGLE_PROCESS, World
from ebft.rollout.sampler import sample, uniforms
from ebft.types import Batch, Rollout

__all__ = ["Evaluation", "Evaluator", "Examiner", "Sample", "horizons"]

NUM_SAMPLES_SHOWN = 8
NUM_ANSWERS_SHOWN = 32


@dataclass(frozen=True)
class Sample:
    """One context with its rollouts, as token ids, for people to read."""

    context: list[int]
    reference: list[int]
    rollouts: list[list[int]]
    rewards: list[float]

    def as_row(self, tokenization: Tokenization) -> dict[str, Any]:
        reference, *texts = tokenization.continuations(self.context, [self.reference, *self.rollouts])
        rollouts = [{"text": text, "reward": reward} for text, reward in zip(texts, self.rewards, strict=True)]
        return {"context": tokenization.decode(self.context), "reference": reference, "rollouts": rollouts}


@dataclass(frozen=True)
class Evaluation:
    """Scores over documents by name, and some of the rollouts behind them."""

    scores: dict[str, Ratio]
    samples: list[Sample]
    figures: dict[str, float] = field(default_factory=dict)  # of a corpus as a whole
    answers: list[Answer] = field(default_factory=list)
    shares: dict[str, Ratio] = field(default_factory=dict)  # of answers in a figure of the corpus, where they are known
    draws: dict[str, list[Ratio]] = field(default_factory=dict)  # verdicts on each of several answers to a question

    def metrics(self) -> dict[str, float]:
        """Every score and figure as `eval/NAME`, with its standard error over documents, where that can be computed, as
        `eval/NAME_stderr`."""
        figures = {
            name: (value, self.shares[name].stderr if name in self.shares else None)
            for name, value in self.figures.items()
        }
        return _named({name: (score.value, score.stderr) for name, score in self.scores.items()} | figures)

    def change(self, base: "Evaluation") -> dict[str, float]:
        """Every score minus the base's on the same documents and draws, with the standard error of that paired
        difference."""
        scores = {name: score.change(base.scores[name]) for name, score in self.scores.items() if name in base.scores}
        figures: dict[str, tuple[float, float | None]] = {}
        for name in (name for name in self.figures if name in base.figures):
            known = name in self.shares and name in base.shares
            error = self.shares[name].change(base.shares[name])[1] if known else None
            figures[name] = (self.figures[name] - base.figures[name], error)
        return _named(scores | figures)

    def rows(self) -> list[RowScores]:
        """Everything by held-out row; nothing of what a checkpoint of an older version brought without names."""
        ratios: list[tuple[str, int | None, Ratio]] = [
            (name, None, ratio) for name, ratio in (self.scores | self.shares).items()
        ]
        ratios += [(name, number, ratio) for name, each in self.draws.items() for number, ratio in enumerate(each)]
        return [
            RowScores(
                f"eval/{name}",
                ratio.names.rows,
                ratio.names.documents,
                ratio.sums.tolist(),
                ratio.counts.tolist(),
                draw,
            )
            for name, draw, ratio in ratios
            if ratio.names is not None
        ]

    def state(self) -> dict[str, Any]:
        return {
            "scores": {name: score.state() for name, score in self.scores.items()},
            "figures": self.figures,
            "shares": {name: share.state() for name, share in self.shares.items()},
            "draws": {name: [ratio.state() for ratio in each] for name, each in self.draws.items()},
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Evaluation":
        """Checkpoints of older versions hold no shares and no draws."""
        return cls(
            {name: Ratio.from_state(score) for name, score in state["scores"].items()},
            samples=[],
            figures=state["figures"],
            shares={name: Ratio.from_state(share) for name, share in state.get("shares", {}).items()},
            draws={name: [Ratio.from_state(one) for one in each] for name, each in state.get("draws", {}).items()},
        )


def _named(scores: dict[str, tuple[float, float | None]]) -> dict[str, float]:
    return {
        f"eval/{name}{suffix}": value
        for name, score in scores.items()
        for suffix, value in zip(("", "_stderr"), score, strict=True)
        if value is not None
    }


def horizons(config: EvalConfig, sampler: SamplerConfig, row_length: int) -> tuple[list[int], list[int]]:
    """Lengths of rollouts that are scored, as far as rows have room for them: up to the training length, which is one
    of them, and above it."""
    longest = row_length - config.first_context(sampler.anchors)
    fitting = sorted({horizon for horizon in (*config.horizons, sampler.generate_length) if horizon <= longest})
    short = [horizon for horizon in fitting if horizon <= sampler.generate_length]
    return short, fitting[len(short) :]


class Evaluator:
    """Scores any policy on the given rows. Draws are a function of `config.seed` and the row, so that two policies can
    be compared in pairs.

    Horizons up to the training length are scored on rollouts of that length, which are cheap: on every row, every
    `config.stride` tokens. Longer ones are scored on rollouts to the longest horizon, on the first batches up to
    `config.long_documents` rows, every `config.long_stride` tokens.
    """

    def __init__(
        self,
        config: EvalConfig,
        sampler: SamplerConfig,
        batches: Sequence[Batch],
        long_batches: Sequence[Batch],
        phi: Phi,
        stop_tokens: tuple[int, ...],
        examiner: Examiner | None = None,
        world: World = SINGLE_PROCESS,
        documents: Sequence[str] | None = None,
    ) -> None:
        """`documents` are those that rows belong to, by row id; None: every row is a document of its own."""
        self.examiner, self.world, self.documents = examiner, world, documents
        self.config, self.sampler, self.batches, self.phi, self.stop_tokens = config, sampler, batches, phi, stop_tokens
        self.first_context = config.first_context(sampler.anchors)
        self.short, self.long = horizons(config, sampler, batches[0].tokens.shape[1])
        self.horizons = self.short + self.long
        self.long_batches = long_batches if self.long else []

    @property
    def num_ticks(self) -> int:
        work = [self.batches, self.long_batches, [] if self.examiner is None else self.examiner.batches]
        return sum(self.world.num_rounds(len(batches)) for batches in work)

    def __call__(self, policy: LanguageModel, tick: Callable[[], None]) -> Evaluation:
        """Evaluate; `tick` is called after every batch and may raise to stop. Processes take turns with the batches,
        and all have the result."""
        with policy.inference_mode():
            parts = self.world.map(self.batches, lambda batch: self._score(policy, batch), tick)
            long_parts = self.world.map(self.long_batches, lambda batch: self._score_long(policy, batch), tick)
            answers = Answers() if self.examiner is None else self.examiner(policy, tick, self.world)
        scores = concatenate([scores for scores, _ in parts]) | concatenate(long_parts) | answers.scores
        samples = [sample for _, shown in parts for sample in shown]
        return Evaluation(
            scores,
            samples[:NUM_SAMPLES_SHOWN],
            answers.figures,
            answers.answers[:NUM_ANSWERS_SHOWN],
            answers.shares,
            answers.draws,
        )

    def _score(self, policy: LanguageModel, batch: Batch) -> tuple[dict[str, Ratio], list[Sample]]:
        trained, on_device = self.sampler.generate_length, batch.to(policy.device)
        rollout, hidden = self._roll_out(policy, batch, self.config.stride, self.short)
        matching, rewards = feature_matching(
            self.phi, on_device, rollout, self.sampler.anchors, self.short, trained, self.sampler.reuse
        )
        assert rewards is not None
        shown = [_show(on_device, rollout, rewards.tolist(), row, self.sampler) for row in range(min(len(batch), 2))]
        scores = {"cross_entropy": cross_entropy(policy, on_device, hidden)} | matching
        return named(scores, names_of(batch, self.documents)), [sample for sample in shown if sample is not None]

    def _score_long(self, policy: LanguageModel, batch: Batch) -> dict[str, Ratio]:
        rollout, _ = self._roll_out(policy, batch, self.config.long_stride, self.long)
        trained, on_device = self.sampler.generate_length, batch.to(policy.device)
        scores, _ = feature_matching(
            self.phi, on_device, rollout, self.sampler.anchors, self.long, trained, self.sampler.reuse
        )
        return named(scores, names_of(batch, self.documents))

    def _roll_out(
        self, policy: LanguageModel, batch: Batch, stride: int, horizons: list[int]
    ) -> tuple[Rollout, Float[Tensor, "B T H"]]:
        """Rollouts to the last of `horizons`, wherever a real continuation reaches the first of them, and the rows'
        hidden states."""
        config, device = self.config, policy.device
        blocks = find_blocks(batch, self.sampler.anchors, self.first_context, stride, horizons[0])
        draws = uniforms(
            f"{config.seed}/eval/{horizons[-1]}", batch.row_ids, blocks.anchors.shape[1], config.n_samples, horizons[-1]
        )
        return sample(
            policy, batch.to(device), blocks.to(device), draws.to(device), 1.0, self.stop_tokens, self.sampler.reuse
        )


def _show(
    batch: Batch, rollout: Rollout, rewards: list[list[list[float]]], row: int, sampler: SamplerConfig
) -> Sample | None:
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
