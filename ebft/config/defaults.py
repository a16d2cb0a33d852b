"""What `auto` stands for: settings whose default follows from the rows, prompts with completions or plain text, and the
verifier of translations, which follows from what is installed."""

from dataclasses import replace
from importlib.util import find_spec
from typing import TypeVar

from ebft.config.schema import ColumnsDataConfig, DataConfig, GeneratedDataConfig, TrainConfig

AUTO = "auto"
Run = TypeVar("Run", bound=TrainConfig)


def has_pairs(data: DataConfig) -> bool:
    """Whether every row is a prompt and its completion."""
    return isinstance(data, GeneratedDataConfig) or (isinstance(data, ColumnsDataConfig) and data.text_column is None)


def settled(config: Run) -> Run:
    """The config without `auto`: a pair has a row of its own, and only its completion is trained on and rolled out;
    plain text is packed, and all of it counts."""
    data = _settled_data(config.data)
    anchors = data.loss_tokens if config.sampler.anchors == AUTO else config.sampler.anchors
    sets = {name: _settled_data(each) for name, each in config.eval.sets.items()}
    return replace(
        config,
        data=data,
        sampler=replace(config.sampler, anchors=anchors),
        eval=replace(config.eval, sets=sets),
    )


def _settled_data(data: DataConfig) -> DataConfig:
    layout, tokens = ("padded", "completion") if has_pairs(data) else ("packed", "all")
    translation_task = "chrf" if has_sacrebleu() else "exact_match"
    return replace(
        data,
        task=translation_task if (data.source, data.task) == ("translation", AUTO) else data.task,
        layout=layout if data.layout == AUTO else data.layout,
        loss_tokens=tokens if data.loss_tokens == AUTO else data.loss_tokens,
    )


def has_sacrebleu() -> bool:
    return find_spec("sacrebleu") is not None


def on_set(config: Run, name: str) -> Run:
    """The config of the run as it is evaluated on a set: on its rows, with rollouts where its loss is."""
    data = config.eval.sets[name]
    return replace(config, data=data, sampler=replace(config.sampler, anchors=data.loss_tokens))
