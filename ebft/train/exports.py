"""A run's weights in Hugging Face format, `model/` and, of adapters, `adapter/`: the last, and the best where the run
keeps it."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from ebft.config.schema import TrainConfig
from ebft.run import checkpoint
from ebft.train.best import Best
from ebft.train.card import model_card
from ebft.train.optimization import Optimization
from ebft.train.setup import Setup


def export_last(
    config: TrainConfig,
    setup: Setup,
    optimization: Optimization,
    directory: Path,
    step: int,
    base: Mapping[str, float],
    figures: Mapping[str, float],
    prefix: str = "",
) -> None:
    """The present weights, averaged where there is an average, as `PREFIXmodel` and `PREFIXadapter`."""
    policy, world, tokenization = setup.policy, setup.world, setup.material.tokenization
    card = partial(model_card, config, step, base, figures)
    with optimization.averaged():
        if policy.adapters is None:
            checkpoint.export(
                policy.model, tokenization, directory / f"{prefix}model", card("transformers"), step, world
            )
            return
        target = directory / f"{prefix}adapter"
        checkpoint.export_adapters(policy.adapters, target, config.model.path, card("peft"), step, world)
        merged = policy.adapters.merged(world)
    if merged is not None:
        checkpoint.export(merged, tokenization, directory / f"{prefix}model", card("transformers"), step)


def export_best(
    config: TrainConfig,
    setup: Setup,
    optimization: Optimization,
    directory: Path,
    base: Mapping[str, float],
    best: Best,
) -> None:
    """The weights of the best evaluation's checkpoint as `best_model`, which take the place of the present ones."""
    assert best.step is not None
    kept = checkpoint.of_step(directory, best.step)
    assert kept is not None, f"the checkpoint of step {best.step} is gone"
    optimization.load_weights(checkpoint.load(kept)["tensors"])
    export_last(config, setup, optimization, directory, best.step, base, best.figures, "best_")
