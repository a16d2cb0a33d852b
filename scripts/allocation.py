"""How clear EBFT's gradient is for the tokens and seconds it takes: noise over signal of one step, by where rollouts
start, how many there are, how long, how hot, and by whitening and baseline; beside supervised fine-tuning.

    python scripts/allocation.py data=translation sampler.stride=1,2,8 sampler.n_samples=4,8
    python scripts/allocation.py --batches 8 --redraws 2 model=smollm2 data=mbpp data.path=mbpp.jsonl.gz
    python scripts/allocation.py --thinned 0.5 data=translation sampler.stride=1

Values with commas make a grid. For B batches of the training data the gradient of the policy-gradient loss at the model
before training is taken R times with fresh rollouts, g_br. With gbar_b the mean over r:

    signal   |E g|^2      = (|sum_b gbar_b|^2 - sum_b |gbar_b|^2) / (B (B - 1))       unbiased: batches are independent
    noise    tr Cov(g)    = mean |g_br|^2 - signal                                     of one step's gradient
    sampling tr Cov(g|b)  = mean over b of sum_r |g_br - gbar_b|^2 / (R - 1)       what rollouts bring, given the batch

`noise / signal` does not depend on the reward's scale, so that all methods can be compared: it is the number of batches
whose mean gradient has as much signal as noise. Times a step's tokens (a backward counts as two forwards) or its CPU
seconds it is what a clear gradient costs. Every setting sees the same batches. Where the signal is not two of its
standard errors (jackknife over batches) above 0, no ratio is given.

`--thinned Q` keeps that share of the anchors and weighs what is kept by one over its chance to be kept (Horvitz and
Thompson 1952), which leaves the expected gradient as it is: every 1/Q-th, any, by the entropy of the anchor's next
token, and by the chance that a rollout leaves its row. Gradients of more than 4 million parameters are folded with
random signs (Charikar, Chen and Farach-Colton 2002), which keeps inner products in expectation.
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ebft.cli.compose import compose
from ebft.config.schema import TrainConfig
from ebft.data import order
from ebft.methods import differentiate
from ebft.methods.base import Counts
from ebft.methods.ebft import EBFT, EBFTExperience
from ebft.models.policy import LanguageModel
from ebft.objective.advantages import leave_row_out
from ebft.train.setup import Setup, prepare
from ebft.types import Batch, Blocks

MAX_WIDTH = 2**22  # of a gradient that is kept as it is
LEAST_SCORE = 0.02  # of the mean score, added to every anchor's, so that none has no chance to be kept
HEADER = (
    "setting", "signal", "its error", "noise", "sampling share", "tokens", "CPU s", "noise / signal", "x tokens",
    "x CPU s",
)  # fmt: skip


@dataclass
class Measured:
    """Gradients of one setting [B R P], and what a step took on average."""

    gradients: Float[Tensor, "B R P"]
    tokens: float
    cpu_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE[,VALUE]", help="of ebft-train")
    parser.add_argument("--batches", type=int, default=24, metavar="B", help="at least 3")
    parser.add_argument("--redraws", type=int, default=3, metavar="R", help="at least 2")
    parser.add_argument("--thinned", type=float, metavar="Q", help="keep this share of the anchors, between 0 and 1")
    parser.add_argument("--no-sft", action="store_true", help="without the row of supervised fine-tuning")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well, after every row")
    arguments = parser.parse_args()
    if arguments.batches < 3 or arguments.redraws < 2:
        parser.error("--batches must be at least 3 and --redraws at least 2: a spread needs more than one value.")
    if arguments.thinned is not None and not 0 < arguments.thinned < 1:
        parser.error("--thinned must lie between 0 and 1.")
    fixed, points = grid(arguments.overrides)
    rows: list[dict[str, object]] = []
    print("| " + " | ".join(HEADER) + " |\n" + "| --- " * len(HEADER) + "|", flush=True)

    def keep(name: str, measured: Measured) -> None:
        row = figures(measured)
        rows.append({"setting": name, **row})
        print(line(name, row), flush=True)
        if arguments.json is not None:
            about = {"overrides": fixed, "batches": arguments.batches, "redraws": arguments.redraws}
            arguments.json.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")

    if not arguments.no_sft:
        keep(
            "supervised fine-tuning",
            measure(
                compose([*(each for each in fixed if not each.startswith("method.")), "method=sft"]),
                arguments.batches,
                1,
            ),
        )
    for point in points:
        config = compose(["method=ebft", "method.ce_coef=0", *fixed, *point])
        name = " ".join(point) or "ebft"
        if arguments.thinned is None:
            keep(name, measure(config, arguments.batches, arguments.redraws))
        else:
            for scheme in SCHEMES:
                way = scheme, arguments.thinned
                keep(f"{name} {scheme}", measure(config, arguments.batches, arguments.redraws, way))


def grid(overrides: list[str]) -> tuple[list[str], Iterator[tuple[str, ...]]]:
    """Overrides of one value, and every combination of the others' values."""
    parts = [(override, *override.partition("=")[::2]) for override in overrides]
    several = [(key, value.split(",")) for _, key, value in parts if "," in value and "[" not in value]
    keys = {key for key, _ in several}
    fixed = [override for override, key, _ in parts if key not in keys]
    return fixed, itertools.product(*([f"{key}={value}" for value in values] for key, values in several))


