"""Grids in Hydra's override grammar: how they are merged and expanded, and many configurations composed fast."""

import itertools
import pickle
from collections.abc import Sequence
from functools import cache

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, RangeSweep

from ebft.cli.compose import to_config
from ebft.cli.keys import GROUPS
from ebft.cli.overrides import as_texts, as_typed
from ebft.cli.refusals import as_user_error
from ebft.config.schema import TrainConfig, UserError


def parse(overrides: Sequence[str]) -> list[Override]:
    """Raises UserError for one that is not of Hydra's grammar."""
    with as_user_error(list(overrides)):
        parsed: list[Override] = OverridesParser.create().parse_overrides(as_texts(overrides))
    return parsed


def merged(*lists: Sequence[str]) -> list[str]:
    """One list of overrides, in which a later one replaces an earlier one of the same key."""
    by_key: dict[str, str] = {}
    for override in parse([override for overrides in lists for override in overrides]):
        by_key[str(override.key_or_group)] = str(override.input_line)
    return list(by_key.values())


def axes(overrides: Sequence[str]) -> dict[str, list[str]]:
    """Key -> what it is set to, run by run, as overrides: ["a=1,2", "b=3"] -> {"a": ["a=1", "a=2"], "b": ["b=3"]}.
    Raises UserError."""
    found: dict[str, list[str]] = {}
    for override in parse(overrides):
        if override.is_interval_sweep():
            raise UserError(
                f"{override.input_line} has no list of values; list some, or let Optuna choose them with "
                "sweep.search=optuna."
            )
        found[str(override.key_or_group)] = values(override)
    return found


def values(override: Override) -> list[str]:
    """["a=1", "a=2"] of a=1,2."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    choice = override.value()
    if isinstance(choice, Glob):
        raise UserError(f"{override.input_line} matches names, which a grid does not; list the options of the group.")
    if isinstance(choice, RangeSweep) and choice.step == 0:
        raise UserError(f"{override.input_line} never moves on from its start; give range a step other than 0.")
    found = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    if not found:
        raise UserError(f"{override.input_line} holds no value; a range ends before its stop.")
    return found


def cells(overrides: Sequence[str]) -> list[list[str]]:
    """Hydra's own grid: ["a=1,2", "b=3"] -> [["a=1", "b=3"], ["a=2", "b=3"]]."""
    axes(overrides)  # which refuses what has no list of values
    return [list(cell) for cell in itertools.product(*map(values, parse(overrides)))]


class Composer:
    """What `ebft-train OVERRIDES` would run with, for many lists: Hydra composes each choice of groups once, values are
    set on copies."""

    def __init__(self, found: Sequence[str] = ()) -> None:
        """`found` is Hydra's search path, if it has one beside our own."""
        self._found = list(found)
        self._compose = cache(self._compose_choices)

    def config(self, overrides: Sequence[str]) -> TrainConfig:
        """Raises UserError."""
        parsed = parse(as_typed(overrides))
        with as_user_error(list(overrides)):
            tree = pickle.loads(
                self._compose(tuple(str(override.input_line) for override in parsed if _is_choice(override)))
            )
            ConfigLoaderImpl._apply_overrides_to_config(
                [override for override in parsed if not _is_choice(override)], tree
            )
        return to_config(tree)

    def _compose_choices(self, overrides: tuple[str, ...]) -> bytes:
        """Pickled, which makes a copy of a tree several times as fast as deepcopy."""
        with hydra.initialize_config_module("ebft.conf", version_base="1.3"):
            return pickle.dumps(hydra.compose("train", [*self._found, *overrides]))


def _is_choice(override: Override) -> bool:
    """Whether an override chooses an option of a group, which decides what files are composed."""
    return str(override.key_or_group) in GROUPS
