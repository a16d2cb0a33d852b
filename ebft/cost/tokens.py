"""What an optimiser step costs, in forwards of one token through the whole policy; a backward counts as two (method.md
section 9).

Arithmetic alone, so that a thousand runs can be planned without torch. What is counted follows from a method's needs.
"""

from ebft.config.doors import is_door
from ebft.config.schema import Needs, TrainConfig


def num_blocks(sequence_length: int, context_length: int, stride: int, generate_length: int) -> int:
    """K = (T - G - c0) // s + 1, the anchors c0 + k * s whose continuation fits; 0 if none does."""
    return max(0, (sequence_length - generate_length - context_length) // stride + 1)


def of_row(
    needs: Needs, n_samples: int, row_length: int, num_blocks: float, depth: float = 1.0, row_is_kept: bool = False
) -> dict[str, float]:
    """Tokens of a row with K contexts of N rollouts, by phase.

        sampling    T + K N (G - 1), for nothing is predicted from a last token; T less where the row's forward is kept
        features    depth (T + K N G), where phi has `depth` times the policy's layers
        update      3 (T + K N' (G - 1)), with N' <= N of the rollouts
        reference   T + K N (G - 1)

    At most: completions end earlier, and reuse leaves out tokens of rollouts.
    """
    contexts, steps = needs.num_contexts(num_blocks), max(0, needs.rollout_tokens - 1)
    once = row_length + contexts * n_samples * steps
    phases: dict[str, float] = {}
    if needs.rollouts != "none":
        phases["sampling"] = once - (row_length if row_is_kept else 0)
    if needs.feature_network:
        phases["features"] = depth * (row_length + contexts * n_samples * needs.rollout_tokens)
    phases["update"] = 3 * (row_length + contexts * needs.num_updated(n_samples) * steps)
    if needs.reference_policy:
        phases["reference"] = once
    return phases


def supervised(row_length: int) -> float:
    """Tokens of a row that is only trained on."""
    return sum(of_row(Needs(), 0, row_length, 0.0).values())


def keeps_rows(config: TrainConfig, documents: int) -> bool:
    """Whether a method that can is sure to forward its rows once for sampling and update, as it does where the
    `documents` of a step in one process are one micro-batch. Under a limit of tokens that depends on how many anchors
    rows have, except for a single row."""
    trainer = config.trainer
    unlimited = trainer.max_tokens_per_microbatch is None
    is_one = documents == 1 or (documents <= trainer.micro_batch_size and unlimited)
    return needs_of(config).keeps_rows and is_one and not trainer.gradient_checkpointing


def needs_of(config: TrainConfig) -> Needs:
    return config.method.needs(config.sampler)


def by_phase(config: TrainConfig, num_blocks: float, depth: float, rows_are_kept: bool) -> dict[str, float]:
    """Tokens of a row with so many blocks by phase; phi has `depth` times the policy's layers."""
    length, n_samples = config.data.sequence_length, config.sampler.n_samples
    return of_row(needs_of(config), n_samples, length, num_blocks, depth, rows_are_kept)


def planned(config: TrainConfig) -> dict[str, float]:
    """Tokens of a row by phase as far as the config tells, which is from above: rows that end early, rows of several
    documents and completions hold fewer anchors than a whole row, reuse leaves out tokens of rollouts, a layer that is
    named by its index may be the last, and rows under a limit of tokens may be one micro-batch. A fraction of the depth
    is taken as it is, where phi keeps whole layers."""
    sampler = config.sampler
    blocks = num_blocks(config.data.sequence_length, sampler.context_length, sampler.stride, sampler.generate_length)
    depth = max(layer if isinstance(layer, float) else 1.0 for layer in config.features.feature_layers)
    if is_door(config.features.network):
        depth = 0.0
    return by_phase(config, blocks, depth, keeps_rows(config, _documents(config)))


def _documents(config: TrainConfig) -> int:
    """Documents of a step in one of the processes that the config names."""
    return config.trainer.batch_size // (config.trainer.processes or 1)


def rollouts(config: TrainConfig, num_blocks: float) -> str:
    """What is sampled of a row with so many blocks, for people."""
    needs, n_samples = needs_of(config), config.sampler.n_samples
    if needs.rollouts == "blocks":
        return f"{n_samples} of {needs.rollout_tokens} tokens at each of {num_blocks:.1f} anchors a row"
    if needs.rollouts == "completions":
        return f"{n_samples} completions a prompt, of at most {needs.rollout_tokens} tokens"
    return "none"


def depends_on_rollouts(config: TrainConfig) -> bool:
    """Whether a step costs less than its method announces, as far as its rollouts end early, follow their row or are
    equal, or leave room for all rows under a limit of tokens."""
    needs = needs_of(config)
    is_limited = config.trainer.max_tokens_per_microbatch is not None and _documents(config) > 1
    may_keep_more = is_limited and needs.keeps_rows
    return needs.rollouts == "completions" or (needs.rollouts == "blocks" and (config.sampler.reuse or may_keep_more))


def is_bound(config: TrainConfig) -> bool:
    """Whether `planned` may be more than a step will cost."""
    data, needs = config.data, needs_of(config)
    has_fewer_anchors = data.layout == "padded" or data.document_masking or config.sampler.anchors == "completion"
    indices = needs.feature_network and any(isinstance(layer, int) for layer in config.features.feature_layers)
    return depends_on_rollouts(config) or (needs.rollouts == "blocks" and has_fewer_anchors) or indices


def _is_other_network(config: TrainConfig) -> bool:
    return config.features.network == "checkpoint" or is_door(config.features.network)


def line(config: TrainConfig) -> str:
    """A step's tokens, and what that is in steps of supervised fine-tuning on the same rows."""
    tokens = sum(planned(config).values())
    ratio = tokens / supervised(config.data.sequence_length)
    # of another network the config does not tell the size
    is_guess = needs_of(config).feature_network and _is_other_network(config)
    bound = "about " if is_guess else "at most " if is_bound(config) else ""
    return f"{bound}{config.trainer.batch_size * tokens:,.0f} tokens a step, {ratio:.1f} times supervised fine-tuning"
