"""Texts of others, where something in them could act."""

from pathlib import Path

import pytest

from ebft.cli.refusals import one_sentence
from ebft.config.schema import UserError
from ebft.output.console import Console
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


@pytest.mark.parametrize("url", ["https://me:hu@sh/hu/sh@host/x", "https:/me:hu@sh/hu/sh@host/x", "s3://hush@host/x"])
def test_no_password_in_a_url_is_shown(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An error named the path that it could not find, password and all."""
    with pytest.raises(SystemExit), one_sentence():
        raise UserError(f"data.path={url} is not a file; correct it.")
    with pytest.raises(SystemExit), one_sentence():
        raise OSError(2, "No such file or directory", url)
    console = Console(tmp_path / "log")
    console.say(f"left out: {url}")
    console.pairs("a", {"path": url})
    console.table("a", ["b", url], [[url, "c"]])
    streams = capsys.readouterr()
    for text in (streams.out, streams.err, (tmp_path / "log").read_text(), markdown(url), spreadsheet(url)):
        assert "***@host/x" in text
        assert "sh" not in text.replace("such", "")