def measure(config: TrainConfig, batches: int, redraws: int, thinned: tuple[str, float] | None = None) -> Measured:
    """The whole gradient of every batch as one step takes it, all rows in one micro-batch."""
    setup = prepare(config)
    method = setup.method if thinned is None else Thinned(setup, config, *thinned)
    fold = Fold(setup.policy)
    gradients, seconds, tokens = [], 0.0, 0.0
    for step in range(batches):
        batch = setup.batch(order(len(setup.usable), config.seed, step, config.trainer.batch_size))
        drawn = []
        for draw in range(step * redraws, (step + 1) * redraws):
            start, before = time.process_time(), method.tokens_forwarded
            experience = method.prepare(batch, draw, is_only_microbatch=True)
            setup.policy.model.zero_grad()
            differentiate(method, experience, method.counts(experience), max_tokens=None)
            seconds, tokens = seconds + time.process_time() - start, tokens + method.tokens_forwarded - before
            drawn.append(fold())
        gradients.append(torch.stack(drawn))
    steps = batches * redraws
    return Measured(torch.stack(gradients), tokens / steps, seconds / steps)


class Fold:
    """Gradients as vectors of at most MAX_WIDTH numbers, whose inner products are those of the gradients in
    expectation."""

    def __init__(self, policy: LanguageModel) -> None:
        self.parameters = [parameter for parameter in policy.model.parameters() if parameter.requires_grad]
        self.size = sum(parameter.numel() for parameter in self.parameters)

    def __call__(self) -> Float[Tensor, "P"]:
        if self.size <= MAX_WIDTH:
            return torch.cat([gradient_of(parameter).flatten() for parameter in self.parameters])
        folded, draw = torch.zeros(MAX_WIDTH), torch.Generator().manual_seed(0)  # the same signs every time
        for parameter in self.parameters:
            for part in gradient_of(parameter).flatten().split(MAX_WIDTH):
                signs = torch.randint(0, 2, part.shape, generator=draw, dtype=torch.int8).mul_(2).sub_(1)
                start = int(torch.randint(0, MAX_WIDTH - len(part) + 1, (), generator=draw))
                folded[start : start + len(part)] += part.float().cpu() * signs
        return folded


