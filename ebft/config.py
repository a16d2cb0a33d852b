"""Every knob of a run as a typed, frozen dataclass, and the rules that tie knobs together.

The values live in `conf/`, each default written once; a class here holds names, types and limits only. `cli/` composes the YAML files, turns
them into these classes and calls `check`. Nothing here imports torch or hydra, so `--help` stays fast.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Union


class UserError(ValueError):
    """A mistake of the user's: one sentence that names the key, row or file and the fix. Shown without a traceback."""


class RunFailure(RuntimeError):
    """A run that cannot go on: one sentence with the cause. The run folder stays as it is, marked failed."""


def one_of(*choices: str) -> Any:
    return field(metadata={"choices": choices})


def at_least(minimum: float) -> Any:
    return field(metadata={"at_least": minimum})


def above(bound: float) -> Any:
    return field(metadata={"above": bound})


@dataclass(frozen=True)
class MethodConfig:
    name: str


@dataclass(frozen=True)
class SFTConfig(MethodConfig):
    """Supervised fine-tuning: mean cross-entropy over the tokens that count."""


@dataclass(frozen=True)
class EBFTConfig(MethodConfig):
    """rl_coef * L_CFM + ce_coef * cross-entropy (method.md section 1)."""

    rl_coef: float = at_least(0)
    ce_coef: float = at_least(0)  # the paper's gamma
    alignment_coef: float = at_least(0)
    diversity_coef: float = at_least(0)  # 1 gives an unbiased gradient of L_CFM
    advantage: str = one_of("none", "rloo", "group_norm")


@dataclass(frozen=True)
class ModelConfig:
    path: str  # `tiny` (shipped with the package), a folder, or a hub id
    revision: str | None
    init: str = one_of("pretrained", "random")  # random: the path's architecture and tokenizer, fresh weights
    config_overrides: dict[str, Any]  # changes to the architecture, with init=random only
    trust_remote_code: bool


@dataclass(frozen=True)
class DataConfig:
    source: str
    sequence_length: int = at_least(2)  # tokens per row
    layout: str = one_of("packed", "padded")  # packed: documents joined by one EOS and cut; padded: one document a row
    document_masking: bool  # packed rows: attention stays inside a document
    loss_tokens: str = one_of("all", "completion")  # which tokens count in the cross-entropy
    validation_fraction: float = above(0)  # held out by a stable hash, where there is no validation split of its own
    validation_part: str = one_of("all", "selection", "report")  # of the held-out documents: all, or one of two halves by a stable hash
    max_train_documents: int | None = at_least(1)
    max_validation_documents: int | None = at_least(1)


@dataclass(frozen=True)
class StdlibDataConfig(DataConfig):
    """The running interpreter's own standard library, split by module."""


@dataclass(frozen=True)
class ColumnsDataConfig(DataConfig):
    """Rows with a text column, or with a prompt and a completion column."""

    path: str
    text_column: str | None
    prompt_column: str | None
    completion_column: str | None


@dataclass(frozen=True)
class FileDataConfig(ColumnsDataConfig):
    """JSONL or Parquet from disk."""

    validation_path: str | None


@dataclass(frozen=True)
class HubDataConfig(ColumnsDataConfig):
    """Any data set that `datasets.load_dataset` reads."""

    name: str | None
    revision: str | None
    train_split: str
    validation_split: str | None


@dataclass(frozen=True)
class FeaturesConfig:
    """The feature map phi (method.md sections 3 and 6)."""

    feature_layers: list[Union[int, float]]  # float: fraction of depth, int: index; 0 is the embedding output
    embed_method: str = one_of("last_token", "mean_pooling", "concat")
    normalize: str = one_of("joint", "per_layer", "none")
    whitening: str = one_of("none", "paper", "reference_code")
    network: str = one_of("policy", "checkpoint", "random")  # policy: a copy of the policy before training
    path: str | None  # the checkpoint, with network=checkpoint only


