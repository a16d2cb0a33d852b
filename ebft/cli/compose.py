"""From Hydra's composed tree of strings and numbers to a typed, checked `TrainConfig`."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ebft.cli.keys import SELECTORS, type_of
from ebft.cli.messages import culprit, explain, wrong_type
from ebft.cli.overrides import as_typed
from ebft.cli.own import add_own_method, with_config_dirs
from ebft.cli.refusals import as_user_error
from ebft.config.defaults import settled
from ebft.config.rules import check
from ebft.config.schema import EvaluateConfig, TrainConfig, UserError

LARGEST = 10**20  # number that a configuration may hold
SHOWN = 5  # of the keys that a configuration lacks


def compose(overrides: list[str], config_name: str = "train") -> TrainConfig:
    """What `ebft-train OVERRIDES` would run with; for tests, scripts and notebooks. Raises UserError."""
    with hydra.initialize_config_module("ebft.conf", version_base="1.3"), as_user_error(overrides):
        cfg = hydra.compose(config_name, as_typed(with_config_dirs(overrides)))
    return to_config(cfg)


def to_config(cfg: DictConfig) -> TrainConfig:
    """The composed tree, its hydra node aside, as dataclasses without `auto` that passed `check`. Raises
    UserError."""
    # a copy costs a sixth of a plan's time
    tree = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]) if "hydra" in cfg else cfg
    # the only key that ebft-eval has and ebft-train has not
    config: TrainConfig = settled(with_sets(typed(tree, EvaluateConfig if "models" in tree else TrainConfig)))
    check(config)
    return config


def typed(tree: DictConfig, whole: Any) -> Any:
    """The tree as an object of the dataclass `whole`. Raises UserError for all unknown keys, wrong types and missing
    values."""
    schema = _schema(tree, whole)
    try:
        _refuse_huge_numbers(OmegaConf.to_container(tree, resolve=False))
        merged: Any = OmegaConf.merge(schema, tree)
        _refuse_what_lists_let_pass(merged)
        return OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UserError(" ".join(dict.fromkeys(_objections(tree, schema)))) from error


def _objections(tree: DictConfig, schema: DictConfig) -> Iterator[str]:
    """What is wrong with a tree, key by key: each is taken out before the next one is looked for."""
    left, wrong = OmegaConf.masked_copy(tree, list(tree)), set[str]()
    while True:
        try:
            merged = OmegaConf.merge(schema, left)
            OmegaConf.to_container(merged, resolve=True)
            break
        except OmegaConfBaseException as error:
            yield explain(error, [], tree)
            group, _, name = culprit(error).rpartition(".")
            node = OmegaConf.select(left, group) if group else left
            if not OmegaConf.is_dict(node) or name not in node:  # it cannot be taken out
                return
            del node[name]
            wrong.add(culprit(error))
    missing = sorted(OmegaConf.missing_keys(merged) - wrong)
    if len(missing) == 1:
        yield f"{missing[0]} is missing; add {missing[0]}=VALUE."
    elif missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        yield f"{', '.join(missing[:SHOWN])}{more} are missing; add each as KEY=VALUE."


def with_sets(config: TrainConfig) -> TrainConfig:
    """The config, of which every held-out set is a data config of its own source's class. Raises UserError."""
    sets = {name: _typed_set(name, values) for name, values in config.eval.sets.items()}
    return replace(config, eval=replace(config.eval, sets=sets))


def _typed_set(name: str, values: Any) -> Any:
    key, (selector, classes) = f"eval.sets.{name}", SELECTORS["data"]
    if not isinstance(values, dict):
        raise UserError(f"{key}={values} is no data config; add one with +data@{key}={values}.")
    if values.get(selector) not in classes:
        raise UserError(f"{key}.{selector}={values.get(selector)} is not one of {', '.join(classes)}.")
    try:
        return typed(OmegaConf.create(values), classes[values[selector]])
    except UserError as error:
        raise UserError(f"{key}: {error}") from error


def _refuse_what_lists_let_pass(tree: DictConfig) -> None:
    """OmegaConf lets [[1]] pass for a list of numbers, and the text of an interpolation for any list."""
    for key, value in _leaves(tree):
        if OmegaConf.is_list(value):
            is_wrong = any(OmegaConf.is_config(item) for item in value)
        else:
            is_wrong = isinstance(value, str) and "${" in value and "list" in str(type_of(key, tree))
        if is_wrong:
            raise UserError(wrong_type(key, tree))


def _refuse_huge_numbers(node: Any, key: str = "") -> None:
    """OmegaConf fails with an error of Python's where one is to be a float."""
    if isinstance(node, dict | list):
        for name, value in node.items() if isinstance(node, dict) else enumerate(node):
            _refuse_huge_numbers(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, int) and abs(node) > LARGEST:
        raise UserError(f"{key} is a number of {len(str(abs(node)))} digits; give one of at most 20.")


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if OmegaConf.is_dict(value):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _schema(tree: DictConfig, whole: Any) -> DictConfig:
    """Every type known, every value missing: merging onto it refuses what a composed tree lets pass, unknown keys and
    wrong types."""
    return _schema_of(whole, tuple(_classes(whole, tree)))


@cache
def _schema_of(whole: Any, classes: tuple[tuple[str, Any], ...]) -> DictConfig:
    schema = _writable(whole)
    for group, cls in classes:
        OmegaConf.update(schema, group, _writable(cls), merge=False)
    return schema


def _classes(whole: Any, tree: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted group and class of every node of the tree, a node before what is inside it."""
    for item in fields(whole):
        if is_dataclass(item.type):
            group = f"{prefix}{item.name}"
            cls = _choice(group, tree) if group in SELECTORS else item.type
            yield group, cls
            yield from _classes(cls, tree, f"{group}.")


def _choice(group: str, tree: DictConfig) -> Any:
    key, classes = SELECTORS[group]
    chosen = OmegaConf.select(tree, group)
    if isinstance(chosen, str):
        raise UserError(f"{group}={chosen} is a choice of a group; write {group.replace('.', '/')}={chosen}.")
    choice = str(OmegaConf.select(tree, f"{group}.{key}"))
    if group == "method":
        add_own_method(choice, OmegaConf.select(tree, "method.code"))
    if choice not in classes:
        own = "; a method of your own says `code: file.py:Class` in its YAML file" if group == "method" else ""
        raise UserError(f"{group}.{key}={choice} is not one of {', '.join(classes)}{own}.")
    return classes[choice]


def _writable(cls: Any) -> DictConfig:
    schema: DictConfig = OmegaConf.structured(cls)
    OmegaConf.set_readonly(schema, False)  # which a frozen dataclass's is
    return schema
