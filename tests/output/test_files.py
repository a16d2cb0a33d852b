import errno
import json
import os
import re
import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from ebft.config.schema import RunFailure, UserError
from ebft.output.console import Console
from ebft.output.files import (
    WriteFailure,
    alone,
    append_row,
    atomic_folder,
    atomic_write_text,
    check_name,
    exclusive_lock,
    keep_rows,
    make_folder,
    read_rows,
    remove,
    writing,
)


def full_disk(*_: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_text_replaces_an_older_file(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / "a", "old, and longer")
    atomic_write_text(tmp_path / "a", "né\n")
    assert (tmp_path / "a").read_bytes() == b"n\xc3\xa9\n"
    assert names(tmp_path) == ["a"]


def test_full_disk_keeps_the_older_file_and_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic_write_text(tmp_path / "a", "old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(
        RunFailure,
        match=rf"^The disk is full: {tmp_path}/a could not be written; "
        r"free some space and run again with resume=auto.$",
    ):
        atomic_write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_full_disk_is_seen_under_another_library_s_error(tmp_path: Path) -> None:
    """Torch raises RuntimeError while it handles the OSError; safetensors has only a text."""

    def torch_save() -> NoReturn:
        try:
            full_disk()
        finally:
            raise RuntimeError("unexpected pos 704 vs 598")

    with pytest.raises(RunFailure, match="disk is full"), writing(tmp_path):
        torch_save()
    with pytest.raises(RunFailure, match="disk is full"), writing(tmp_path):
        raise ValueError("I/O error: No space left on device (os error 28)")


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ours"), writing(tmp_path):
        raise ValueError("ours")


def test_a_refusal_of_ours_stays_one(tmp_path: Path) -> None:
    refusal = UserError("theirs")
    refusal.__context__ = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(UserError, match="theirs"), writing(tmp_path):
        raise refusal


def test_whatever_the_system_refuses_is_said_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for write in (atomic_write_text, lambda path, text: append_row(path, {"text": text})):
        for name, why in [
            ("x" * 300, "File name too long"),
            ("gone/a", "No such file or directory"),
            ("file/a", "Not a directory"),
        ]:
            with pytest.raises(
                WriteFailure,
                match=rf"^{tmp_path}/{name} could not be written \({why}\); put that right and run again with resume=",
            ):
                write(tmp_path / name, "text")
    with pytest.raises(WriteFailure, match=r"/folder could not be written \(Is a directory\)"):
        atomic_write_text(tmp_path / "folder", "text")
    assert names(tmp_path) == ["file", "folder"]


def test_a_limit_on_the_size_of_files_is_said(tmp_path: Path) -> None:
    """`ulimit -f` or a quota: Python ignores the signal that comes with it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(WriteFailure, match=rf"^{tmp_path}/a could not be written \(File too large\)"):
            atomic_write_text(tmp_path / "a", "a" * (1 << 17))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == []


def test_folder_appears_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with atomic_folder(target) as folder:
        (folder / "old").write_text("1")
        assert not target.exists()
    with atomic_folder(target) as folder:
        (folder / "new").write_text("2")
        assert names(target) == ["old"]
    assert names(target) == ["new"]
    assert names(tmp_path) == ["model"]


def test_failure_while_filling_keeps_the_older_folder(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("1")

    def fill() -> None:
        with atomic_folder(target) as folder:
            (folder / "new").write_text("2")
            full_disk()

    with pytest.raises(RunFailure, match="disk is full"):
        fill()
    assert names(target) == ["old"]
    assert names(tmp_path) == ["model"]


def test_what_a_kill_left_is_not_part_of_the_next_folder(tmp_path: Path) -> None:
    (tmp_path / ".model.partial").mkdir()
    (tmp_path / ".model.partial" / "half").write_text("x")
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "whole").write_text("y")
    assert names(tmp_path / "model") == ["whole"]


def test_rows_come_back(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert read_rows(path) == []
    append_row(path, {"step": 2, "text": "line\nbreak \u2028 é"})
    append_row(path, {"step": 3})
    assert path.read_text().count("\n") == 2
    assert read_rows(path) == [{"step": 2, "text": "line\nbreak \u2028 é"}, {"step": 3}]


def test_nan_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        append_row(tmp_path / "rows.jsonl", {"step": 1, "loss": float("nan")})
    assert not (tmp_path / "rows.jsonl").exists()


def test_line_cut_off_by_a_kill_is_left_out_and_goes_with_the_rewind(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"step": 3}\n{"step": 5}\n{"step": 7}\n{"st')
    assert read_rows(path) == [{"step": 3}, {"step": 5}, {"step": 7}]
    keep_rows(path, 5)
    assert path.read_text() == '{"step": 3}\n{"step": 5}\n'


def test_character_cut_in_half_by_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"step": 3}\n{"text": "\xc3')
    assert read_rows(path) == [{"step": 3}]


@pytest.mark.parametrize("line", ["{oops}", "[1, 2]", "1" * 5000, "[" * 100_000], ids=lambda line: line[:6])
def test_broken_line_in_the_middle_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps({'step': 1})}\n{line}\n")
    with pytest.raises(UserError, match=rf"^{path}:2 is not a JSON object.*; remove the line\.$"):
        read_rows(path)


# Links, in folders that may be anybody's


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A file of the user's, outside the folder `theirs`, in which links lead to it."""
    (tmp_path / "theirs").mkdir()
    path = tmp_path / "precious"
    path.write_text("mine")
    return path


WRITES: dict[str, Callable[[Path], object]] = {
    "row": lambda path: append_row(path, {"step": 1}),
    "console": lambda path: Console(path, quiet=True).say("text"),
    "lock": lambda path: exclusive_lock(path).__enter__(),
    "folder": make_folder,
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_nothing_is_written_through_a_link(precious: Path, write: Callable[[Path], object]) -> None:
    """A link called .comparison.lock once emptied the file that it led to."""
    for name, target in {"file": precious, "folder": precious.parent, "nothing": precious.parent / "new"}.items():
        path = precious.parent / "theirs" / name
        path.symlink_to(target)
        sentence = f"{path} is a link, and nothing is written through it; remove it, or choose another folder."
        with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
            write(path)
        assert path.is_symlink()
    assert precious.read_text() == "mine"
    assert names(precious.parent) == ["precious", "theirs"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A pipe that nobody reads once stopped a run for ever."""
    make(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match=r"metrics\.jsonl is in the way of what is written there"):
        append_row(tmp_path / "metrics.jsonl", {"step": 1})


def test_a_lock_keeps_what_its_file_holds(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("x")
    with exclusive_lock(tmp_path / "lock"):
        pass
    assert (tmp_path / "lock").read_text() == "x"


def test_links_under_hidden_and_final_names_are_replaced(precious: Path) -> None:
    """`.comparison.csv.partial`, a link, was once what the file it led to was overwritten by."""
    theirs = precious.parent / "theirs"
    for name in (".a.partial", "a", ".model.partial", ".model.replaced", "model"):
        (theirs / name).symlink_to(precious.parent if "model" in name else precious)
    atomic_write_text(theirs / "a", "text")
    with atomic_folder(theirs / "model") as folder:
        (folder / "weights").write_text("1")
    assert (theirs / "a").read_text() == "text"
    assert names(theirs / "model") == ["weights"]
    assert names(theirs) == ["a", "model"]
    assert (precious.read_text(), names(precious.parent)) == ("mine", ["precious", "theirs"])


def test_a_file_of_two_names_is_not_written(precious: Path) -> None:
    """A hard link leads to somebody's file just as a symbolic one does."""
    theirs = precious.parent / "theirs" / "metrics.jsonl"
    os.link(precious, theirs)
    with pytest.raises(
        UserError, match=rf"^{theirs} is a link, and nothing is written through it; remove it, or choose"
    ):
        append_row(theirs, {"step": 1})
    atomic_write_text(theirs, "text")  # which takes the other name away
    append_row(theirs, {"step": 1})
    assert precious.read_text() == "mine"


def test_removing_a_link_leaves_what_it_leads_to(precious: Path) -> None:
    (precious.parent / "link").symlink_to(precious.parent / "theirs")
    remove(precious.parent / "link")
    assert names(precious.parent) == ["precious", "theirs"]
    remove(precious.parent / "theirs")
    assert names(precious.parent) == ["precious"]


# One folder, one process


def test_a_folder_is_one_process_s_at_a_time(tmp_path: Path) -> None:
    sentence = rf"^{tmp_path} is another process's, which has not left it within 0\.2 s; wait for it, or choose another"
    with alone(tmp_path), pytest.raises(UserError, match=sentence), alone(tmp_path, seconds=0.2):
        pass
    assert names(tmp_path) == []
    with alone(tmp_path):
        assert names(tmp_path) == [".lock"]


def test_a_lock_that_a_kill_left_is_nobody_s(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    with alone(tmp_path, seconds=0):
        pass


def test_whoever_waits_gets_the_folder_when_it_is_left(tmp_path: Path) -> None:
    """The file that the other removes was already opened here: its lock would be nobody's."""
    entered = threading.Event()

    def wait() -> None:
        with alone(tmp_path, seconds=20):
            entered.set()

    with alone(tmp_path):
        thread = threading.Thread(target=wait)
        thread.start()
        assert not entered.wait(0.3)
    thread.join(20)
    assert entered.is_set()


def test_no_file_takes_the_place_of_a_pipe_or_a_device(tmp_path: Path) -> None:
    """As root a rename would replace /dev/null for everybody."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match=re.escape(f"{pipe} is there and is no file; choose another name.")):
        atomic_write_text(pipe, "text")
    assert pipe.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("name", [b"a\xff", b"a\nb", b"\x1b]0;title\x07", "\u202ea".encode(), b"a\tb"])
def test_a_name_that_libraries_or_terminals_stumble_over_is_refused(name: bytes) -> None:
    """A run in a folder of bytes that are no UTF-8 was trained to its end, and failed in the export."""
    with pytest.raises(UserError, match=r"^hydra\.run\.dir='/.* control characters .* choose another name\.$"):
        check_name(Path(os.fsdecode(name)) / "run", "hydra.run.dir")
    check_name(Path("é 日本 'a' {b}"), "hydra.run.dir")
