"""The card of an exported model: what it was made from, on what data, how, how it scores, and the command."""

from collections.abc import Mapping
from typing import Any

from ebft.config.identity import flat, resolved
from ebft.config.schema import TrainConfig
from ebft.output.visible import markdown

INTERVAL = 1.96  # standard errors on either side, 95 % of a normal distribution
CARD = """---
base_model: {base}
library_name: {library}
tags: [{method}]
---
Post-trained with `ebft` (method `{method}`) from `{base}` for {step} steps of {batch} rows of
{length} tokens, {settings}.

| part | settings |
| --- | --- |
{parts}

Evaluation on held-out rows at that step, with 95 % intervals over their documents:

| metric | before | here | interval |
| --- | --- | --- | --- |
{figures}

The same run again, with `config.yaml` of its folder, which is `training_config.yaml` on the hub:

    ebft-train config.yaml
"""


def model_card(
    config: TrainConfig, step: int, base: Mapping[str, float], figures: Mapping[str, float], library: str
) -> str:
    """The README.md of an exported model, or of adapters, which `library` loads. `base` and `figures` have a standard
    error, where one is known, under NAME_stderr."""
    groups = resolved(config)
    return CARD.format(
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
    )


def _settings(group: Mapping[str, Any]) -> str:
    """Those that are set."""
    values = flat(group)
    return ", ".join(
        f"`{key}={markdown(str(value))}`" for key, value in values.items() if value not in (None, False, [])
    )


def _rows(base: Mapping[str, float], figures: Mapping[str, float]) -> list[str]:
    rows = []
    for name, value in figures.items():
        if name.endswith("_stderr"):
            continue
        error = figures.get(f"{name}_stderr")
        before = f"{base[name]:.4f}" if name in base else ""
        rows.append(f"| `{name}` | {before} | {value:.4f} | {'' if error is None else f'± {INTERVAL * error:.4f}'} |")
    return rows
