"""Configurations that lie in folders, which may be anybody's: read as the texts, numbers, lists and mappings that stand
there, and as nothing else."""

from pathlib import Path
from typing import Any

import yaml

from ebft.config.schema import UserError

LOADER = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)  # libyaml, where PyYAML was built with it, reads ten times as fast

# Keys of runs of older versions, by group: what each is called now, and what its values are.
RENAMED: dict[tuple[str, str], tuple[str, dict[Any, str]]] = {
    ("data", "drop_long_pairs"): ("bad_rows", {False: "refuse", True: "drop"})
}


def read_config(path: Path, advice: str, what: str = "is not a config of ebft") -> dict[str, Any]:
    """The mapping in a YAML file, with the names that keys have now. Raises UserError, which says what it is not and
    ends with the advice, for a file that holds none, holds anything but plain values, or cannot be read."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), LOADER)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {advice}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or no date such as 2024-13-45
        raise UserError(f"{path} {what}; {advice}.") from error
    if not isinstance(content, dict) or not is_plain(content):
        raise UserError(f"{path} {what}; {advice}.")
    return _renamed(content)


def _renamed(content: dict[str, Any]) -> dict[str, Any]:
    for (group, old), (new, values) in RENAMED.items():
        node = content.get(group)
        if isinstance(node, dict) and isinstance(node.get(old), bool):
            node.setdefault(new, values[node.pop(old)])
    return content


def is_plain(value: Any, levels: int = 16, seen: set[int] | None = None) -> bool:
    """Whether a value and all inside it could stand in JSON, texts for keys, at most so many levels deep. A YAML file
    also makes dates, sets, and lists that stand in several places, by which a short one unfolds to any size."""
    seen = set() if seen is None else seen
    if not isinstance(value, list | dict):
        return value is None or isinstance(value, bool | int | float | str)
    if not levels or id(value) in seen:
        return False
    seen.add(id(value))
    if isinstance(value, list):
        return all(is_plain(item, levels - 1, seen) for item in value)
    return all(isinstance(key, str) and is_plain(item, levels - 1, seen) for key, item in value.items())
