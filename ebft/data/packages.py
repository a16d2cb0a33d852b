"""The Python source of installed packages as a corpus, split by module as `stdlib` is.

What is read depends on the installed versions. Packages are found and never imported.
"""

import tokenize
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from ebft.config.schema import UserError
from ebft.data.bad_rows import COPY, MALFORMED, BadRow, Sieve
from ebft.data.documents import Document
from ebft.data.stdlib import TESTS, module_name
from ebft.sandbox.functions import parse

NOT_ITS_OWN = {"_vendor", "_vendored", "vendor", "vendored"}  # folders with copies of other packages


def read_packages(packages: Iterable[str], sieve: Sieve) -> Iterator[Document]:
    """One document a module, by dotted name, package after package; empty modules are left out, and the sieve takes
    down copies of others and those that are not Python. Raises UserError for a package that is missing or has no
    source."""
    for package in packages:
        files = source_files(package)
        if not files:
            raise UserError(f"data.packages names {package}, which is installed without Python source; leave it out.")
        for name, path in files.items():
            document = _document(name, path, sieve)
            if document is not None:
                yield document


def source_files(package: str) -> dict[str, Path]:
    """The files of a package by their module's dotted name, in that order, without tests. Raises UserError where it is
    not installed."""
    spec = _spec(package)
    if spec.submodule_search_locations is None:
        files = {package: Path(spec.origin or "")}
    else:
        roots = [Path(location) for location in spec.submodule_search_locations]
        files = {
            f"{package}.{module_name(path.relative_to(root))}".rstrip("."): path
            for root in roots
            for path in root.rglob("*.py")
        }
    return {name: path for name, path in sorted(files.items()) if path.suffix == ".py" and _is_wanted(name)}


def _spec(package: str) -> ModuleSpec:
    found = None
    with suppress(ValueError):  # of a module that was made by hand
        found = find_spec(package) if package.isidentifier() else None  # which imports what lies before a dot
    if found is None:
        raise UserError(f"data.packages names {package}, which is not installed here; {_advice(package)}.")
    return found


def _advice(package: str) -> str:
    try:
        files = distribution(package).files or []
    except (PackageNotFoundError, ValueError):  # ValueError: of an empty name
        return "install it, or leave it out"
    names = sorted({file.parts[0] for file in files if file.name == "__init__.py" and len(file.parts) == 2})
    return f"write it as it is imported, {', '.join(names)}"


def _is_wanted(name: str) -> bool:
    return not any(
        part in TESTS | NOT_ITS_OWN or part.startswith("test_") or part.endswith("_test") or part == "conftest"
        for part in name.split(".")
    )


def _document(name: str, path: Path, sieve: Sieve) -> Document | None:
    try:
        with tokenize.open(path) as file:  # honours the encoding that the file declares
            text = file.read()
    except (SyntaxError, UnicodeDecodeError) as error:
        sieve.add(BadRow(MALFORMED, f"module {name} cannot be read as text ({error})", "leave its package out"))
        return None
    if not text.strip():
        return None
    if parse(text) is None:
        sieve.add(BadRow(MALFORMED, f"module {name} is not Python of this interpreter", "leave its package out"))
        return None
    if sieve.is_copy(sha256(text.encode()).digest()):
        sieve.add(BadRow(COPY, f"module {name} repeats another", "leave its package out"))
        return None
    return Document(key=name, prompt="", completion=text, origin=f"module {name}")
