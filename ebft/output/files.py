"""Writing so that a kill or a full disk never leaves something half-written under its final name, and rows of JSON.

Unfinished work lies beside its target under a hidden name (`.NAME.partial`) and takes the final name in one rename.

A folder may be anybody's, and a link in it lead anywhere: nothing is written through one. Files are opened by
`descriptor` and folders made by `make_folder`, which refuse links; a rename replaces them.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ebft.config.schema import RunFailure, UserError
from ebft.config.stored import text_of
from ebft.output.visible import is_plain, visible

LOCK = ".lock"  # in a folder that a process writes
PATIENCE_SECONDS = 60.0  # for another process to leave a folder: a job's earlier one may be saving

_held: set[Path] = set()  # folders that were this process's


def partial_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def descriptor(path: Path, flags: int) -> int:
    """The descriptor of a file that is opened for writing, and made where there is none. Raises UserError for a link,
    symbolic or hard, and for what is no plain file."""
    try:
        found = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):  # a link, a folder, a pipe that nobody reads
            raise _refused(path) from error
        raise
    status = os.fstat(found)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(found)
        raise _refused(path)
    return found


def make_folder(path: Path) -> Path:
    """A folder inside that of a run, a sweep or a comparison, made where there is none. Raises UserError for a link and
    for a file, WriteFailure where the system refuses."""
    with writing(path), suppress(FileExistsError):
        path.mkdir()
    if path.is_symlink() or not path.is_dir():
        raise _refused(path)
    return path


def check_name(path: Path, key: str) -> None:
    """Raises UserError for a path to write that has control characters or bytes that are no UTF-8: a library that saves
    a model refuses them, when training was paid for."""
    if not is_plain(str(path.absolute())):
        raise UserError(
            f"{key}={str(path.absolute())!r} has control characters in its name, or bytes that are no UTF-8; choose "
            "another name."
        )


def refuse_links(paths: Iterable[Path]) -> None:
    """Raises UserError for the first that is one."""
    for path in paths:
        if path.is_symlink():
            raise _refused(path)


def _refused(path: Path) -> UserError:
    has_names = path.is_file() and path.stat().st_nlink > 1
    kind = "a link" if path.is_symlink() or has_names else "in the way of what is written there"
    return UserError(f"{path} is {kind}, and nothing is written through it; remove it, or choose another folder.")


def remove(path: Path) -> None:
    """Removes a file, a link or a folder with all that is in it; what a link leads to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file that becomes `path` when the block ends without an error; an older `path` stays until then. WriteFailure
    where the system refuses."""
    with replacing(path) as partial, os.fdopen(descriptor(partial, os.O_WRONLY), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file to fill, which becomes `path` when the block ends without an error. WriteFailure where the system
    refuses; UserError for a device or a pipe at `path`, whose place no file may take: as root it would be taken."""
    partial = partial_name(path)
    with writing(path):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path} is there and is no file; choose another name.")
        remove(partial)  # of a process that was killed
        try:
            os.close(descriptor(partial, os.O_WRONLY | os.O_EXCL))
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        sync(path.parent)