def gradient_of(parameter: torch.nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


# Thinned anchors

SCHEMES = ("regular", "uniform", "entropy", "leaving")


class Thinned(EBFT):
    """EBFT at a share of its anchors, whose advantages are divided by their chance to be kept."""

    def __init__(self, setup: Setup, config: TrainConfig, scheme: str, share: float) -> None:
        method = setup.method
        assert isinstance(method, EBFT)
        super().__init__(method.config, config.sampler, setup.policy, method.phi, config.seed, method.stop_tokens)
        self.scheme, self.share = scheme, share

    def prepare(self, batch: Batch, step: int, is_only_microbatch: bool) -> EBFTExperience:
        every = super()._blocks(batch)
        chance = self._chance(batch, every)
        draw = torch.Generator().manual_seed(step)
        if self.scheme == "regular":
            apart = round(1 / self.share)
            first = torch.randint(0, apart, (len(batch), 1), generator=draw)
            kept = every.valid & ((torch.arange(every.valid.shape[1]) - first) % apart == 0)
        else:
            kept = every.valid & (torch.rand(chance.shape, generator=draw) < chance)
        front = kept.int().argsort(dim=1, descending=True, stable=True)[:, : max(1, int(kept.sum(1).max()))]
        valid = kept.gather(1, front)
        anchors = torch.where(valid, every.anchors.gather(1, front), 1)
        self.blocks = Blocks(anchors, valid, tuple(anchors.amax(0).tolist()))
        weight = torch.where(valid, 1 / chance.gather(1, front).clamp_min(1e-12), 0)[:, None]
        experience = super().prepare(batch, step, is_only_microbatch)
        if experience.row_sums is not None:
            baselines = leave_row_out(experience.row_sums, *experience.row_sums.sum(1))[:, None, None]
            experience = replace(experience, advantages=experience.advantages - baselines.float(), row_sums=None)
        return replace(experience, advantages=experience.advantages * weight)

    def counts(self, prepared: EBFTExperience) -> Counts:
        """The mean is over all anchors there are: a share of them was drawn."""
        counts = super().counts(prepared)
        every = super()._blocks(prepared.batch).valid.sum() * self.sampler.n_samples * self.sampler.generate_length
        return {**counts, "generated": every}

    def _blocks(self, batch: Batch) -> Blocks:
        return self.blocks

    def _chance(self, batch: Batch, blocks: Blocks) -> Float[Tensor, "B K"]:
        """Of every anchor to be kept, from its row's own forward: nothing that its rollouts drew. That forward is one
        that the step has anyway, and is not counted."""
        if self.scheme == "regular":
            return blocks.valid / round(1 / self.share)
        if self.scheme == "uniform":
            return inclusion(torch.ones(blocks.valid.shape), blocks.valid, self.share)
        forwarded = self.policy.decoder.tokens_forwarded
        with torch.inference_mode():
            row = self.policy.kept_forward(batch)
            assert row is not None
            log_probs = self.policy.logits(row.hidden).log_softmax(-1)
        self.policy.decoder.tokens_forwarded = forwarded
        before = blocks.anchors - 1
        if self.scheme == "entropy":
            return inclusion((-log_probs.exp() * log_probs).sum(-1).gather(1, before), blocks.valid, self.share)
        steps = torch.arange(self.sampler.generate_length)
        places = (before[..., None] + steps).clamp_max(batch.tokens.shape[1] - 1).flatten(1)
        following = log_probs.gather(2, batch.tokens.roll(-1, 1)[..., None]).squeeze(-1).gather(1, places)
        return inclusion(1 - following.unflatten(1, (-1, len(steps))).sum(-1).exp(), blocks.valid, self.share)


def inclusion(scores: Float[Tensor, "B K"], exists: Bool[Tensor, "B K"], share: float) -> Float[Tensor, "B K"]:
    """Chances to be kept, at most 1 and in proportion to the scores, that add up to the share of the anchors."""
    scores = (scores + LEAST_SCORE * scores[exists].mean()) * exists
    wanted, chance = share * float(exists.sum()), torch.zeros_like(scores)
    certain = torch.zeros_like(exists)
    while True:  # whoever would be above 1 is kept for sure, and the others share what is left
        left = scores * ~certain
        chance = torch.where(certain, 1.0, left * ((wanted - float(certain.sum())) / float(left.sum())))
        if not (above := (chance > 1) & ~certain).any():
            return chance
        certain |= above


# Figures


def figures(measured: Measured) -> dict[str, float]:
    """What one line of the table says, from gradients [B R P] through their inner products alone."""
    batches, redraws = measured.gradients.shape[:2]
    flat = measured.gradients.flatten(0, 1)
    products = (flat @ flat.T).double().view(batches, redraws, batches, redraws)
    inner, squares = products.mean((1, 3)), products.diagonal(dim1=0, dim2=2).diagonal(dim1=0, dim2=1)  # [B B], [B R]

    def signal_of(kept: list[int]) -> float:
        part = inner[kept][:, kept]
        return float((part.sum() - part.trace()) / (len(kept) * (len(kept) - 1)))

    everything = list(range(batches))
    signal = signal_of(everything)
    without = [signal_of([other for other in everything if other != left]) for left in everything]
    centre = sum(without) / batches
    error = math.sqrt((batches - 1) / batches * sum((value - centre) ** 2 for value in without))
    noise = float(squares.mean()) - signal
    spread = squares.sum(1) - redraws * inner.diagonal()
    sampling = float(spread.mean()) / (redraws - 1) if redraws > 1 else 0.0
    return {
        "signal": signal,
        "signal_error": error,
        "noise": noise,
        "sampling_share": sampling / noise,
        "tokens": measured.tokens,
        "cpu_seconds": measured.cpu_seconds,
        "noise_over_signal": noise / signal,
    }


def line(name: str, row: dict[str, float]) -> str:
    ratio = row["noise_over_signal"]
    ratios = (f"{ratio:.1f}", f"{ratio * row['tokens']:,.0f}", f"{ratio * row['cpu_seconds']:.2f}")
    if row["signal"] < 2 * row["signal_error"]:
        ratios = ("unclear", "unclear", "unclear")
    cells = (name, f"{row['signal']:.3g}", f"{row['signal_error']:.2g}", f"{row['noise']:.3g}",
             f"{row['sampling_share']:.2f}", f"{row['tokens']:,.0f}", f"{row['cpu_seconds']:.2f}", *ratios)  # fmt: skip
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
