"""What an optimiser step costs, in forwards of one token through the whole policy; a backward counts as two (method.md
section 9).

Arithmetic alone, so that a thousand runs can be planned without torch. The methods' own counts come from here too.
"""

from ebft.config.schema import EBFTConfig, RLVRConfig, TrainConfig


def num_blocks(sequence_length: int, context_length: int, stride: int, generate_length: int) -> int:
    """K = (T - G - c0) // s + 1, the anchors c0 + k * s whose continuation fits; 0 if none does."""
    return max(0, (sequence_length - generate_length - context_length) // stride + 1)


def supervised(row_length: int) -> dict[str, float]:
    """Tokens of a row by phase."""
    return {"update": 3 * row_length}


def block_rollouts(
    row_length: int, num_blocks: float, n_samples: int, generate_length: int, depth: float, row_is_kept: bool
) -> dict[str, float]:
    """The row once, and its branches without their last token; phi, of `depth` times the policy's layers, reads that
    one too. Where the row's forward in the update is kept from before sampling, sampling has none of its own."""
    rollouts = num_blocks * n_samples
    own = rollouts * (generate_length - 1)
    sampling = own if row_is_kept else row_length + own
    return {
        "sampling": sampling,
        "features": depth * (row_length + rollouts * generate_length),
        "update": 3 * (row_length + own),
    }


def completions(row_length: int, n_samples: int, max_new_tokens: int, has_reference: bool) -> dict[str, float]:
    """At most: rows are cut behind the longest prompt, and completions end earlier."""
    once: float = row_length + n_samples * (max_new_tokens - 1)
    return {"sampling": once, "update": 3 * once} | ({"reference": once} if has_reference else {})


def keeps_rows(config: TrainConfig, documents: int) -> bool:
    """Whether EBFT is sure to forward its rows once for sampling and update, as it does where the `documents` of a step
    in one process are one micro-batch. Under a limit of tokens that depends on how many anchors rows have, except for a
    single row."""
    trainer = config.trainer
    together = documents == 1 or (documents <= trainer.micro_batch_size and trainer.max_tokens_per_microbatch is None)
    return together and not trainer.gradient_checkpointing


def by_phase(config: TrainConfig, num_blocks: float, depth: float, rows_are_kept: bool) -> dict[str, float]:
    """Tokens of a row with so many blocks by phase; phi has `depth` times the policy's layers."""
    length, sampler, method = config.data.sequence_length, config.sampler, config.method
    if isinstance(method, EBFTConfig):
        return block_rollouts(length, num_blocks, sampler.n_samples, sampler.generate_length, depth, rows_are_kept)
    if isinstance(method, RLVRConfig):
        return completions(length, sampler.n_samples, method.max_new_tokens, method.kl_coef > 0)
    return supervised(length)


def planned(config: TrainConfig) -> dict[str, float]:
    """Tokens of a row by phase as far as the config tells, which is from above: rows that end early, rows of several
    documents and completions hold fewer anchors than a whole row, reuse leaves out tokens of rollouts, a layer that is
    named by its index may be the last, and rows under a limit of tokens may be one micro-batch. A fraction of the depth
    is taken as it is, where phi keeps whole layers."""
    sampler = config.sampler
    blocks = num_blocks(config.data.sequence_length, sampler.context_length, sampler.stride, sampler.generate_length)
    depth = max(layer if isinstance(layer, float) else 1.0 for layer in config.features.feature_layers)
    return by_phase(config, blocks, depth, keeps_rows(config, _documents(config)))


def _documents(config: TrainConfig) -> int:
    """Of a step, in one of the processes that the config names."""
    return config.trainer.batch_size // (config.trainer.processes or 1)


def rollouts(config: TrainConfig, num_blocks: float) -> str:
    """What is sampled of a row with so many blocks, for people."""
    sampler, method = config.sampler, config.method
    if isinstance(method, EBFTConfig):
        return f"{sampler.n_samples} of {sampler.generate_length} tokens at each of {num_blocks:.1f} anchors a row"
    if isinstance(method, RLVRConfig):
        return f"{sampler.n_samples} completions a prompt, of at most {method.max_new_tokens} tokens"
    return "none"


def depends_on_rollouts(config: TrainConfig) -> bool:
    """Whether a step costs less than its method announces, as far as its rollouts end early, follow their row or are
    equal, or leave room for all rows under a limit of tokens."""
    is_limited = config.trainer.max_tokens_per_microbatch is not None and _documents(config) > 1
    return isinstance(config.method, RLVRConfig) or (
        isinstance(config.method, EBFTConfig) and (config.sampler.reuse or is_limited)
    )


def is_bound(config: TrainConfig) -> bool:
    """Whether `planned` may be more than a step will cost."""
    data = config.data
    has_fewer_anchors = data.layout == "padded" or data.document_masking or config.sampler.anchors == "completion"
    indices = any(isinstance(layer, int) for layer in config.features.feature_layers)
    return depends_on_rollouts(config) or (isinstance(config.method, EBFTConfig) and (has_fewer_anchors or indices))


def line(config: TrainConfig) -> str:
    """A step's tokens, and what that is in steps of supervised fine-tuning on the same rows."""
    tokens, supervised_tokens = sum(planned(config).values()), sum(supervised(config.data.sequence_length).values())
    other = (
        isinstance(config.method, EBFTConfig) and config.features.network == "checkpoint"
    )  # of which the config does not tell the size
    bound = "about " if other else "at most " if is_bound(config) else ""
    return f"{bound}{config.trainer.batch_size * tokens:,.0f} tokens a step, {tokens / supervised_tokens:.1f} times sft"
