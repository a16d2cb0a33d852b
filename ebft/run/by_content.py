"""What is kept on this machine (output/cache.py) under a hash of all that it depends on: files that end with their
checksum and say which key they are of. Whatever else is found there is none, and is made anew."""

import os
import pickle
import platform
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache as cached
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from ebft.config.schema import RunFailure, UserError
from ebft.output import cache
from ebft.run import checked

KEPT = ".pt"
ENTRIES = "[0-9a-f]" * 64 + KEPT  # EBFT_CACHE may be a folder with files of the user's own: no others are removed
HALF_WRITTEN = re.compile(r"\.?[0-9a-f]+\.[0-9a-f]{32}(?:\.partial)?")
STALE_SECONDS = 3600.0
LIBRARIES = ("torch", "transformers", "tokenizers", "numpy")

Found = TypeVar("Found")


def find(kind: str, key: str | None, made: Callable[[Any], Found]) -> Found | None:
    """What `made` makes of the state that is kept under the key; None also for one that was damaged, exchanged or put
    there by somebody else since."""
    path = _path(kind, key)
    try:
        if path is None or not cache.is_own(path):
            return None
        state = checked.read(path)
        if state["key"] != key:
            return None
        found = made(state)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, EOFError, pickle.UnpicklingError):
        return None  # whatever it is, it is not what `keep` wrote
    with suppress(OSError):  # of a disk that may only be read
        os.utime(path)  # the time of its last use, by which old ones are removed
    return found


def keep(kind: str, key: str | None, state: Mapping[str, Any], most_bytes: int | None = None) -> None:
    """Put it there in one rename, and remove what was not used for longest until the kind has `most_bytes`. A cache
    that cannot be written costs time alone."""
    path = _path(kind, key)
    if path is None:
        return
    with suppress(OSError, RunFailure, UserError):  # of a home that may only be read, or that is full
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path.parent)
        own = path.with_suffix(f".{uuid4().hex}")  # of a process beside this one
        checked.write(own, {**state, "key": key})
        os.replace(own, path)
        if most_bytes is not None:
            _forget(path.parent, most_bytes)


def _remove_stale(folder: Path) -> None:
    """What processes that were killed have left half-written. One that still writes after STALE_SECONDS without a byte
    loses its file, and with it time alone."""
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # a process beside this one may remove the same ones
            is_half_written = HALF_WRITTEN.fullmatch(path.name) is not None and cache.is_own(path)
            if is_half_written and time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()


def _forget(folder: Path, most_bytes: int) -> None:
    """A process beside this one may remove the same ones, and whoever reads one has it open."""
    entries = {path: path.stat() for path in folder.glob(ENTRIES) if cache.is_own(path)}
    total = 0
    for path, entry in sorted(entries.items(), key=lambda item: item[1].st_mtime, reverse=True):
        total += entry.st_size
        if total > most_bytes:
            path.unlink(missing_ok=True)


def _path(kind: str, key: str | None) -> Path | None:
    folder = cache.folder(kind)
    return None if key is None or folder is None else folder / f"{key}{KEPT}"


@cached
def package_digest() -> str:
    """Of this package's source."""
    found = sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def versions() -> list[str]:
    """Of Python and of the libraries that figures and rows depend on."""
    return [platform.python_version(), *(metadata.version(name) for name in LIBRARIES)]
