"""Runs in an archive, which may be a stranger's."""

import stat
import zipfile
from pathlib import Path

import pytest

from ebft.comparison import compare, kept
from ebft.config.schema import UserError
from tests.comparison.helpers import run
from tests.sweep.helpers import grid


def archive(folder: Path, **members: str) -> Path:
    """`folder` with an archive; `__` stands for the slash of a name and `_dot_` for its dot."""
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / kept.ARCHIVE, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught, kept.unpacked(folder):
        pass
    start, end = f"{folder / kept.ARCHIVE} is not an archive of runs (", "); write it with scripts/keep_results.py."
    message = str(caught.value)
    assert message.startswith(start), message
    assert message.endswith(end), message
    return message.removeprefix(start).removesuffix(end)


def test_a_folder_without_an_archive_is_read_itself(tmp_path: Path) -> None:
    with kept.unpacked(tmp_path) as folder:
        assert folder == tmp_path


def test_an_archive_is_a_folder_of_its_name_that_is_gone_afterwards(tmp_path: Path) -> None:
    with kept.unpacked(archive(tmp_path / "mine", sweep_dot_json="{}", runs__a__x="one\ntwo")) as folder:
        assert folder.name == "mine"
        assert (folder / "sweep.json").read_text() == "{}"
        assert (folder / "runs" / "a" / "x").read_text() == "one\ntwo"
        assert tmp_path not in folder.parents
    assert not folder.parent.exists()
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [kept.ARCHIVE]


def test_a_file_that_is_wrong_is_named_in_its_archive(tmp_path: Path) -> None:
    """A path in a temporary folder that is gone would name nothing."""
    run(tmp_path / "plain" / "s0")
    config = (tmp_path / "plain" / "s0" / "config.yaml").read_text()
    folder = archive(tmp_path / "mine", s0__config_dot_yaml=config, s0__summary_dot_json="{}")
    with pytest.raises(UserError) as caught, kept.unpacked(folder) as runs:
        compare(runs, grid(), None)
    assert str(caught.value).startswith(f"{folder / kept.ARCHIVE}/s0/summary.json was not written by this version")


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "..", "..\\x"])
def test_names_outside_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine").mkdir()
    with zipfile.ZipFile(tmp_path / "mine" / kept.ARCHIVE, "w") as file:
        file.writestr(zipfile.ZipInfo(name), "x")
    assert refused(tmp_path / "mine") == f"{name!r} is not a plain file below it"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(tmp_path: Path, kind: int) -> None:
    (tmp_path / "mine").mkdir()
    with zipfile.ZipFile(tmp_path / "mine" / kept.ARCHIVE, "w") as file:
        member = zipfile.ZipInfo("link")
        member.external_attr = (kind | 0o777) << 16
        file.writestr(member, "/etc/passwd")
    assert refused(tmp_path / "mine") == "'link' is not a plain file below it"


def test_other_compressions_are_refused(tmp_path: Path) -> None:
    """They can take gigabytes of memory for a dictionary."""
    (tmp_path / "mine").mkdir()
    with zipfile.ZipFile(tmp_path / "mine" / kept.ARCHIVE, "w", zipfile.ZIP_LZMA) as file:
        file.writestr("x", "x")
    assert refused(tmp_path / "mine") == "'x' is not a plain file below it"


def test_what_would_fill_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of zeros takes a thousand bytes."""
    folder = archive(tmp_path / "mine", a="0" * 2**20, b="1")
    monkeypatch.setattr(kept, "MOST_BYTES", 2**20 + 1)
    with kept.unpacked(folder):
        pass
    monkeypatch.setattr(kept, "MOST_BYTES", 2**20)
    assert refused(folder) == "it holds more than 100,000 files or 1,048,576 bytes"
    monkeypatch.setattr(kept, "MOST_BYTES", 2**30)
    monkeypatch.setattr(kept, "MOST_FILES", 1)
    assert refused(folder) == "it holds more than 1 files or 1,073,741,824 bytes"
    monkeypatch.setattr(kept, "MOST_BYTES", 100)
    assert refused(folder) == "it is larger than 100 bytes"


def test_a_size_that_lies_is_found_out(tmp_path: Path) -> None:
    """The archive says 2 bytes of its file, there are 2**20: no more than 2 are ever written."""
    folder = archive(tmp_path / "mine", a="0" * 2**20)
    path = folder / kept.ARCHIVE
    path.write_bytes(path.read_bytes().replace((2**20).to_bytes(4, "little"), (2).to_bytes(4, "little")))
    assert refused(folder) == "Bad CRC-32 for file 'a'"


@pytest.mark.parametrize(
    ("content", "why"), [(b"", "File is not a zip file"), (b"text", "File is not a zip file"), (None, "Is a directory")]
)
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes | None, why: str) -> None:
    if content is None:
        (tmp_path / kept.ARCHIVE).mkdir()
    else:
        (tmp_path / kept.ARCHIVE).write_bytes(content)
    assert refused(tmp_path) == why


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    folder = archive(tmp_path / "mine", a="".join(map(str, range(9999))))
    path = folder / kept.ARCHIVE
    content = bytearray(path.read_bytes())
    content[1000:1100] = bytes(100)
    path.write_bytes(content)
    assert refused(folder)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / kept.ARCHIVE, "w") as file:
        file.writestr("a", "1")
        file.writestr("a", "2")
    assert refused(tmp_path) == "File exists"
    archive(tmp_path, a="1", a__b="2")
    assert refused(tmp_path) in ("File exists", "Not a directory")
