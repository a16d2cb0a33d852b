"""Which keys of a configuration make a run what it is, and which only say how long it is or how it is computed."""

from collections.abc import Mapping
from typing import Any

LENGTH_KEYS = ("trainer.max_steps", "trainer.max_epochs")
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
    "features.placement",
    "sampler.reuse",
)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of a nested config."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return values
