"""What MkDocs does for the pages beside turning Markdown into HTML: the reference of every key, and equations as
MathML, which browsers show without a script."""

import re
import sys
from html import unescape
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # MkDocs loads a hook by its path

from key_reference import page as key_reference
from latex2mathml.converter import convert
from mkdocs.structure.files import File

EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)

OUTSIDE = re.compile(
    r"\[([^\]]+)\]\(\.\./(?!\.\.|docs)[^)]*\)"
)  # a link of a page in docs/ to another folder of the repository


def on_files(files: Any, config: Any) -> Any:
    files.append(File.generated(config, "keys.md", content=key_reference()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files that are in the repository alone become their names."""
    return OUTSIDE.sub(r"`\1`", markdown) if "/" not in page.file.src_uri else markdown


def on_page_content(html: str, **_: Any) -> str:
    return EQUATION.sub(_as_mathml, html)


def _as_mathml(found: re.Match[str]) -> str:
    kind, equation = found.groups()
    mathml = convert(unescape(equation), display="block" if kind == "div" else "inline")
    return f"<{kind} class='equation'>{mathml}</{kind}>"
