import json
import sysconfig
from pathlib import Path

import pytest

from ebft.config.schema import UserError
from ebft.data.stdlib import is_wanted, module_name, read_stdlib


def test_module_names() -> None:
    assert module_name(Path("json/__init__.py")) == "json"
    assert module_name(Path("json/decoder.py")) == "json.decoder"
    assert module_name(Path("abc.py")) == "abc"


@pytest.mark.parametrize(
    "name", ["abc", "json.decoder", "html.parser", "unittest.mock", "ctypes.util", "multiprocessing"]
)
def test_library_code_is_wanted(name: str) -> None:
    assert is_wanted(name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("test.support", "tests"),
        ("ctypes.test.test_arrays", "tests"),
        ("json.tests.fixtures", "tests"),
        ("json.decoder_test", "tests"),
        ("encodings.cp1252", "a table"),
        ("pydoc_data.topics", "a table"),
        ("html.entities", "a table"),
        ("_sysconfigdata__linux_x86_64-linux-gnu", "written by the build"),
        ("site-packages.numpy.random", "installed"),
        ("sitecustomize", "installed"),
        ("sysconfig", "patched by distributors"),
        ("tkinter.ttk", "a package of its own on many systems"),
    ],
)
def test_machine_dependent_files_tests_and_tables_are_not(name: str, why: str) -> None:
    assert not is_wanted(name), why


def test_reads_text_by_name_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Line ends of another platform and declared encodings change nothing, an empty module is no document."""
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "__init__.py").write_bytes(b"x = 1\r\ny = 2\r\n")
    (tmp_path / "abc.py").write_bytes(b"# coding: latin-1\ns = '\xe9'\n")
    (tmp_path / "heapq.py").write_bytes(b"\n")
    (tmp_path / "my_own.py").write_bytes(b"z = 3\n")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert [(document.key, document.prompt, document.completion) for document in read_stdlib()] == [
        ("abc", "", "# coding: latin-1\ns = 'é'\n"),
        ("json", "", "x = 1\ny = 2\n"),
    ]


def test_reads_the_interpreter_it_runs_on() -> None:
    documents = {document.key: document for document in read_stdlib()}
    assert documents["json"].completion == Path(json.__file__).read_text(encoding="utf-8")
    assert len(documents) > 300


def test_an_interpreter_without_sources_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(
        UserError, match=f"finds no Python files in {tmp_path}; use an installation with library sources"
    ):
        list(read_stdlib())
