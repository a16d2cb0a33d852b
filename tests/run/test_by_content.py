"""What is kept on this machine between runs, by several processes at once, some of which are killed."""

import os
import threading
import time
from pathlib import Path

import pytest

from ebft.run import by_content, checked

OLD = time.time() - 2 * by_content.STALE_SECONDS


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBFT_CACHE", str(tmp_path))


def test_what_a_killed_process_has_left_half_written_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between the two names of an entry left a file of any size, which nobody counted and nobody removed."""
    write = checked.write

    def write_and_die(path: Path, state: object) -> None:
        write(path, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(checked, "write", write_and_die)
        with pytest.raises(KeyboardInterrupt):
            by_content.keep("kind", "a", {})
    folder = tmp_path / "kind"
    (left,) = folder.iterdir()
    os.utime(left, (OLD, OLD))
    (folder / ".b.pt.partial").touch()  # of a process that writes it now
    by_content.keep("kind", "c", {})
    os.utime(folder / "c.pt", (OLD, OLD))
    by_content.keep("kind", "d", {})
    assert sorted(path.name for path in folder.iterdir()) == [".b.pt.partial", "c.pt", "d.pt"]


def test_files_of_the_user_s_own_stay(tmp_path: Path) -> None:
    """EBFT_CACHE named a folder of theirs, with a folder that is called like ours."""
    names = {"mine.jsonl", "weights.pt", "epoch1.pt"}
    (tmp_path / "kind").mkdir()
    for name in names:
        (tmp_path / "kind" / name).write_bytes(b"theirs" * 99)
        os.utime(tmp_path / "kind" / name, (OLD, OLD))
    by_content.keep("kind", "a" * 64, {}, most_bytes=1)
    assert {path.name for path in (tmp_path / "kind").iterdir()} == names


def test_a_writer_whose_file_was_removed_loses_time_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = checked.write
    with monkeypatch.context() as slow:
        slow.setattr(checked, "write", lambda path, state: (write(path, state), path.unlink()))
        by_content.keep("kind", "a", {})
    assert by_content.find("kind", "a", dict) is None
    by_content.keep("kind", "a", {})
    assert by_content.find("kind", "a", dict) == {"key": "a"}


def test_writers_of_one_entry_and_of_a_full_cache_do_not_meet(tmp_path: Path) -> None:
    """Whoever reads finds a whole entry or none, and nothing is left over."""
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(20):
                by_content.keep("kind", f"{turn % 3}", {"numbers": [turn] * 999}, most_bytes=4000)
                found = by_content.find("kind", f"{(turn + number) % 3}", dict)
                assert found is None or len(found["numbers"]) == 999
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert all(path.suffix == ".pt" for path in (tmp_path / "kind").iterdir())
