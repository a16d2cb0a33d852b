"""How noisy EBFT's policy gradient is under each whitening and baseline, at the model before training.

    python scripts/gradient_variance.py data=translation
    python scripts/gradient_variance.py --batches 16 --redraws 4 data=code_qa sampler.n_samples=4

For B batches of the training data the gradient of the policy-gradient loss is taken R times with fresh rollouts, g_br.
With gbar_b the mean over r:

    signal   |E g|^2      = (|sum_b gbar_b|^2 - sum_b |gbar_b|^2) / (B (B - 1))       unbiased: batches are independent
    noise    tr Cov(g)    = mean |g_br|^2 - signal                                     of one step's gradient
    sampling tr Cov(g|b)  = mean over b of sum_r |g_br - gbar_b|^2 / (R - 1)       what rollouts bring, given the batch

`noise / signal` does not depend on the reward's scale, so whitenings can be compared; it is the number of batches whose
mean gradient has as much signal as noise. Every row sees the same batches and the same uniform draws. Where the signal
is not two of its standard errors (jackknife over batches) above 0, no ratio is given.
"""

import argparse
import itertools
import json
import math
from pathlib import Path

import torch

from ebft.cli.compose import compose
from ebft.config.methods import EBFTConfig
from ebft.config.schema import TrainConfig
from ebft.data import order
from ebft.methods import differentiate
from ebft.train.setup import Setup, prepare
from ebft.types import Batch

WHITENINGS = ("none", "paper", "reference_code")
ADVANTAGES = ("none", "rloo", "group_norm")
HEADER = ("whitening", "advantage", "signal", "its error", "noise", "sampling share", "noise / signal")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of ebft-train")
    parser.add_argument("--batches", type=int, default=24, metavar="B", help="at least 3")
    parser.add_argument("--redraws", type=int, default=4, metavar="R", help="at least 2")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    arguments = parser.parse_args()
    if arguments.batches < 3 or arguments.redraws < 2:
        parser.error("--batches must be at least 3 and --redraws at least 2: a spread needs more than one value.")
    rows = []
    print("| " + " | ".join(HEADER) + " |\n" + "| --- " * len(HEADER) + "|", flush=True)
    for whitening, advantage in itertools.product(WHITENINGS, ADVANTAGES):
        choice = ["method=ebft", "method.ce_coef=0", f"features.whitening={whitening}", f"method.advantage={advantage}"]
        config = compose([*arguments.overrides, *choice])
        row = statistics(gradients(config, arguments.batches, arguments.redraws))
        rows.append({"whitening": whitening, "advantage": advantage, **row})
        unclear = row["signal"] < 2 * row["signal_error"]
        print(
            f"| {whitening} | {advantage} | {row['signal']:.3g} | {row['signal_error']:.2g} | {row['noise']:.3g} | "
            f"{row['sampling_share']:.2f} "
            f"| {'unclear' if unclear else format(row['noise_over_signal'], '.1f')} |",
            flush=True,
        )
    if arguments.json is not None:
        arguments.json.write_text(
            json.dumps(
                {
                    "overrides": arguments.overrides,
                    "batches": arguments.batches,
                    "redraws": arguments.redraws,
                    "rows": rows,
                },
                indent=2,
            )
            + "\n"
        )


def gradients(config: TrainConfig, batches: int, redraws: int) -> torch.Tensor:
    """Gradients as [batches, redraws, parameters] in fp32."""
    assert isinstance(config.method, EBFTConfig)
    setup = prepare(config)
    rows = [
        setup.batch(order(len(setup.usable), config.seed, step, config.trainer.batch_size)) for step in range(batches)
    ]
    return torch.stack(
        [
            torch.stack([gradient(setup, batch, step * redraws + draw) for draw in range(redraws)])
            for step, batch in enumerate(rows)
        ]
    )


def gradient(setup: Setup, batch: Batch, step: int) -> torch.Tensor:
    """Of the whole batch, with rollouts that belong to `step`."""
    method, parameters = (
        setup.method,
        [parameter for parameter in setup.policy.model.parameters() if parameter.requires_grad],
    )
    prepared = method.prepare(batch, step, is_only_microbatch=False)
    setup.policy.model.zero_grad()
    differentiate(method, prepared, method.counts(prepared), max_tokens=None)
    return torch.cat([parameter.grad.flatten() for parameter in parameters])


def statistics(gradients: torch.Tensor) -> dict[str, float]:
    """The quantities of this module's docstring from gradients [B, R, parameters]."""
    num_batches, num_redraws = gradients.shape[:2]
    means = gradients.mean(1)
    inner = (means @ means.T).double()  # between batches

    def signal_of(kept: list[int]) -> float:
        part = inner[kept][:, kept]
        return float((part.sum() - part.trace()) / (len(kept) * (len(kept) - 1)))

    everything = list(range(num_batches))
    signal = signal_of(everything)
    without = [signal_of([other for other in everything if other != left]) for left in everything]
    centre = sum(without) / num_batches
    error = math.sqrt((num_batches - 1) / num_batches * sum((value - centre) ** 2 for value in without))
    noise = float(gradients.double().square().sum(-1).mean()) - signal
    sampling = float((gradients - means[:, None]).double().square().sum(-1).sum(1).mean() / (num_redraws - 1))
    return {
        "signal": signal,
        "signal_error": error,
        "noise": noise,
        "sampling_share": sampling / noise,
        "noise_over_signal": noise / signal,
    }


if __name__ == "__main__":
    main()
