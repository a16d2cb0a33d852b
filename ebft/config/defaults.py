"""What `auto` stands for: settings whose default follows from the rows, prompts with completions or plain text."""

from dataclasses import replace
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
    layout, tokens = ("padded", "completion") if has_pairs(config.data) else ("packed", "all")
    data = replace(
        config.data,
        layout=layout if config.data.layout == AUTO else config.data.layout,
        loss_tokens=tokens if config.data.loss_tokens == AUTO else config.data.loss_tokens,
    )
    anchors = data.loss_tokens if config.sampler.anchors == AUTO else config.sampler.anchors
    return replace(config, data=data, sampler=replace(config.sampler, anchors=anchors))
