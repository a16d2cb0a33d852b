"""Which keys of a configuration make a run what it is, and which only say how long it is or how it is computed."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ebft.config.doors import digests, doors
from ebft.config.schema import TrainConfig

CODE = "code"  # key of a resolved config: the user's own files by reference, with their hashes

LENGTH_KEYS = ("trainer.max_steps", "trainer.max_epochs", "trainer.stop_after")
# What may differ when a run is continued: how long it is, and what changes where and how it is computed but not what.
CHANGEABLE_KEYS = (
    *LENGTH_KEYS,
    "resume",
    "plan_only",
    "tracker",
    "trainer.micro_batch_size",
    "trainer.max_tokens_per_microbatch",
    "trainer.device",
    "trainer.gradient_checkpointing",
    "trainer.compile",
    "trainer.liger",
    "trainer.processes",
    "trainer.parallel",
    "trainer.hang_seconds",
    "trainer.checkpoint_every_steps",
    "trainer.keep_checkpoints",
    "trainer.profile",
    "eval.micro_batch_size",
    "eval.on_interrupt",
    "features.placement",
    "sampler.reuse",
    "sandbox.workers",
)


def resolved(config: TrainConfig) -> dict[str, Any]:
    """Every key with its value, and the hashes of the user's own code that they name, if any."""
    own = digests(doors(config).values())
    return asdict(config) | ({CODE: own} if own else {})


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of a nested config."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return values
