"""What is read out of folders that may be anybody's: files, and nothing that never ends."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ebft.config.schema import UserError
from ebft.config.stored import bytes_of, read_config, text_of


def sparse(path: Path) -> None:
    """A terabyte that takes no room."""
    with path.open("wb") as file:
        file.truncate(1 << 40)


NO_FILES: dict[str, tuple[Callable[[Path], None], int]] = {
    "pipe that nobody writes": (os.mkfifo, errno.EINVAL),
    "device without an end": (lambda path: path.symlink_to("/dev/zero"), errno.EINVAL),
    "folder": (Path.mkdir, errno.EINVAL),
    "larger than any": (sparse, errno.EFBIG),
    "link to nowhere": (lambda path: path.symlink_to("nowhere"), errno.ENOENT),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    """A pipe named state.pt once held a run up for ever, and a link to /dev/zero took all memory."""
    make, number = NO_FILES[kind]
    make(tmp_path / "config.yaml")
    with pytest.raises(OSError, match=r".") as raised:
        bytes_of(tmp_path / "config.yaml")
    assert raised.value.errno == number
    with pytest.raises(UserError, match=r"config\.yaml cannot be read \(.*\); name another\."):
        read_config(tmp_path / "config.yaml", "name another")


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("ä")
    (tmp_path / "link").symlink_to("a")
    assert (bytes_of(tmp_path / "a"), text_of(tmp_path / "link")) == (b"\xc3\xa4", "ä")
    assert text_of(tmp_path / "a", errors="replace") == "ä"


def merged(levels: int) -> str:
    """Mappings each of which takes the one before it up ten times."""
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "- " * 100_000, "{a: " * 100_000, "? " * 100_000, merged(9), "a: &a [1]\nb: *a\n", "a: &a [*a]\n"],
    ids=lambda text: text[:9],
)
def test_yaml_that_would_unfold_without_measure_is_refused(tmp_path: Path, text: str) -> None:
    """The loader recurses in C: 100 kB once ended the process."""
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml is not a config of ebft; name another\."):
        read_config(tmp_path / "config.yaml", "name another")
