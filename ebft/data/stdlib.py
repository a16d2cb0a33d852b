"""The running interpreter's standard library as a corpus that needs no network.

The list of modules and their text depend on the Python version only. So only names that every platform shares are read
(`sys.stdlib_module_names` leaves out site-packages, extension folders and the build's own `_sysconfigdata*`), and of
those not the packages that distributors patch or ship separately, nor the ones that only some platforms install. Tests
and tables of data are not code that a person would write, and stay out as well.
"""

import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

from ebft.config.schema import UserError
from ebft.data.documents import Document

TESTS = {"test", "tests", "idle_test"}
TABLES = {"encodings", "pydoc_data", "html.entities"}
PATCHED = {"ensurepip", "site", "sysconfig", "venv"}
SPLIT_OFF = {"ctypes.macholib", "distutils", "idlelib", "lib2to3", "msilib", "tkinter", "turtle", "turtledemo"}


def read_stdlib() -> Iterator[Document]:
    """One document a module, by dotted name; modules without text are left out."""
    root = Path(sysconfig.get_path("stdlib"))
    # site-packages would take longer than all the rest
    own = (entry for entry in root.iterdir() if entry.stem in sys.stdlib_module_names)
    files = (
        path for entry in own for path in (entry.rglob("*.py") if entry.is_dir() else [entry]) if path.suffix == ".py"
    )
    modules = dict(sorted((module_name(path.relative_to(root)), path) for path in files))
    wanted = {name: path for name, path in modules.items() if is_wanted(name)}
    if not wanted:
        raise UserError(
            f"data.source=stdlib finds no Python files in {root}; use an installation with library sources, or "
            "data=jsonl."
        )
    for name, path in wanted.items():
        with tokenize.open(path) as file:  # honours the encoding that the file declares
            text = file.read()
        if text.strip():
            yield Document(key=name, prompt="", completion=text, origin=f"module {name}")


def module_name(path: Path) -> str:
    """`json/__init__.py` is `json`, `json/decoder.py` is `json.decoder`."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_wanted(name: str) -> bool:
    parts = name.split(".")
    prefixes = {".".join(parts[:depth]) for depth in range(1, len(parts) + 1)}
    is_test = any(part in TESTS or part.endswith("_test") for part in parts)
    return parts[0] in sys.stdlib_module_names and not is_test and not prefixes & (TABLES | PATCHED | SPLIT_OFF)
