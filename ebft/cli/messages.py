"""What Hydra and OmegaConf object to, in one sentence that names the key, the fix and the nearest valid name."""

import os
import re
import types
import typing
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    GrammarParseError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from ebft.cli.help import SHARED
from ebft.cli.keys import GROUPS, SWEEP_GROUPS, all_keys, nearest, type_of, types_of
from ebft.cli.other_names import OTHER_NAMES
from ebft.cli.overrides import TEXTS
from ebft.cli.own import add_chosen_method
from ebft.config.schema import EvaluateConfig, TrainConfig
from ebft.config.sweeps import SweepConfig

SHOWN_CHARACTERS = 200  # of a value
MAPPINGS = (
    "model.config_overrides",
    "sweep.variants",
    "sweep.reported",
    "launcher.parameters",
    "eval.sets",
)  # whose keys are the user's
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a string", dict: "a mapping, as {a: 1}"}


def explain(error: Exception, overrides: list[str], tree: DictConfig | None = None, is_evaluation: bool = False) -> str:
    """The sentence for an exception of Hydra's or OmegaConf's while composing `overrides`, or while typing the composed
    `tree`."""
    cause = _cause(error)
    match cause:
        case ConfigAttributeError() | ConfigKeyError():
            add_chosen_method(overrides)
            whole = EvaluateConfig if is_evaluation else TrainConfig
            keys = dict.fromkeys([str(cause.full_key), *_unknown(overrides)])
            return " ".join(_unknown_key(key, whole, is_typed=tree is None) for key in keys)
        case MissingMandatoryValue():
            return f"{cause.full_key} is missing; add {cause.full_key}=VALUE."
        case ValidationError() if tree is not None:
            return wrong_type(str(cause.full_key), tree)
        case GrammarParseError():
            return (
                f"{cause.full_key} holds ${{ without the name of a key behind it, as ${{seed}} has; write \\${{ where "
                "the text itself is meant."
            )
        case OmegaConfBaseException():
            return f"{cause.full_key}: {_first_line(cause)}."
        case MissingConfigException():
            return _unknown_option(cause, overrides)
        case OverrideParseException():
            advice = _path_advice(str(cause.override), is_evaluation)
            return f"{cause.override} is not of the form KEY=VALUE; {advice}."
        case ValueError():
            return _not_an_option(overrides) or _other(cause)
        case _:
            return _other(cause)


def _path_advice(argument: str, is_evaluation: bool) -> str:
    """How to write what stands alone on a command line: a path that exists wants its key."""
    path, is_folder = Path(argument), os.path.isdir(argument)  # false as well for what no path can be
    if is_folder and is_evaluation:
        return f"write model.path={argument}, or 'models=[base,{argument}]' for several in one table"
    if is_folder:
        return (
            f"write resume={argument} to go on with a run, model.path={argument} to start from its model, "
            f"sweep.dir={argument} for a sweep"
        )
    for source in ("jsonl", "parquet"):
        if "=" not in argument and f".{source}" in path.suffixes:
            return f"write data={source} data.path={argument}"
    return "put a value with special characters in quotes: 'KEY=\"VALUE\"'"


def culprit(error: OmegaConfBaseException) -> str:
    """The dotted key that an exception of OmegaConf's is about, of a list's item the list."""
    return str(_cause(error).full_key).partition("[")[0]


def _cause(error: Any) -> Any:
    return error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error


def _unknown(overrides: list[str]) -> list[str]:
    """The keys of overrides that no configuration has: Hydra stops at the first of them."""
    known = {*all_keys(), *all_keys(EvaluateConfig), *all_keys(SweepConfig), *GROUPS, *SWEEP_GROUPS}
    keys = [override.partition("=")[0].lstrip("+~") for override in overrides if re.match(r"[+~]*[\w.]+=", override)]
    users_own = ("hydra.", *(f"{mapping}." for mapping in MAPPINGS))
    return [key for key in keys if key not in known and not key.startswith(users_own)]


def _unknown_key(key: str, whole: Any = TrainConfig, is_typed: bool = True) -> str:
    """The sentence for a key that a configuration has not; it stands on the command line, or an option's file set
    it."""
    group = key.partition(".")[0]
    keys = all_keys(SweepConfig if group in SWEEP_GROUPS else whole)
    if owners := keys.get(key):
        choice = "that" if len(owners) == 1 else "one of them"
        source = "the key out" if is_typed else "out what sets it, the key or an option such as trainer=paper_ebft"
        return f"{key} belongs to {' or '.join(owners)}; choose {choice} or leave {source}."
    if key.startswith(tuple(f"{mapping}." for mapping in MAPPINGS)):
        return f"{key} is not set yet; write +{key}=VALUE to add it."
    if group in SWEEP_GROUPS and (key in keys or key == group):
        return f"{key} belongs to ebft-sweep; leave it out (for a plan, ebft-train has plan_only=true)."
    if key in OTHER_NAMES:
        return f"{key} is called otherwise here; set {OTHER_NAMES[key]}."
    close = nearest(key, [*keys, *GROUPS])
    if close:
        return f"{key} is not a key of the configuration; did you mean {close}?"
    there = [name for name in keys if name.startswith(f"{group}.")]
    if group in SWEEP_GROUPS and there:
        return f"{key} is not a key of the configuration; there are {', '.join(there)}."
    where = "ebft-sweep --help" if group in SWEEP_GROUPS else "ebft-train --cfg job for all keys"
    return f"{key} is not a key of the configuration; see {where}."


