"""A user's own config folder and what it brings: methods of their own, beside the built-in ones."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from ebft.config import doors
from ebft.config.methods import METHODS
from ebft.config.schema import UserError

BUILT_IN = frozenset(METHODS)
SEARCHPATH = "hydra.searchpath"
FLAGS = ("--config-dir", "-cd")


def add_own_method(name: str, code: object) -> None:
    """Make the class that `method.code` names, or an installed package offers under the name, one of the choices of
    `method`. Raises UserError for code that is no method, and for a built-in method that is given code."""
    if code is None:
        code = None if name in METHODS else doors.installed("methods").get(name)
    if code is None:
        return
    if name in BUILT_IN:
        raise UserError(f"method.code={code} belongs to a method of your own; give it a name other than {name}.")
    from ebft.methods.own import own_config  # which loads torch, as the user's file does

    METHODS[name] = own_config(doors.load(str(code), "method.code"), str(code))


def add_chosen_method(overrides: Sequence[str]) -> None:
    """Does what `add_own_method` does for the `method=NAME` of a command line that Hydra would not compose, so that
    its keys can be suggested. Raises UserError as `add_own_method`."""
    chosen = {override.partition("=")[2] for override in overrides if override.startswith("method=")}
    folders = re.findall(r"file://([^\"]+)", " ".join(split_searchpath(overrides)[1]))
    for path in (Path(folder) / "method" / f"{name}.yaml" for folder in folders for name in chosen):
        content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
        if isinstance(content, dict) and "name" in content:
            add_own_method(str(content["name"]), content.get("code"))


def with_config_dirs(arguments: Sequence[str]) -> list[str]:
    """The command line with every --config-dir, and the folders that installed packages offer under `ebft.conf`, as
    Hydra's own override, which is understood wherever a configuration is composed. Raises UserError for a folder that
    is not there."""
    folders, rest = [], []
    given = iter(arguments)
    for argument in given:
        flag, _, value = argument.partition("=")
        if flag not in FLAGS:
            rest.append(argument)
            continue
        folder = Path(value or next(given, ""))
        if not str(folder) or not folder.is_dir():
            raise UserError(
                f"{flag}={folder} is not a folder; name one that has method/, optimizer/ or the like in it."
            )
        folders.append(f"file://{os.path.abspath(folder)}")
    folders += [f"pkg://{package}" for package in doors.installed("conf").values()]
    return beside_overrides(rest, [searchpath(folders)]) if folders else rest


def beside_overrides(arguments: Sequence[str], new: Sequence[str]) -> list[str]:
    """The command line with further overrides before its own: behind a flag of Hydra's, argparse would take them for
    none."""
    place = next((place for place, argument in enumerate(arguments) if re.match(r"[^-]\S*=", argument)), len(arguments))
    return [*arguments[:place], *new, *arguments[place:]]


def split_searchpath(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command line without Hydra's search path, and that."""
    found = [argument for argument in arguments if argument.startswith(f"{SEARCHPATH}=")]
    return [argument for argument in arguments if argument not in found], found


def searchpath(folders: Sequence[str]) -> str:
    return f"{SEARCHPATH}=[" + ",".join(f'"{folder}"' for folder in folders) + "]"
