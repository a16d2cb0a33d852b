"""The card of an exported model: what it was made from, on what data, how, how it scores, and the command."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ebft.config.identity import flat, resolved
from ebft.config.schema import TrainConfig
from ebft.models.named import FETCHED
from ebft.output.metric_names import lower_is_better
from ebft.output.visible import markdown

INTERVAL = 1.96  # standard errors on either side, 95 % of a normal distribution
ARROWS = {True: " ↓", False: " ↑"}
PATHS = ("model.path", "data.path", "data.validation_path", "data.chat_template")  # which a run may find on a disk
CARD = """---
{base_model}library_name: {library}
tags: [{method}]
---
Post-trained with `ebft` (method `{method}`) from `{base}` for {step} steps of {batch} rows of
{length} tokens, {settings}.

| part | settings |
| --- | --- |
{parts}

Evaluation on held-out rows at that step, with 95 % intervals over their documents; ↓ lower is better, ↑ higher:

| metric | before | here | interval |
| --- | --- | --- | --- |
{figures}

The same run again, with `config.yaml` of its folder, which is `training_config.yaml` on the hub:

    {command}
"""


def model_card(
    config: TrainConfig, step: int, base: Mapping[str, float], figures: Mapping[str, float], library: str
) -> str:
    """The README.md of an exported model, or of adapters, which `library` loads. `base` and `figures` have a standard
    error, where one is known, under NAME_stderr."""
    groups = resolved(config)
    return CARD.format(
        base_model=_base_on_hub(config.model.path),
        base=config.model.path,
        library=library,
        method=config.method.name,
        step=step,
        batch=config.trainer.batch_size,
        length=config.data.sequence_length,
        settings=f"data `{config.data.source}`, learning rate {config.optimizer.lr}, seed {config.seed}",
        parts="\n".join(
            f"| {name} | {_settings(groups[name])} |" for name in ("data", "method", "features", "sampler")
        ),
        figures="\n".join(_rows(base, figures)),
        command=_command(flat(groups)),
    )


def _base_on_hub(path: str) -> str:
    """The line of the header that links a model to its base; none where the hub, which refuses a card with the name of
    a folder there, has no such model."""
    name = FETCHED.get(path, path)
    is_there = re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not Path(name).exists()
    return f"base_model: {name}\n" if is_there else ""


def _command(values: Mapping[str, Any]) -> str:
    """It names the files that the run read, since a relative path leads elsewhere from another folder, and another
    machine has others."""
    paths = {key: values[key] for key in PATHS if key in values and values[key] is not None}
    on_disk = [f"{key}={path}" for key, path in paths.items() if Path(path).exists()]
    return shlex.join(["ebft-train", "config.yaml", *on_disk]) + ("  # or where these lie now" if on_disk else "")


def _settings(group: Mapping[str, Any]) -> str:
    """Those that are set."""
    values = flat(group)
    return ", ".join(
        f"`{key}={markdown(str(value))}`" for key, value in values.items() if value not in (None, False, [])
    )


def _rows(base: Mapping[str, float], figures: Mapping[str, float]) -> list[str]:
    """Of what is better lower or higher; the rest is for the run's report."""
    rows = []
    for name, value in figures.items():
        way = lower_is_better(name)
        if way is None or name.endswith("_stderr"):
            continue
        error = figures.get(f"{name}_stderr")
        before = f"{base[name]:.4f}" if name in base else ""
        interval = "" if error is None else f"± {INTERVAL * error:.4f}"
        rows.append(f"| `{name}`{ARROWS[way]} | {before} | {value:.4f} | {interval} |")
    return rows
