"""Values outside their limits and combinations of knobs that cannot work, each refused in one sentence. Needs no model
and no data."""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from itertools import islice
from typing import Any

from ebft.config.defaults import has_pairs, on_set
from ebft.config.doors import FORM, installed, is_door
from ebft.config.doors import check as check_door
from ebft.config.methods import check_own
from ebft.config.schema import (
    EMBEDDED_SOURCES,
    OWN_SET,
    TASKS,
    TRACKERS,
    ColumnsDataConfig,
    DataConfig,
    EvalConfig,
    EvaluateConfig,
    FeaturesConfig,
    HubDataConfig,
    LoRAConfig,
    MixtureDataConfig,
    PackagesDataConfig,
    ProjectTrackerConfig,
    SamplerConfig,
    TrackerConfig,
    TrainConfig,
    TrainerConfig,
    UserError,
)

MOST = 2**62  # room for a process's own part of a seed


def check(config: TrainConfig) -> None:
    """Raise UserError for all values outside their limits; if there are none, for combinations that cannot work, one of
    every part of the config, for the second is often the first one's consequence. Needs no model and no data."""
    check_limits(config)
    check_own(config)
    _refuse(_conflicts(config))


def check_limits(config: Any) -> None:
    """Raise UserError for all values outside the limits that their fields name."""
    _refuse(message for key, value, metadata in _walk(config) for message in _beyond_limits(key, value, metadata))


def _refuse(messages: Iterable[str]) -> None:
    """Raise UserError for all of them."""
    if found := dict.fromkeys(messages):
        raise UserError(" ".join(found))


