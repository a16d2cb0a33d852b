"""Texts of others, where something in them could act."""

import pytest

from ebft.output.visible import markdown, spreadsheet, visible


def test_characters_that_act_are_written_out() -> None:
    """An escape sequence in a stranger's note once changed the terminal's title, and U+202E turned a line around."""
    assert visible("\x1b]0;title\x07 a\r\x7f\x9b1m") == r"\x1b]0;title\x07 a\x0d\x7f\x9b1m".replace(r"\x0d", r"\r")
    assert visible("\u202eevil\u2066 \u200f\u2028") == r"\u202eevil\u2066 \u200f\u2028"
    assert visible("half \ud83d") == r"half \ud83d"
    assert visible("é 日本 👍🏽 tab\t\nline") == "é 日本 👍🏽 tab\t\nline"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("![x](https://there/pixel.png)", r"![x\](https://there/pixel.png)"),
        ("[x](https://there)", r"[x\](https://there)"),
        ("[x] [y]: z", r"[x\] [y\]: z"),
        (r"[x\](there)", r"[x\\\](there)"),
        ("0.5 ± 0.1 [n = 3]", "0.5 ± 0.1 [n = 3]"),
        ("<img src=x> | b", r"&lt;img src=x> \| b"),
        ("two\nlines\x1b", r"two lines\\x1b"),
    ],
)
def test_markdown_shows_a_text_and_follows_none(text: str, shown: str) -> None:
    assert markdown(text) == shown


@pytest.mark.parametrize("text", ["=1+1", "+1", "-x", "@SUM(A1)", "\t=1"])
def test_a_spreadsheet_computes_no_cell(text: str) -> None:
    assert spreadsheet(text) == f"'{text}"
    assert spreadsheet(f"a{text}") == f"a{text}"