def atomic_write_text(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        file.write(text.encode())


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes `path` when the block ends without an error. WriteFailure where the system
    refuses."""
    partial, replaced = partial_name(path), path.with_name(f".{path.name}.replaced")
    with writing(path):
        remove(partial)  # of a process that was killed
        remove(replaced)
        try:
            partial.mkdir(parents=True)
            yield partial
            for entry in [*partial.rglob("*"), partial]:
                sync(entry)
            if path.exists() or path.is_symlink():
                os.replace(path, replaced)  # a rename cannot replace a folder that is not empty
            os.replace(partial, path)
        finally:
            for leftover in (partial, replaced):
                with suppress(OSError):  # what went wrong above is what the user should hear of
                    remove(leftover)
        sync(path.parent)


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Waits for other processes inside such a block of the same `path`, a file whose content is nobody's and stays."""
    with os.fdopen(descriptor(path, os.O_RDWR), "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def alone(folder: Path, seconds: float | None = None) -> Iterator[None]:
    """A block in which no other process is in such a block of the same folder. UserError where one still is after so
    many seconds, by default PATIENCE_SECONDS; a lock ends with its process, however that ends."""
    seconds = PATIENCE_SECONDS if seconds is None else seconds
    deadline, is_told = time.monotonic() + seconds, False
    while (lock := _locked(folder / LOCK)) is None:
        if time.monotonic() > deadline:
            raise UserError(
                f"{folder} is another process's, which has not left it within {seconds:g} s; wait for it, or choose "
                "another folder."
            )
        if not is_told and seconds > 1:
            print(visible(f"{folder} is another process's; waiting up to {seconds:g} s for it."), file=sys.stderr)
            is_told = True
        time.sleep(0.1)
    _held.add(folder.absolute())
    try:
        yield
    finally:
        with suppress(OSError):  # of storage that fails, of which the user has heard
            (folder / LOCK).unlink()
        fcntl.flock(lock, fcntl.LOCK_UN)  # for copies in forked processes too
        os.close(lock)


def was_alone(folder: Path) -> bool:
    """Whether this process has been in such a block of the folder."""
    return folder.absolute() in _held


def _locked(path: Path) -> int | None:
    """A descriptor with the lock of the file that has that name now; None where another process is in the way."""
    found = descriptor(path, os.O_RDWR)
    try:
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(found), os.stat(path)):
            return found
    except (BlockingIOError, FileNotFoundError):  # held, or removed by whoever held it
        pass
    os.close(found)
    return None


def append(path: Path, text: str) -> None:
    """Text at the end of a file. WriteFailure where the system refuses."""
    with writing(path), appending(path) as file:
        file.write(text.encode())


def appending(path: Path) -> BinaryIO:
    """A file that is written to at its end."""
    return os.fdopen(descriptor(path, os.O_WRONLY | os.O_APPEND), "ab")


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """One JSON object on a line of its own. ValueError on NaN and infinity, which JSON does not have."""
    append(path, json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n")


def read_rows(path: Path, mentioning: str = "") -> list[dict[str, Any]]:
    """The rows of a run's JSONL file whose text holds `mentioning`, none where there is no file. Raises UserError for a
    line that is no row."""
    return [_parse(path, number, line) for number, line in enumerate(whole_lines(path), start=1) if mentioning in line]


def whole_lines(path: Path) -> list[str]:
    """The lines of a file, none where there is no file. A last line without its newline was cut off by a kill and is
    left out. Raises UserError for what cannot be read."""
    if not path.exists():
        return []
    try:
        *lines, _cut_off = text_of(path, errors="replace").split("\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); remove it, or put that right.") from error
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
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, or a number of more digits than Python reads
        why = "nested too deep" if isinstance(error, RecursionError) else getattr(error, "msg", "a number too long")
        raise UserError(f"{path}:{number} is not a JSON object ({why}); remove the line.") from error
    if not isinstance(row, dict):
        raise UserError(f"{path}:{number} is not a JSON object; remove the line.")
    if not isinstance(row.get("step"), int):
        raise UserError(f"{path}:{number} has no step, so it is no row of a run; remove the line.")
    return row


def sync(path: Path) -> None:
    """Flushes a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class WriteFailure(RunFailure):
    """A file that the system did not let us write."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system refuses while a file is written, however a library reports it, into a WriteFailure that
    names the file; passes every other error on."""
    try:
        yield
    except (UserError, RunFailure):  # which name theirs
        raise
    except Exception as error:
        number = _error_number(error)
        if number is None:
            raise
        if number in (errno.ENOSPC, errno.EDQUOT):
            message = f"The disk is full: {path} could not be written; free some space"
        else:
            message = f"{path} could not be written ({os.strerror(number)}); put that right"
        raise WriteFailure(f"{message} and run again with resume=auto.") from error


def reason(error: BaseException) -> str:
    """Why the system refused, in its own words."""
    number = _error_number(error)
    return str(error) if number is None else os.strerror(number)


def _error_number(error: BaseException | None) -> int | None:
    """The system's number of an error. Torch reports it with an error of its own on top of the OSError, safetensors
    in the text."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        if found := re.search(r"os error (\d+)", str(error)):
            return int(found[1])
        error = error.__context__
    return None