def _walk(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for item in fields(node):
        key, value = f"{prefix}{item.name}", getattr(node, item.name)
        if is_dataclass(value):
            yield from _walk(value, f"{key}.")
        else:
            yield key, value, item.metadata


def _beyond_limits(key: str, value: Any, metadata: Any) -> Iterator[str]:
    """What is wrong with a value by itself, of which one thing is enough."""
    if value is None:
        return
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{key}={value} must be a finite number."
    elif isinstance(value, int) and abs(value) > MOST:
        yield f"{key}={value} is too large a number; the largest is {MOST}."
    elif metadata.get("door") and is_door(value):
        check_door(value, key)
    elif "choices" in metadata and value not in (*metadata["choices"], *installed(metadata["entry_points"])):
        own = f", or your own code as {FORM}" if metadata["door"] else ""
        yield f"{key}={value} is not one of {', '.join(map(_shown, metadata['choices']))}{own}."
    elif metadata.get("door") and "choices" not in metadata:
        yield f"{key}={value} is not of the form {FORM}."
    elif "at_least" in metadata and not value >= metadata["at_least"]:
        yield f"{key}={value} must be at least {metadata['at_least']}."
    elif "above" in metadata and not value > metadata["above"]:
        yield f"{key}={value} must be above {metadata['above']}."


def _shown(choice: str | bool) -> str:
    return str(choice).lower() if isinstance(choice, bool) else choice


def _conflicts(config: TrainConfig) -> Iterator[str]:
    if isinstance(config, EvaluateConfig) and config.plan_only:
        yield "plan_only=true plans a run of ebft-train; ebft-eval has none, so leave it out."
    if isinstance(config, EvaluateConfig) and config.resume not in ("auto", "never"):
        run = config.resume
        yield f"resume={run} goes on with a run of ebft-train; to evaluate it, write model.path={run}."
    for part in (
        config.method.conflicts(config),
        _question_conflicts(config),
        _geometry_conflicts(config),
        _evaluation_conflicts(config.eval),
        _set_conflicts(config),
        _data_conflicts(config.data, config.sampler),
        _feature_conflicts(config.features),
        _tracker_conflicts(config.tracker),
    ):
        yield from islice(part, 1)
    trainer, optimizer, model = config.trainer, config.optimizer, config.model
    if (trainer.max_steps is None) == (trainer.max_epochs is None):
        yield "Set exactly one of trainer.max_steps and trainer.max_epochs; make the other null."
    if trainer.stop_after is not None and trainer.keep_best is None:
        yield (
            f"trainer.stop_after={trainer.stop_after} waits for a better evaluation, so it needs a metric in "
            "trainer.keep_best, such as eval/cross_entropy."
        )
    if trainer.micro_batch_size > trainer.batch_size:
        yield (
            f"trainer.micro_batch_size={trainer.micro_batch_size} is above trainer.batch_size={trainer.batch_size}; "
            "lower it."
        )
    least = config.data.sequence_length + config.method.needs(config.sampler).rollout_tokens
    if trainer.max_tokens_per_microbatch is not None and trainer.max_tokens_per_microbatch < least:
        yield (
            f"trainer.max_tokens_per_microbatch={trainer.max_tokens_per_microbatch} is below the {least} tokens of a "
            "row with one rollout; raise it, "
            "or shorten data.sequence_length."
        )
    if trainer.parallel == "fsdp2" and trainer.compile:
        yield (
            "trainer.compile=true compiles layers that hold all their weights; use trainer.parallel=ddp, or "
            "trainer.compile=false."
        )
    if trainer.parallel == "none" and config.features.placement != "replicated":
        yield (
            f"features.placement={config.features.placement} needs trainer.parallel=ddp or fsdp2, for one process has "
            "nobody to share with."
        )
    if trainer.processes is not None:
        yield from islice(split_conflicts(trainer, trainer.processes, f"trainer.processes={trainer.processes}"), 1)
    if len(optimizer.betas) != 2 or not all(0 <= beta < 1 for beta in optimizer.betas):
        yield f"optimizer.betas={list(optimizer.betas)} must be two numbers in [0, 1)."
    if optimizer.warmup_fraction > 1:
        yield f"optimizer.warmup_fraction={optimizer.warmup_fraction} must be at most 1."
    if optimizer.ema_decay is not None and optimizer.ema_decay >= 1:
        yield f"optimizer.ema_decay={optimizer.ema_decay} must be below 1; null turns averaging off."
    if model.config_overrides and model.init != "random":
        yield "model.config_overrides changes the architecture, so it needs model.init=random."
    if isinstance(model.adapter, LoRAConfig):
        yield from islice(_adapter_conflicts(model.adapter, config), 1)


def split_conflicts(trainer: TrainerConfig, processes: int, name: str) -> Iterator[str]:
    """Why a step cannot be shared by so many processes, which are called `name`."""
    if processes == 1:
        return
    if trainer.parallel == "none":
        yield (
            f"{name} needs trainer.parallel=ddp, with all weights in every process, or trainer.parallel=fsdp2, with "
            "shards of them."
        )
    if trainer.batch_size < processes:
        yield (
            f"{name} is more than trainer.batch_size={trainer.batch_size} has rows; use at most {trainer.batch_size} "
            "processes, or raise it."
        )
    if trainer.batch_size % processes:
        yield f"{name} cannot share trainer.batch_size={trainer.batch_size} evenly; make it a multiple of {processes}."


def _adapter_conflicts(adapter: LoRAConfig, config: TrainConfig) -> Iterator[str]:
    if adapter.targets == []:
        yield "model.adapter.targets is empty; name at least one linear module, or null for all of them."
    if adapter.dropout >= 1:
        yield f"model.adapter.dropout={adapter.dropout} must be below 1."
    if isinstance(config, EvaluateConfig):  # which trains nothing
        return
    if adapter.dropout and config.method.needs(config.sampler).rollouts != "none":
        yield (
            f"model.adapter.dropout={adapter.dropout} needs a method without rollouts: those of "
            f"method={config.method.name} and its update must agree, so use model.adapter.dropout=0."
        )
    if adapter.quantize != "none" and config.trainer.parallel == "fsdp2":
        yield (
            f"model.adapter.quantize={adapter.quantize} packs whole weights, which cannot be sharded; use "
            "trainer.parallel=ddp."
        )
    if adapter.quantize != "none" and config.trainer.device == "cpu":
        yield (
            f"model.adapter.quantize={adapter.quantize} needs a CUDA device; use model.adapter.quantize=none, or "
            "trainer.device=cuda."
        )


def _question_conflicts(config: TrainConfig) -> Iterator[str]:
    if config.method.needs(config.sampler).asks_questions and config.data.task is None:
        yield (
            f"method={config.method.name} needs a verifier, and data.source={config.data.source} has data.task=null; "
            f"set data.task to one of {', '.join(TASKS)} or to your own {FORM}, or use data=code_qa, stdlib or "
            "translation, which have one."
        )


def _evaluation_conflicts(evaluation: EvalConfig) -> Iterator[str]:
    if not evaluation.horizons or min(evaluation.horizons) < 1:
        yield f"eval.horizons={list(evaluation.horizons)} must hold at least one length, each at least 1."
    if evaluation.top_p > 1:
        yield f"eval.top_p={evaluation.top_p} must be at most 1."
    if evaluation.num_completions and (
        not evaluation.pass_at
        or not 1 <= min(evaluation.pass_at) <= max(evaluation.pass_at) <= evaluation.num_completions
    ):
        yield (
            f"eval.pass_at={list(evaluation.pass_at)} must hold numbers from 1 to "
            f"eval.num_completions={evaluation.num_completions}."
        )


def _set_conflicts(config: TrainConfig) -> Iterator[str]:
    """Each set is held to the rules of a run's own data; it may not bring code, which nobody would see it name."""
    for name, data in config.eval.sets.items():
        key = f"eval.sets.{name}"
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            yield f"{key} is no name for figures eval/NAME/...; use letters, digits, _ and -."
        if name == OWN_SET:
            yield f"{key} has the name of the run's own held-out rows; choose another."
        for item, value, metadata in _walk(data, f"{key}."):
            if metadata.get("door") and is_door(value):
                yield f"{item}={value} is code of your own, which only the run's own data may name; leave the set out."
            else:
                yield from _beyond_limits(item, value, metadata)
        seen = on_set(config, name)
        conflicts = (*_data_conflicts(data, seen.sampler), *_geometry_conflicts(seen))
        yield from (f"{key}: {message}" for message in conflicts)


def _geometry_conflicts(config: TrainConfig) -> Iterator[str]:
    length, sampler, evaluation = config.data.sequence_length, config.sampler, config.eval
    if sampler.context_length + sampler.generate_length > length:
        yield (
            f"sampler.context_length={sampler.context_length} plus sampler.generate_length={sampler.generate_length} "
            "leaves no block in "
            f"data.sequence_length={length}; shorten them or lengthen the rows."
        )
    if evaluation.context_length + sampler.generate_length > length:
        yield (
            f"eval.context_length={evaluation.context_length} plus sampler.generate_length={sampler.generate_length} "
            "leaves no block in "
            f"data.sequence_length={length}; shorten them or lengthen the rows."
        )


def _data_conflicts(data: DataConfig, sampler: SamplerConfig) -> Iterator[str]:
    if data.validation_fraction >= 1:
        yield f"data.validation_fraction={data.validation_fraction} must be below 1."
    if isinstance(data, MixtureDataConfig):
        yield from _mixture_conflicts(data)
    if data.document_masking and data.layout == "padded":
        yield "data.document_masking=true needs data.layout=packed: a padded row holds one document."
    pairs = has_pairs(data)
    if isinstance(data, ColumnsDataConfig):
        talks = data.messages_column is not None
        if data.prompt_column is not None and data.prompt_template is not None:
            yield "data.prompt_template takes the place of data.prompt_column; make one of them null."
        named = (data.prompt_column is not None or data.prompt_template is not None, data.completion_column is not None)
        if named != ((True, True) if pairs and not talks else (False, False)) or (talks and not pairs):
            yield (
                "Set either data.text_column, or data.messages_column, or both data.prompt_column and "
                "data.completion_column, and make the rest null."
            )
        if data.border_space is not None and (talks or not pairs):
            yield "data.border_space is about prompts and completions that are texts; make it null."
        if talks and data.completes_prompt:
            yield "data.completes_prompt=true needs a prompt column: what is said in a conversation is a whole program."
    if not pairs and data.loss_tokens == "completion":
        yield "data.loss_tokens=completion needs data with a prompt and a completion column; use data.loss_tokens=all."
    if not pairs and sampler.anchors == "completion":
        yield "sampler.anchors=completion needs data with a prompt and a completion column; use sampler.anchors=all."
    yield from _task_conflicts(data, pairs)


def _mixture_conflicts(data: MixtureDataConfig) -> Iterator[str]:
    if (
        not set(data.parts) <= set(EMBEDDED_SOURCES)
        or min(data.parts.values(), default=0) < 0
        or not any(data.parts.values())
    ):
        yield (
            f"data.parts={dict(data.parts)} must give numbers of copies to {', '.join(EMBEDDED_SOURCES)}: none below "
            "0, one above."
        )
    if data.task is not None:
        yield (
            f"data.task={data.task} judges one kind of answer, and data.source=mixture holds several; set "
            "data.task=null."
        )


def _task_conflicts(data: DataConfig, pairs: bool) -> Iterator[str]:
    if data.task == "parses" and data.source not in ("stdlib", "packages"):
        yield "data.task=parses takes functions out of modules, so it needs data=stdlib or data=packages."
    if isinstance(data, PackagesDataConfig) and not data.packages:
        yield "data.packages is empty; name installed packages, such as [networkx,sympy]."
    if data.task not in (None, "parses") and not pairs:
        yield f"data.task={data.task} judges answers, so it needs data with a prompt and a completion column."
    if isinstance(data, ColumnsDataConfig) and data.task == "unit_tests":
        if data.tests_column is None and data.stdout_column is None:
            yield (
                "data.task=unit_tests runs a row's own tests; name their column with data.tests_column, or with "
                "data.stdin_column and data.stdout_column what programs read and write."
            )
        if data.tests_column is not None and data.stdout_column is not None:
            yield "data.tests_column and data.stdout_column are two kinds of tests; make one of them null."
        if data.stdin_column is not None and data.stdout_column is None:
            yield "data.stdin_column needs data.stdout_column, what a program must write for what it reads."
        if data.stdout_column is not None and (data.completes_prompt or data.entry_point_column is not None):
            yield (
                "data.stdout_column judges whole programs, which have no data.completes_prompt and no "
                "data.entry_point_column; make them false and null."
            )
    if isinstance(data, ColumnsDataConfig) and data.directions is not None:
        if not data.directions:
            yield "data.directions is empty; name some, such as [de-en,en-de], or make it null for all."
        if data.direction_column is None:
            yield "data.directions needs data.direction_column, which says what direction a row has."
    if isinstance(data, HubDataConfig) and data.validation_path is not None and data.validation_split is None:
        yield "data.validation_path needs data.validation_split, the split of that data set to evaluate on."
    if isinstance(data, HubDataConfig) and data.validation_path is None and _holds(data.train_split, data):
        yield (
            f"data.validation_split={data.validation_split} is part of data.train_split={data.train_split}; train on "
            f"the rest, such as {data.train_split}[100:]."
        )
    if is_door(data.task):  # which reads what it likes
        return
    unread = {
        key: tags["tasks"]
        for key, value, tags in _walk(data, "data.")
        if value and "tasks" in tags and data.task not in tags["tasks"]
    }
    if unread:
        task, tasks = data.task or "null", " or ".join(next(iter(unread.values())))
        yield f"data.task={task} does not read {', '.join(unread)}; set data.task={tasks}, or make them null or false."


def _holds(split: str, data: HubDataConfig) -> bool:
    """Whether the held-out split is a part of `split`, as train[:100] is of train."""
    return data.validation_split is not None and data.validation_split.startswith(f"{split}[")


def _tracker_conflicts(tracker: TrackerConfig) -> Iterator[str]:
    if not isinstance(tracker, ProjectTrackerConfig):
        return
    names = list(TRACKERS)
    allowed = [name for name in names[names.index(tracker.name) + 1 :] if name != "none"]
    if not set(tracker.also) <= set(allowed) or len(set(tracker.also)) < len(tracker.also):
        yield (
            f"tracker.also=[{','.join(tracker.also)}] must name each at most once of {', '.join(allowed)}; write "
            "tracker=[...] for several trackers."
        )


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
