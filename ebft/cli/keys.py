"""Every key that a command line may name, read off the dataclasses, and the nearest one to a name that is none of
them."""

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from difflib import SequenceMatcher
from functools import cache
from typing import Any, get_args

from ebft.config.methods import METHODS
from ebft.config.schema import ADAPTERS, SOURCES, TRACKERS, EvaluateConfig, TrainConfig
from ebft.config.sweeps import LAUNCHERS, SweepConfig

# The groups whose class depends on a key of theirs: dotted group -> (that key, class for each of its values).
SELECTORS: dict[str, tuple[str, dict[str, Any]]] = {
    "method": ("name", METHODS),
    "model.adapter": ("name", ADAPTERS),
    "data": ("source", SOURCES),
    "tracker": ("name", TRACKERS),
    "launcher": ("name", LAUNCHERS),
}

NESTED_GROUPS = [group.replace(".", "/") for group in SELECTORS if "." in group]
GROUPS = [item.name for item in fields(TrainConfig) if is_dataclass(item.type)] + [*NESTED_GROUPS, "experiment", "size"]
SWEEP_GROUPS = [item.name for item in fields(SweepConfig)]  # and mode: the keys that ebft-sweep reads itself
SIMILAR_ENOUGH = 0.7


def all_keys(whole: Any = TrainConfig) -> dict[str, list[str]]:
    """Dotted key -> the choices that have it, as `method=ebft`; an empty list where every run has it."""
    found: dict[str, list[str]] = {}
    for key, _, choice in fields_of(whole):
        found.setdefault(key, []).extend([choice] if choice else [])
    return {key: [] if len(choices) == _num_choices(key) else choices for key, choices in found.items()}


def door_keys() -> set[str]:
    """Keys of a run that may name a user's own code."""
    return {key for key, item, _ in fields_of(TrainConfig) if item.metadata.get("door")}


def template_keys() -> set[str]:
    """Keys of a run that hold a template, in which a command line may write escapes."""
    return {key for key, item, _ in fields_of(TrainConfig) if item.metadata.get("template")}


def types_of(key: str) -> set[Any]:
    """The annotations of a key in all choices that have it; empty for a key that is no field."""
    return {item.type for whole in (EvaluateConfig, SweepConfig) for name, item, _ in fields_of(whole) if name == key}


def fields_of(whole: Any) -> tuple[tuple[str, Any, str], ...]:
    """Every dotted key with its field and the choice of a group that has it, once for each such choice."""
    return _fields_with(whole, tuple(METHODS.items()))


@cache
def _fields_with(whole: Any, methods: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any, str], ...]:
    """Every override asks for them; they change where a user's method is added to `methods`."""
    return tuple(_walk(whole))


def _walk(whole: Any, prefix: str = "", choice: str = "") -> Iterator[tuple[str, Any, str]]:
    for item in fields(whole):
        key = f"{prefix}{item.name}"
        if key in SELECTORS:
            for name, cls in SELECTORS[key][1].items():
                yield from _walk(cls, f"{key}.", f"{key.replace('.', '/')}={name}")
        elif is_dataclass(item.type):
            yield from _walk(item.type, f"{key}.", choice)
        else:
            yield key, item, choice


def _num_choices(key: str) -> int:
    group = key.rpartition(".")[0]
    return len(SELECTORS[group][1]) if group in SELECTORS else 0


def type_of(key: str, tree: Any) -> Any:
    """The annotation behind a dotted key of a composed tree, e.g. int for `trainer.batch_size`, and for
    `data.parts.stdlib` of a dict[str, int]; None for a key that is no field."""
    group, *names = key.split(".")
    found = {item.name: item.type for whole in (SweepConfig, EvaluateConfig) for item in fields(whole)}.get(group)
    node = tree
    while names and (group in SELECTORS or is_dataclass(found)):
        node = node[group.rpartition(".")[2]]
        cls: Any = SELECTORS[group][1][node[SELECTORS[group][0]]] if group in SELECTORS else found
        found = {item.name: item.type for item in fields(cls)}.get(names[0])
        group = f"{group}.{names.pop(0)}"
    for _ in names:
        _, found = get_args(found)
    return found


def is_whole(key: str) -> bool | None:
    """Whether a key of a run is a whole number; None for one that is no field, such as an entry of
    model.config_overrides."""
    types = types_of(key)
    return bool(types & {int, int | None}) if types else None


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `name`, the first of equals. A name without a dot may be the end of a key: n_samples,
    sampler.n_samples."""
    best = max(candidates, key=lambda candidate: _similarity(name, candidate), default=None)
    return best if best is not None and _similarity(name, best) >= SIMILAR_ENOUGH else None


def _similarity(name: str, candidate: str) -> float:
    end = _ratio(name.rpartition(".")[2], candidate.rpartition(".")[2])
    return (end + _ratio(name, candidate)) / 2 if "." in name else end


def _ratio(left: str, right: str) -> float:
    return SequenceMatcher(None, left, right).ratio()
