"""What the page of refusals quotes is what the program says."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Launcher, launch  # noqa: F401  (a fixture)
from tests.docs.pages import ROOT

PAGES = [ROOT / "docs" / "troubleshooting.md", ROOT / "README.md"]
EXAMPLES = dict.fromkeys(
    found
    for page in PAGES
    for found in re.findall(r"^    \$ ebft-train (.+)\n    (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
)


@pytest.mark.parametrize(("arguments", "sentence"), EXAMPLES, ids=[arguments for arguments, _ in EXAMPLES])
def test_a_command_is_refused_as_the_page_shows(launch: Launcher, arguments: str, sentence: str) -> None:  # noqa: F811
    outcome = launch(*arguments.split())
    assert (outcome.code, outcome.err) == (2, f"{sentence}\n")
    assert launch.jobs == []


def test_sentences_of_the_tables_stand_in_the_code() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    quoted = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    known = "\n".join(sentence for path in (ROOT / "ebft").rglob("*.py") for sentence in sentences(path))
    assert len(quoted) > 30
    assert [sentence for sentence in quoted if sentence not in known] == []


def sentences(path: Path) -> Iterator[str]:
    """Every text of a module, with … for what is filled in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            yield re.sub("…+", "…", "".join(parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
