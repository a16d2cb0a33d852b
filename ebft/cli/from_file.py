"""A YAML file on the command line, `ebft-train my.yaml`: its keys are overrides in front of the others, which replace
them. A file may be anybody's, so it grants no permission, names no code, and sets nothing of Hydra's but folders."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ebft.cli.brought import PERMISSIONS, not_replaced
from ebft.cli.keys import GROUPS, SELECTORS, door_keys, types_of
from ebft.cli.overrides import FOLDERS
from ebft.cli.own import beside_overrides
from ebft.config.doors import is_door
from ebft.config.identity import CODE
from ebft.config.quoting import literal
from ebft.config.schema import UserError
from ebft.config.stored import read_config

ADVICE = "write KEY: VALUE lines, as they stand on a command line with ="
WITH_VALUE = ("--config-name", "-cn", "--config-path", "-cp", "--config-dir", "-cd")  # flags before a file of their own


def with_files(arguments: Sequence[str]) -> list[str]:
    """The command line with what its YAML files say in place of them. Raises UserError for one that is no mapping, and
    for what has to be typed."""
    files = [argument for place, argument in enumerate(arguments) if _is_file(argument, arguments[:place])]
    rest = [argument for argument in arguments if argument not in files]
    values = {key: value for file in files for key, value in _values(Path(file)).items()}
    return beside_overrides(rest, [_override(key, value) for key, value in not_replaced(values, rest).items()])


def _is_file(argument: str, before: Sequence[str]) -> bool:
    is_value = bool(before) and before[-1] in WITH_VALUE
    return (
        argument.endswith((".yaml", ".yml")) and not argument.startswith("-") and "=" not in argument and not is_value
    )


def _values(path: Path) -> dict[str, Any]:
    found = dict(_keys(read_config(path, ADVICE, "holds no keys and values")))
    if found.keys() >= {"method.name", "data.source"}:
        found = _of_run(found)
    for key, value in found.items():
        name = key.lstrip("+~")
        if (name in PERMISSIONS and value) or (name in door_keys() and is_door(value)):
            typed = f"{key}={literal(value)}"
            raise UserError(f"{path} has {typed}, which is yours to type; take it out of the file and add {typed}.")
        if name.startswith("hydra") and name not in FOLDERS:
            raise UserError(f"{path} has {key}, and a file sets none of Hydra's keys but {', '.join(FOLDERS)}.")
    return found


def _of_run(found: dict[str, Any]) -> dict[str, Any]:
    """Of a run's own config.yaml: its options first, and neither its permissions nor the hashes of its user's code."""
    options = {group: found.pop(f"{group}.{key}", None) for group, (key, _) in SELECTORS.items()}
    chosen = {group.replace(".", "/"): option for group, option in options.items() if option is not None}
    kept = {key: value for key, value in found.items() if key not in PERMISSIONS and not key.startswith(f"{CODE}.")}
    return chosen | kept


def _keys(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value; a mapping goes on with the key, unless the key itself holds one."""
    for name, value in node.items():
        key = f"{prefix}{name}"
        holds_mapping = dict in {getattr(kind, "__origin__", kind) for kind in types_of(key.lstrip("+"))}
        if isinstance(value, dict) and not holds_mapping:
            yield from _keys(value, f"{key}.")
        else:
            yield ("+experiment" if key == "experiment" else key), value


def _override(key: str, value: Any) -> str:
    """As it is typed; the name of an option stands without quotes."""
    names = value if isinstance(value, list) else [value]
    if key.lstrip("+").partition("@")[0].strip("/") in (*GROUPS, "sweep", "launcher", "mode") and all(
        isinstance(name, str) and re.fullmatch(r"[\w/.-]+", name) for name in names
    ):
        return f"{key}=[{','.join(names)}]" if isinstance(value, list) else f"{key}={value}"
    return f"{key}={literal(value)}"
