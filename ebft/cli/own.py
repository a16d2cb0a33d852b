"""A user's own config folder and what it brings: methods of their own, beside the built-in ones."""

import os
from collections.abc import Sequence
from pathlib import Path

from ebft.config import doors
from ebft.config.methods import METHODS
from ebft.config.schema import UserError

BUILT_IN = frozenset(METHODS)
FLAGS = ("--config-dir", "-cd")


def add_own_method(name: str, code: object) -> None:
    """Make the class that `method.code` names, or an installed package offers under the name, one of the choices of
    `method`. Raises UserError for code that is no method, and for a built-in method that is given code."""
    if code is None:
        code = None if name in METHODS else doors.installed("ebft.methods").get(name)
    if code is None:
        return
    if name in BUILT_IN:
        raise UserError(f"method.code={code} belongs to a method of your own; give it a name other than {name}.")
    from ebft.methods.own import own_config  # which loads torch, as the user's file does

    METHODS[name] = own_config(doors.load(str(code), "method.code"), str(code))


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
    folders += [f"pkg://{package}" for package in doors.installed("ebft.conf").values()]
    return [*rest, searchpath(folders)] if folders else rest


def searchpath(folders: Sequence[str]) -> str:
    return "hydra.searchpath=[" + ",".join(f'"{folder}"' for folder in folders) + "]"
