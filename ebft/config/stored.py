"""Files in folders that may be anybody's; and configurations in them, read as the texts, numbers, lists and mappings
that stand there, and as nothing else."""

import errno
import os
import stat
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


LEVELS = 16  # of lists and mappings, one in the other
MOST_BYTES, MOST_CONFIG_BYTES = 1 << 30, 1 << 24  # that are read at once


def bytes_of(path: Path, most: int = MOST_BYTES) -> bytes:
    """What a file holds. OSError for what is none, such as a pipe that nobody writes or a device without an end, and
    for one that is larger than `most`."""
    found = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(found)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a file", str(path))
        if status.st_size > most:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    except OSError:
        os.close(found)
        raise
    with os.fdopen(found, "rb") as file:
        return file.read()


def text_of(path: Path, errors: str = "strict") -> str:
    """As `bytes_of`. ValueError for what is no UTF-8."""
    return bytes_of(path).decode(errors=errors)


def read_config(path: Path, advice: str, what: str = "is not a config of ebft") -> dict[str, Any]:
    """The mapping in a YAML file, with the names that keys have now. Raises UserError, which says what it is not and
    ends with the advice, for a file that holds none, holds anything but plain values, or cannot be read."""
    try:
        written = bytes_of(path, MOST_CONFIG_BYTES)
        content = yaml.load(written, LOADER) if _can_be_loaded(written) else None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {advice}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or no date such as 2024-13-45
        raise UserError(f"{path} {what}; {advice}.") from error
    if not isinstance(content, dict) or not is_plain(content):
        raise UserError(f"{path} {what}; {advice}.")
    return _renamed(content)


def _can_be_loaded(written: bytes) -> bool:
    """Whether YAML is nested no deeper than LEVELS and takes nothing up by its anchor. The loader recurses in C, which
    ended the process at 50,000 brackets, and a merge of merges unfolds to any size."""
    depth = 0
    for event in yaml.parse(written, LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > LEVELS or isinstance(event, yaml.AliasEvent):
            return False
    return True


def _renamed(content: dict[str, Any]) -> dict[str, Any]:
    for (group, old), (new, values) in RENAMED.items():
        node = content.get(group)
        if isinstance(node, dict) and isinstance(node.get(old), bool):
            node.setdefault(new, values[node.pop(old)])
    return content


def is_plain(value: Any, levels: int = LEVELS, seen: set[int] | None = None) -> bool:
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


def data_file(path: str) -> Path:
    """The path of rows on disk. Raises UserError where there is no file."""
    if not Path(path).is_file():
        raise UserError(f"{path} is not a file; correct data.path or data.validation_path.")
    return Path(path)
