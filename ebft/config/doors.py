"""Doors for a user's own code: a reward, a task, a feature network, a data function or a method, named in a config as
`file.py:Name` or `package.module:Name`.

A door is found and parsed before anything runs (`check`), opened only for whoever typed it (`load`), and goes into the
run folder with its hash (`digests`). What stands in somebody else's folder never opens one: see `cli/brought.py`.
"""

import ast
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from ebft.config.schema import UserError

FOLDER = "code"  # of a run folder: the files behind its doors
FORM = "file.py:Name or package.module:Name"
FAULTS = (Exception, SystemExit)  # of a user's code; an exit() in it would end the run without a word


def is_door(value: object) -> bool:
    return isinstance(value, str) and ":" in value


def doors(config: Any, prefix: str = "") -> dict[str, str]:
    """Key -> reference of every door that a config names."""
    found: dict[str, str] = {}
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            found |= doors(value, f"{prefix}{item.name}.")
        elif item.metadata.get("door") and is_door(value):
            found[f"{prefix}{item.name}"] = value
    return found


def check(reference: str, key: str) -> None:
    """Raises UserError for a file that is not there, is not Python, or does not define the name. Runs nothing of it,
    but imports the packages that a module is in."""
    place, name = _split(reference, key)
    path = _file(place, name, key)
    if path is None:
        return
    if not path.is_file():
        raise UserError(f"{key}={reference} names no file here ({path.absolute()} does not exist); correct the path.")
    try:
        tree = ast.parse(path.read_bytes())  # bytes, of which Python reads the encoding
    except SyntaxError as error:
        raise UserError(f"{key}={reference}: {path} is not Python (line {error.lineno}: {error.msg}).") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{key}={reference}: {path} cannot be read as Python ({error}).") from error
    names = set(_top_level(tree))
    if name not in names and "*" not in names:
        close = get_close_matches(name, names, 1)
        hint = f"did you mean {close[0]}?" if close else f"it defines {', '.join(sorted(names)) or 'nothing'}."
        raise UserError(f"{key}={reference}: {path} does not define {name}; {hint}")


def load(reference: str, key: str) -> Any:
    """What stands behind a door. Raises UserError, with the user's own traceback, where the file cannot be run."""
    check(reference, key)
    place, name = _split(reference, key)
    path = _file(place, name, key)
    try:
        module = importlib.import_module(place) if path is None or not place.endswith(".py") else _run(path.absolute())
    except FAULTS as error:  # whatever a user's module throws while it is read is the user's
        raise UserError(explained(error, f"{key}={reference} cannot be loaded")) from error
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise UserError(f"{key}={reference}: {place} does not define {name}.") from error


def explained(error: BaseException, what: str) -> str:
    """The user's traceback, without the frames of this program and of Python's import, and one sentence."""
    frames = _own_frames(error.__traceback__)
    trace = "".join(traceback.format_list(frames)) if frames else ""
    head = f"Traceback (most recent call last):\n{trace}" if trace else ""
    reason = str(error).strip().splitlines()
    return f"{head}{what}: {type(error).__name__}{f': {reason[0]}' if reason else ''}."


def _own_frames(trace: TracebackType | None) -> list[traceback.FrameSummary]:
    package = str(Path(__file__).parents[1])
    frames = traceback.extract_tb(trace)
    return [frame for frame in frames if not frame.filename.startswith((package, "<frozen importlib"))]


def digests(references: Iterable[str]) -> dict[str, str]:
    """Reference -> SHA-256 of the file behind it, by which a run with another version of it is another run."""
    found = {}
    for reference in references:
        place, name = _split(reference, reference)
        path = _file(place, name, reference)
        if path is not None and path.is_file():
            found[reference] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def installed(group: str | None) -> dict[str, str]:
    """Name -> reference of what installed packages offer in the entry points `ebft.GROUP`: methods, tasks or conf."""
    return {} if group is None else _installed(group, tuple(sys.path))


@cache
def _installed(group: str, path: tuple[str, ...]) -> dict[str, str]:
    """Reading what is installed takes some 20 ms, and depends on where Python looks."""
    return {point.name: point.value for point in entry_points(group=f"ebft.{group}")}


def _split(reference: str, key: str) -> tuple[str, str]:
    place, _, name = reference.rpartition(":")
    if not place or not name.isidentifier():
        raise UserError(f"{key}={reference} is not of the form {FORM}.")
    return place, name


def _file(place: str, name: str, key: str) -> Path | None:
    """The source behind a place; None for a module without one. Raises UserError for a module that does not exist."""
    if place.endswith(".py") or "/" in place:
        return Path(place)
    try:
        spec = importlib.util.find_spec(place)
    except FAULTS as error:
        if not _is_absence(error, place):
            raise UserError(explained(error, f"{key}={place}:{name} cannot be loaded")) from error
        spec = None
    if spec is None:
        file = Path(f"{place.replace('.', '/')}.py")
        hint = f"did you mean {file}:{name}?" if file.is_file() else f"write {FORM}."
        raise UserError(f"{key}={place}:{name} names a module that is not installed here; {hint}")
    return Path(spec.origin) if spec.origin is not None and spec.origin.endswith(".py") else None


def _is_absence(error: BaseException, place: str) -> bool:
    """Whether looking for a module failed because it or a package around it is not there, or has no such name, and not
    because a package around it cannot be imported."""
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        return f"{place}.".startswith(f"{error.name}.")
    return isinstance(error, ImportError | ValueError) and not place.strip(".").replace(".", "_").isidentifier()


def _top_level(node: ast.AST) -> Iterator[str]:
    """The names that a module defines, imports or assigns outside its functions and classes."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield child.name
            case ast.Import() | ast.ImportFrom():
                yield from (alias.asname or alias.name for alias in child.names)
            case ast.Name(ctx=ast.Store()):
                yield child.id
            case _:
                yield from _top_level(child)


@cache
def _run(path: Path) -> ModuleType:
    """The module of a file, which finds what lies beside it; once a process, so that its classes stay the same."""
    name = f"ebft_own_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look for it there
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module
