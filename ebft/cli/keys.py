"""Every key that a command line may name, read off the dataclasses, and the nearest one to a name that is none of them."""

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from difflib import SequenceMatcher
from typing import Any, get_args

from ebft.config import LAUNCHERS, METHODS, SOURCES, TRACKERS, EvaluateConfig, SweepConfig, TrainConfig

# The groups whose class depends on a key of theirs: group -> (that key, class for each of its values).
SELECTORS: dict[str, tuple[str, dict[str, Any]]] = {
    "method": ("name", METHODS),
    "data": ("source", SOURCES),
    "tracker": ("name", TRACKERS),
    "launcher": ("name", LAUNCHERS),
}

GROUPS = [item.name for item in fields(TrainConfig) if is_dataclass(item.type)] + ["experiment"]
SWEEP_GROUPS = [item.name for item in fields(SweepConfig)]  # and mode: the keys that ebft-sweep reads itself
SIMILAR_ENOUGH = 0.7


def all_keys(whole: Any = TrainConfig) -> dict[str, list[str]]:
    """Dotted key -> the choices that have it, as `method=ebft`; an empty list where every run has it."""
    keys: dict[str, list[str]] = {}
    for item in fields(whole):
        if item.name in SELECTORS:
            keys |= _keys_of_variants(item.name, SELECTORS[item.name][1])
        elif is_dataclass(item.type):
            keys |= {f"{item.name}.{inner.name}": [] for inner in fields(item.type)}
        else:
            keys[item.name] = []
    return keys


def _keys_of_variants(group: str, classes: dict[str, Any]) -> dict[str, list[str]]:
    owners: dict[str, list[str]] = {}
    for choice, cls in classes.items():
        for item in fields(cls):
            owners.setdefault(f"{group}.{item.name}", []).append(f"{group}={choice}")
    return {key: [] if len(choices) == len(classes) else choices for key, choices in owners.items()}


def type_of(key: str, tree: Any) -> Any:
    """The annotation behind a dotted key of a composed tree, e.g. int for `trainer.batch_size`, and for `data.parts.stdlib` of a dict[str, int]; None
    for a key that is no field."""
    group, *names = key.split(".")
    types = {item.name: item.type for whole in (SweepConfig, EvaluateConfig) for item in fields(whole)}
    if not names:
        return types.get(group)
    cls: Any = SELECTORS[group][1][tree[group][SELECTORS[group][0]]] if group in SELECTORS else types[group]
    found = {item.name: item.type for item in fields(cls)}.get(names[0])
    for _ in names[1:]:
        _, found = get_args(found)
    return found


def is_whole(key: str) -> bool | None:
    """Whether a key of a run is a whole number; None for one that is no field, such as an entry of model.config_overrides."""
    group, _, name = key.partition(".")
    whole: dict[str, Any] = {item.name: item.type for item in fields(TrainConfig)}
    classes = [] if group not in whole else SELECTORS[group][1].values() if group in SELECTORS else [whole[group]]
    types = {item.type for cls in classes if is_dataclass(cls) for item in fields(cls) if item.name == name} if name else {whole.get(group)}
    return bool(types & {int, int | None}) if types - {None} else None


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `name`, the first of equals. A name without a dot may be the end of a key: n_samples, sampler.n_samples."""
    best = max(candidates, key=lambda candidate: _similarity(name, candidate), default=None)
    return best if best is not None and _similarity(name, best) >= SIMILAR_ENOUGH else None


def _similarity(name: str, candidate: str) -> float:
    end = _ratio(name.rpartition(".")[2], candidate.rpartition(".")[2])
    return (end + _ratio(name, candidate)) / 2 if "." in name else end


def _ratio(left: str, right: str) -> float:
    return SequenceMatcher(None, left, right).ratio()
