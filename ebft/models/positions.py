"""How long texts may be for a model, and how long those of a run become."""

from dataclasses import dataclass

from transformers import PreTrainedConfig

from ebft.config.schema import TrainConfig, UserError


@dataclass(frozen=True)
class PositionLimit:
    """How long a text may be, and of what this is the length, for people."""

    positions: int | None
    what: str


def position_limit(architecture: PreTrainedConfig, name: str) -> PositionLimit:
    """As many positions as the model has, or as it turns alike in texts of all lengths: behind its original length,
    longrope turns the first positions otherwise as well, so that what is sampled depends on what follows it."""
    settings = architecture.to_dict()
    rope = settings.get("rope_parameters") or {}
    by_layer_type = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    original = [
        part["original_max_position_embeddings"] for part in by_layer_type if part.get("rope_type") == "longrope"
    ]
    limit = settings.get("max_position_embeddings")
    if original and (limit is None or min(original) < limit):
        return PositionLimit(min(original), f"original positions (of rope_type=longrope) of {name}")
    return PositionLimit(limit, f"positions of {name}")


def _longest_rollout(config: TrainConfig) -> int:
    """Of those that hang off rows."""
    room = config.data.sequence_length - config.eval.first_context(config.sampler.anchors)
    return max(length for length in (config.sampler.generate_length, *config.eval.horizons) if length <= room)


def check_positions(limit: PositionLimit, config: TrainConfig) -> None:
    length, longest = config.data.sequence_length, _longest_rollout(config)
    if limit.positions is not None and length > limit.positions:
        raise UserError(f"data.sequence_length={length} is over the {limit.positions} {limit.what}; shorten the rows.")
    last_anchor = length - min(config.sampler.generate_length, *config.eval.horizons)
    if limit.positions is not None and last_anchor + longest > limit.positions:
        raise UserError(
            f"Rollouts of {longest} tokens at the end of data.sequence_length={length} reach over the "
            f"{limit.positions} {limit.what}; shorten the rows or eval.horizons."
        )


def num_positions(architecture: PreTrainedConfig, config: TrainConfig) -> int:
    """As many as rows with rollouts, or prompts with completions, can reach; `verification.py` knows the prompts."""
    limit = position_limit(architecture, "").positions
    generated = max(
        _longest_rollout(config), config.eval.max_new_tokens, config.method.needs(config.sampler).rollout_tokens
    )
    reached = config.data.sequence_length + generated
    return reached if limit is None else min(reached, limit)
