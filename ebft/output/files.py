"""Writing so that a kill or a full disk never leaves something half-written under its final name, and rows of JSON.

Unfinished work lies beside its target under a hidden name (`.NAME.partial`) and takes the final name in one rename.
"""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ebft.config.schema import RunFailure, UserError


def partial_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file that becomes `path` when the block ends without an error; an older `path` stays until then. RunFailure on
    a full disk."""
    partial = partial_name(path)
    with naming_full_disk(path):
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        sync(path.parent)


def atomic_write_text(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        file.write(text.encode())


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes `path` when the block ends without an error. RunFailure on a full disk."""
    partial, replaced = partial_name(path), path.with_name(f".{path.name}.replaced")
    shutil.rmtree(partial, ignore_errors=True)
    with naming_full_disk(path):
        try:
            partial.mkdir(parents=True)
            yield partial
            for entry in [*partial.rglob("*"), partial]:
                sync(entry)
            if path.exists():
                os.replace(path, replaced)  # a rename cannot replace a folder that is not empty
            os.replace(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(replaced, ignore_errors=True)
        sync(path.parent)


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Waits for other processes inside such a block of the same `path`, a file of no content that stays."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """One JSON object on a line of its own, on disk when this returns. ValueError on NaN and infinity, which JSON does
    not have."""
    line = json.dumps(row, allow_nan=False, ensure_ascii=False)
    with naming_full_disk(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def read_rows(path: Path, mentioning: str = "") -> list[dict[str, Any]]:
    """The rows of a JSONL file whose text holds `mentioning`, none where there is no file."""
    return [_parse(path, number, line) for number, line in enumerate(whole_lines(path), start=1) if mentioning in line]


def whole_lines(path: Path) -> list[str]:
    """The lines of a file, none where there is no file. A last line without its newline was cut off by a kill and is
    left out."""
    if not path.exists():
        return []
    *lines, _cut_off = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return lines


def keep_rows(path: Path, last_step: int, kind: str = "") -> None:
    """Drops the rows with `step` above `last_step` that hold a key beginning with `kind`, in one rename."""
    if path.exists():
        kept = [
            row for row in read_rows(path) if row["step"] <= last_step or not any(key.startswith(kind) for key in row)
        ]
        atomic_write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))


def _parse(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{number} is not a JSON object ({error.msg}); remove the line.") from error
    if not isinstance(row, dict):
        raise UserError(f"{path}:{number} is not a JSON object; remove the line.")
    return row


def sync(path: Path) -> None:
    """Flushes a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Turns a full disk, however a library reports it, into a RunFailure that names the file; passes every other error
    on."""
    try:
        yield
    except Exception as error:
        if _is_full_disk(error):
            raise RunFailure(
                f"The disk is full: {path} could not be written; free some space and run again with resume=auto."
            ) from error
        raise


def _is_full_disk(error: BaseException | None) -> bool:
    """Torch reports a full disk with an error of its own on top of the OSError, safetensors with the number in the
    text."""
    while error is not None:
        if (
            isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        ) or f"os error {errno.ENOSPC}" in str(error):
            return True
        error = error.__context__
    return False
