"""What stands in the pages: files to copy (fences with a title), commands that tests run (fences of sh), and commands
that only compose (in indented blocks)."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = ("ebft-train", "ebft-eval", "ebft-sweep", "ebft-export")
FENCE = re.compile(r'^```(\w+)?(?: title="(.+?)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Fence:
    language: str
    title: str
    content: str


def fences(page: Path) -> list[Fence]:
    return [Fence(*found.groups("")) for found in FENCE.finditer(page.read_text(encoding="utf-8"))]


def told(page: Path) -> Iterator[list[str]]:
    """Commands of indented blocks, as a shell splits them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for line in text.replace("\\\n", " ").splitlines():
        if re.match(rf"    (?:{'|'.join(COMMANDS)})(?: |$)", line):
            yield shlex.split(line, comments=True)


def ids(page: Path) -> str:
    return page.stem
