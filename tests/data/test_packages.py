"""Installed packages as a corpus, read and never imported."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from ebft.cli.compose import compose
from ebft.config.schema import UserError
from ebft.data import load
from ebft.data.bad_rows import Sieve
from ebft.data.documents import Document
from ebft.data.packages import read_packages
from tests.data.helpers import tokenizer

FILES = {
    "grove/__init__.py": "raise RuntimeError('imported')\n",
    "grove/oak.py": "def leaves(tree):\n    count = tree.count\n    return count\n",
    "grove/deep/elm.py": "\r\nx = 1\r\n",
    "grove/deep/__init__.py": "\n",
    "grove/deep/copy_of_oak.py": "def leaves(tree):\n    count = tree.count\n    return count\n",
    "grove/deep/two.py": "print 'Python 2'\n",
    "grove/deep/torn.py": "# coding: nonsense\n",
    "grove/tests/oak.py": "assert True\n",
    "grove/test_oak.py": "assert True\n",
    "grove/conftest.py": "assert True\n",
    "grove/_vendor/six.py": "six = 6\n",
    "grove/notes.txt": "no code\n",
    "lonely.py": "def alone():\n    me = 1\n    return me\n",
    "compiled/core.so": "",
}


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "made", ModuleType("made"))


def read(*packages: str, drops: bool = True) -> tuple[list[Document], Sieve]:
    sieve = Sieve(drops)
    return list(read_packages(packages, sieve)), sieve


def test_each_module_is_a_document_but_for_tests_and_copies() -> None:
    """A module of the same text, of another Python or in an unknown encoding is dropped and counted."""
    documents, sieve = read("lonely", "grove")
    assert {document.key: document.completion for document in documents} == {
        "lonely": FILES["lonely.py"],
        "grove": FILES["grove/__init__.py"],
        "grove.deep.copy_of_oak": FILES["grove/oak.py"],  # by name it comes before grove.oak
        "grove.deep.elm": "\nx = 1\n",
    }
    assert [document.prompt for document in documents] == [""] * 4
    assert sieve.dropped == {"malformed": 2, "duplicate": 1}
    assert "grove" not in sys.modules


def test_bad_modules_are_refused_by_name() -> None:
    message = str(read("grove", drops=False)[1].error())
    assert message.startswith(
        "3 rows cannot be used (2 malformed, 1 duplicate): module grove.deep.torn cannot be read as text (unknown "
    )
    assert message.endswith(
        ": nonsense), module grove.deep.two is not Python of this interpreter, module grove.oak repeats another; "
        "correct or remove them, or drop them with data.bad_rows=drop."
    )


@pytest.mark.parametrize(
    ("package", "sentence"),
    [
        ("nowhere", "data.packages names nowhere, which is not installed here; install it, or leave it out."),
        ("grove.deep", "data.packages names grove.deep, which is not installed here; install it, or leave it out."),
        ("made", "data.packages names made, which is not installed here; install it, or leave it out."),
        ("", "data.packages names , which is not installed here; install it, or leave it out."),
        ("PyYAML", "data.packages names PyYAML, which is not installed here; write it as it is imported, _yaml, yaml."),
        ("compiled", "data.packages names compiled, which is installed without Python source; leave it out."),
        ("sys", "data.packages names sys, which is installed without Python source; leave it out."),
    ],
)
def test_a_package_that_cannot_be_read_is_refused(package: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        read(package)
    assert str(error.value) == sentence


@pytest.mark.slow
def test_functions_of_modules_are_questions() -> None:
    config = compose(["data=packages", "data.packages=[grove,lonely]", "data.validation_fraction=0.4"]).data
    data = load(config, tokenizer())
    assert data.train_questions is not None
    assert data.validation_questions is not None
    answers = [question.answer for side in (data.train_questions, data.validation_questions) for question in side.items]
    assert sorted(answers) == ["\n    count = tree.count\n    return count\n", "\n    me = 1\n    return me\n"]
    assert data.num_dropped == 3