def _unknown_option(error: MissingConfigException, overrides: list[str]) -> str:
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    if group == "optimizer" and f"method={option}" in overrides and f"optimizer={option}" not in overrides:
        return (
            f"method={option} has no optimizer/{option}.yaml beside its method/{option}.yaml; add one, such as "
            "`defaults: [sft, _self_]`, or choose optimizer=sft."
        )
    options = sorted({*(error.options or ())} - {*SHARED})
    if not options:
        return f"There is no configuration named {error.missing_cfg_file}."
    close = nearest(option, options)
    hint = f"did you mean {close}? The options" if close else "the options"
    return f"{group}={option} does not exist; {hint} are {', '.join(options)}."


def _not_an_option(overrides: list[str]) -> str | None:
    """The sentence for tracker=null and the like, of which Hydra says neither group nor value."""
    parse = OverridesParser.create().parse_override
    for override in overrides:
        group = override.partition("=")[0].lstrip("+~")
        if group in (*GROUPS, *SWEEP_GROUPS) and not isinstance(parse(override).value(), (str, list)):
            command = "ebft-sweep" if group in SWEEP_GROUPS else "ebft-train"
            return f"{override} names no option of {group}; {command} --help lists them."
    return None


def wrong_type(key: str, tree: DictConfig) -> str:
    # Of a list, name the whole. Of the only list with two types of item OmegaConf tells the item's index alone.
    key = "features.feature_layers" if key.isdigit() else key.partition("[")[0]
    return f"{key}={_shown(OmegaConf.select(tree, key))} is not {_kind(type_of(key, tree))}."


def _shown(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, ListConfig):
        return f"[{','.join(_shown(item) for item in value)}]"
    if isinstance(value, DictConfig):
        return f"{{{', '.join(f'{_shown(key)}: {_shown(item)}' for key, item in value.items())}}}"
    text = str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _kind(annotation: Any) -> str:
    """`int | None` -> 'a whole number or null'; `list[int]` -> 'a list of whole numbers'; `dict[str, int]` -> 'a
    mapping to whole numbers'."""
    if isinstance(annotation, types.UnionType):
        return " or ".join("null" if part is types.NoneType else _kind(part) for part in typing.get_args(annotation))
    if typing.get_origin(annotation) is list:
        (item,) = typing.get_args(annotation)
        return f"a list of {KINDS[item].partition(' ')[2] if item in KINDS else 'number'}s in brackets"
    if typing.get_origin(annotation) is dict and (item := typing.get_args(annotation)[1]) in (int, float):
        return f"a mapping to {KINDS[item].partition(' ')[2]}s, as {{a: 1}}"
    return KINDS.get(
        typing.get_origin(annotation) or annotation,
        f"of the type {annotation}" if annotation else "of a type that keys have",
    )


def _other(error: Exception) -> str:
    """Refusals that Hydra words in prose only."""
    message = " ".join(str(error).split())
    if found := re.search(r"Ambiguous value for argument '(.+?)' 1\.|Sweep parameters '(.+?)' requires", message):
        several = found[1] or found[2]
        key = several.partition("=")[0]
        if key.partition(".")[0] in SWEEP_GROUPS:
            return f"{several} lists several values, and ebft-sweep takes one; put brackets around a list: KEY=[1,2]."
        if types_of(key) in TEXTS:
            return (
                f"{key} lists several values; add --multirun to run each, or put a text that has a comma in quotes: "
                f"'{key}=\"a, b\"'."
            )
        return f"{several} lists several values; add --multirun to run each, or put brackets around a list: KEY=[1,2]."
    if found := re.search(r"Could not delete from config\. '(\S+)' does not exist", message):
        return _unknown_key(found[1])
    if found := re.search(r"Could not override '(\S+)'\. No match in the defaults list\. .*use (\S+)", message):
        return f"{found[1]} has no default to replace; write {found[2]}."
    if found := re.search(r"An item is already at '(\S+)'\. Either remove \+ prefix: '(.+?)'", message):
        return f"{found[1]} has a value already; leave out the plus: {found[2]}."
    return message if message.endswith(".") else f"{message}."


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].removesuffix(".")