@dataclass(frozen=True)
class SamplerConfig:
    """Strided block-parallel rollouts (method.md section 2)."""

    anchors: str = one_of("all", "completion")
    n_samples: int = at_least(1)  # N, rollouts per context
    stride: int = at_least(1)  # s, tokens between anchors
    context_length: int = at_least(1)  # c0, tokens before the first anchor
    generate_length: int = at_least(1)  # G, tokens per rollout
    temperature: float = above(0)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and a schedule of transformers' `get_scheduler`."""

    lr: float = above(0)
    betas: list[float]
    eps: float = above(0)
    weight_decay: float = at_least(0)
    max_grad_norm: float = above(0)
    schedule: str = one_of("constant", "constant_with_warmup", "linear", "cosine")
    warmup_fraction: float = at_least(0)  # of all steps
    ema_decay: float | None = above(0)  # null: no average; otherwise the averaged weights are evaluated and exported


@dataclass(frozen=True)
class TrainerConfig:
    max_steps: int | None = at_least(1)  # optimiser steps; null: from max_epochs
    max_epochs: float | None = above(0)
    batch_size: int = at_least(1)  # documents per optimiser step
    micro_batch_size: int = at_least(1)  # documents per forward; never changes the gradient
    device: str = one_of("auto", "cpu", "cuda")
    dtype: str = one_of("fp32", "bf16")  # bf16: autocast over fp32 weights
    gradient_checkpointing: bool
    checkpoint_every_steps: int = at_least(1)
    keep_checkpoints: int = at_least(1)


@dataclass(frozen=True)
class TrackerConfig:
    name: str


@dataclass(frozen=True)
class WandbTrackerConfig(TrackerConfig):
    project: str
    entity: str | None
    group: str | None
    run_name: str | None
    tags: list[str]


@dataclass(frozen=True)
class EvalConfig:
    """Held-out evaluation, the same for every method (method.md section 8)."""

    every_steps: int = at_least(1)
    num_documents: int = at_least(2)
    long_documents: int = at_least(2)  # with rollouts to the longest horizon, at most num_documents
    n_samples: int = at_least(2)
    stride: int = at_least(1)  # between rollouts of the training length
    long_stride: int = at_least(1)  # between rollouts to the longest horizon
    context_length: int = at_least(1)
    horizons: list[int]
    micro_batch_size: int = at_least(1)
    seed: int


@dataclass(frozen=True)
class TrainConfig:
    seed: int = at_least(0)
    resume: str  # auto | never | a checkpoint folder
    method: MethodConfig
    model: ModelConfig
    data: DataConfig
    features: FeaturesConfig
    sampler: SamplerConfig
    optimizer: OptimizerConfig
    trainer: TrainerConfig
    tracker: TrackerConfig
    eval: EvalConfig


# The class behind each value of a group's selector key.
METHODS = {"sft": SFTConfig, "ebft": EBFTConfig}
SOURCES = {"stdlib": StdlibDataConfig, "jsonl": FileDataConfig, "parquet": FileDataConfig, "hub": HubDataConfig}
TRACKERS = {"none": TrackerConfig, "wandb": WandbTrackerConfig}


def check(config: TrainConfig) -> None:
    """Raise UserError for the first value outside its limits or combination that cannot work. Needs no model and no data."""
    for key, value, metadata in _walk(config):
        _check_limits(key, value, metadata)
    for message in _conflicts(config):
        raise UserError(message)


