"""The reference of every key, from the dataclasses of the configuration and the comments of conf/: the page that
`make docs` builds as keys.md.

python scripts/key_reference.py      # prints it
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import yaml

from ebft.cli.help import SHARED
from ebft.cli.keys import SELECTORS, fields_of
from ebft.config.schema import EvaluateConfig
from ebft.config.stored import LOADER
from ebft.config.sweeps import SweepConfig

CONF = Path(__file__).parents[1] / "conf"
TYPES = {int: "whole number", float: "number", bool: "true, false", str: "text", NoneType: "null", Any: "value"}
HEAD = """# Reference of every key

Made from the code when this page was built: types and limits from `ebft/config`, values and words from `conf/`.
`ebft-train --cfg job`, `ebft-eval --cfg job` and `ebft-sweep --cfg job` print those of one command line. A key that
only some options have, or for which they have values of their own, names them.
"""


@dataclass(frozen=True)
class Described:
    """A key of the configuration."""

    name: str
    kind: str
    default: str
    what: str
    options: tuple[str, ...]  # that have it, as method=ebft; none: all


def main() -> None:
    print(page())


def page() -> str:
    """In Markdown, a section for every group."""
    groups: dict[str, list[Described]] = {}
    for key in described():
        groups.setdefault(_section(key.name), []).append(key)
    return HEAD + "".join(_group(name, keys) for name, keys in groups.items())


@cache
def described() -> list[Described]:
    """Every key of ebft-train, ebft-eval and ebft-sweep, in the order of the dataclasses; once for all options that say
    the same of it."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for whole in (EvaluateConfig, SweepConfig):
        for name, item, option in fields_of(whole):
            found.setdefault((name, _kind(item), *_said(name, option)), []).append(option)
    order = [key[0] for key in found]
    keys = sorted(found, key=lambda key: order.index(key[0]))  # a key's lines together
    return [Described(*key, _owners(key[0], found[key])) for key in keys]


def _owners(name: str, options: list[str]) -> tuple[str, ...]:
    """Those of a key's options, where it is not all of the group's."""
    group = name.rpartition(".")[0]
    return () if len(options) == (len(SELECTORS[group][1]) if group in SELECTORS else 1) else tuple(options)


def _said(name: str, option: str) -> tuple[str, str]:
    """Value and words of a key, as the option that has it, or the default one, says them."""
    group, _, last = name.rpartition(".")
    if group in SELECTORS and last == SELECTORS[group][0]:
        return "", f"which option it is; choose it as `{group.replace('.', '/')}=`"
    lines = [line for path in _files(group, option.partition("=")[2]) for line in _lines(path) if line[0] == last]
    return lines[0][1] if lines else "", next((comment for _, _, comment in lines if comment), "")


def _files(group: str, option: str) -> list[Path]:
    """The files of a group: that of an option and what it inherits from, those of the default, and all others."""
    if not group:
        return [CONF / f"{name}.yaml" for name in ("train", "eval", "sweep")]
    folder = CONF / group.replace(".", "/")
    default = folder / f"{_default_options().get(group, 'none')}.yaml"
    others = [path for name in SHARED if (path := folder / f"{name}.yaml").is_file()]
    return list(
        dict.fromkeys([*_chain(folder / f"{option}.yaml"), *others, *_chain(default), *sorted(folder.glob("*.yaml"))])
    )


def _chain(path: Path) -> list[Path]:
    """A file and those of its folder that it inherits from."""
    if not path.is_file():
        return []
    parents = [name for name in _read(path).get("defaults", []) if name != "_self_"]
    return [
        path,
        *(file for name in parents if isinstance(name, str) for file in _chain(path.with_name(f"{name}.yaml"))),
    ]


def _default_options() -> dict[str, str]:
    lists = [_read(CONF / f"{name}.yaml")["defaults"] for name in ("train", "sweep")]
    chosen = {
        group: option for items in lists for item in items if isinstance(item, dict) for group, option in item.items()
    }
    return chosen | {"optimizer": chosen["method"]}


@cache
def _lines(path: Path) -> tuple[tuple[str, str, str], ...]:
    """Key, value and comment of every key of a file."""
    text, values = path.read_text(encoding="utf-8"), _read(path)
    found = []
    for name, value, comment in re.findall(r"^(\w+):(.*?)(?:  # (.*))?$", text, re.MULTILINE):
        is_below = value.strip() in ("", "|")
        shown = yaml.safe_dump(values[name], default_flow_style=True).strip() if is_below else value.strip()
        found += [(name, shown, comment)] if name != "defaults" else []
    return tuple(found)


@cache
def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), LOADER)
    return content


def _kind(item: Any) -> str:
    limits = item.metadata
    if "choices" in limits:
        names = [str(choice).lower() if isinstance(choice, bool) else choice for choice in limits["choices"]]
        names += ["null"] if NoneType in get_args(item.type) else []
        return ", ".join(names) + (", or your own code" if limits["door"] else "")
    kind = "your own code, `file.py:Name`" if limits.get("door") else _type(item.type)
    if limits.get("door") and NoneType in get_args(item.type):
        kind += " or null"
    bound = [f"at least {limits['at_least']:g}"] if "at_least" in limits else []
    bound += [f"above {limits['above']:g}"] if "above" in limits else []
    return f"{kind}, {bound[0]}" if bound else kind


def _type(annotation: Any) -> str:
    if get_origin(annotation) in (UnionType, Union):
        return " or ".join(map(_type, get_args(annotation)))
    if get_origin(annotation) is list:
        return "list of " + " or ".join(
            f"{_type(part)}s" for part in get_args(get_args(annotation)[0]) or get_args(annotation)
        )
    if get_origin(annotation) is dict:
        return "mapping"
    return TYPES[annotation]


def _section(name: str) -> str:
    group = name.rpartition(".")[0]
    return group.replace(".", "/") or "top level"


def _group(name: str, keys: list[Described]) -> str:
    rows = "".join(_row(key) for key in keys)
    return f"\n## {name}\n\n{_options(name)}| key | is | value | what it does |\n| --- | --- | --- | --- |\n{rows}"


def _row(key: Described) -> str:
    only = f" ({', '.join(f'`{option}`' for option in key.options)})" if key.options else ""
    value = "to be given" if key.default == "???" else f"`{key.default}`" if key.default else ""
    cells = (f"`{key.name}`", key.kind, value, key.what + only)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _options(group: str) -> str:
    """The options of a group, each with line 2 of its file."""
    folder = CONF / group
    paths = [path for path in sorted(folder.glob("*.yaml")) if path.stem not in SHARED] if folder.is_dir() else []
    if not paths:
        return ""
    rows = "".join(f"| `{group}={path.stem}` | {_meaning(path)} |\n" for path in paths)
    return f"| option | what it is |\n| --- | --- |\n{rows}\n"


def _meaning(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[1].removeprefix("# ").replace("|", "\\|")


if __name__ == "__main__":
    main()