def _walk(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for item in fields(node):
        key, value = f"{prefix}{item.name}", getattr(node, item.name)
        if is_dataclass(value):
            yield from _walk(value, f"{key}.")
        else:
            yield key, value, item.metadata


def _check_limits(key: str, value: Any, metadata: Any) -> None:
    if value is None:
        return
    if "choices" in metadata and value not in metadata["choices"]:
        raise UserError(f"{key}={value} is not one of {', '.join(metadata['choices'])}.")
    if "at_least" in metadata and not value >= metadata["at_least"]:
        raise UserError(f"{key}={value} must be at least {metadata['at_least']}.")
    if "above" in metadata and not value > metadata["above"]:
        raise UserError(f"{key}={value} must be above {metadata['above']}.")


def _conflicts(config: TrainConfig) -> Iterator[str]:
    yield from _method_conflicts(config)
    yield from _geometry_conflicts(config)
    yield from _data_conflicts(config.data, config.sampler)
    yield from _feature_conflicts(config.features)
    trainer, optimizer, model = config.trainer, config.optimizer, config.model
    if (trainer.max_steps is None) == (trainer.max_epochs is None):
        yield "Set exactly one of trainer.max_steps and trainer.max_epochs; make the other null."
    if trainer.micro_batch_size > trainer.batch_size:
        yield f"trainer.micro_batch_size={trainer.micro_batch_size} is above trainer.batch_size={trainer.batch_size}; lower it."
    if len(optimizer.betas) != 2 or not all(0 <= beta < 1 for beta in optimizer.betas):
        yield f"optimizer.betas={list(optimizer.betas)} must be two numbers in [0, 1)."
    if optimizer.warmup_fraction > 1:
        yield f"optimizer.warmup_fraction={optimizer.warmup_fraction} must be at most 1."
    if optimizer.ema_decay is not None and optimizer.ema_decay >= 1:
        yield f"optimizer.ema_decay={optimizer.ema_decay} must be below 1; null turns averaging off."
    if model.config_overrides and model.init != "random":
        yield "model.config_overrides changes the architecture, so it needs model.init=random."


def _method_conflicts(config: TrainConfig) -> Iterator[str]:
    method, n_samples = config.method, config.sampler.n_samples
    if not isinstance(method, EBFTConfig):
        return
    if method.rl_coef == 0 and method.ce_coef == 0:
        yield "method.rl_coef and method.ce_coef are both 0, so there is nothing to train on; raise one."
    if n_samples < 2 and method.advantage != "none":
        yield f"sampler.n_samples={n_samples} is too small for method.advantage={method.advantage}; use at least 2, or method.advantage=none."
    if n_samples < 2 and method.diversity_coef > 0:
        yield f"sampler.n_samples={n_samples} leaves no pair for the diversity term; use at least 2, or method.diversity_coef=0."


def _geometry_conflicts(config: TrainConfig) -> Iterator[str]:
    length, sampler, evaluation = config.data.sequence_length, config.sampler, config.eval
    if sampler.context_length + sampler.generate_length > length:
        yield (
            f"sampler.context_length={sampler.context_length} plus sampler.generate_length={sampler.generate_length} leaves no block in "
            f"data.sequence_length={length}; shorten them or lengthen the rows."
        )
    if evaluation.context_length + sampler.generate_length > length:
        yield (
            f"eval.context_length={evaluation.context_length} plus sampler.generate_length={sampler.generate_length} leaves no block in "
            f"data.sequence_length={length}; shorten them or lengthen the rows."
        )
    if not evaluation.horizons or min(evaluation.horizons) < 1:
        yield f"eval.horizons={list(evaluation.horizons)} must hold at least one length, each at least 1."


def _data_conflicts(data: DataConfig, sampler: SamplerConfig) -> Iterator[str]:
    if data.validation_fraction >= 1:
        yield f"data.validation_fraction={data.validation_fraction} must be below 1."
    if data.document_masking and data.layout == "padded":
        yield "data.document_masking=true needs data.layout=packed: a padded row holds one document."
    pairs = False
    if isinstance(data, ColumnsDataConfig):
        pairs = data.text_column is None
        named = (data.prompt_column is not None, data.completion_column is not None)
        if named != ((True, True) if pairs else (False, False)):
            yield "Set either data.text_column, or both data.prompt_column and data.completion_column, and make the rest null."
    if not pairs and data.loss_tokens == "completion":
        yield "data.loss_tokens=completion needs data with a prompt and a completion column; use data.loss_tokens=all."
    if not pairs and sampler.anchors == "completion":
        yield "sampler.anchors=completion needs data with a prompt and a completion column; use sampler.anchors=all."


def _feature_conflicts(features: FeaturesConfig) -> Iterator[str]:
    if not features.feature_layers:
        yield "features.feature_layers is empty; name at least one fraction of the depth or layer index."
    for layer in features.feature_layers:
        if isinstance(layer, float) and not 0 < layer <= 1:
            yield f"features.feature_layers holds {layer}; a fraction lies in (0, 1], an index is a whole number."
        if isinstance(layer, int) and layer < 0:
            yield f"features.feature_layers holds {layer}; an index counts from 0, the embedding output."
    if (features.path is not None) != (features.network == "checkpoint"):
        yield "features.path names the feature network of features.network=checkpoint; set both or neither."
