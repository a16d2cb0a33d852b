"""Texts of others on a terminal, in a log, on a page or in a table: nothing in them may act, and no password in a URL
is shown."""

import re

from ebft.output.masking import without_credentials

# Control characters but for line break and tab, separators of lines, marks that turn the direction of writing around,
# and halves of characters, which cannot be written.
_ACTING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet computes begins with one


def visible(text: str) -> str:
    r"""The text with characters that would act written out, ESC as \x1b, right-to-left override as \u202e, and without
    the credentials of its URLs."""
    return _ACTING.sub(lambda found: found[0].encode("unicode_escape").decode(), without_credentials(text))


def is_plain(name: str) -> bool:
    """Whether a name of a file shows as it is: no character in it acts, ends a line, or stands for a byte that is no
    UTF-8, over which libraries stumble."""
    return not _ACTING.search(name) and not {"\n", "\t"} & {*name}


def markdown(text: str) -> str:
    """A text on one line that is no HTML, no link, no image and no end of a table's cell."""
    line = " ".join(visible(text).split()).replace("\\", r"\\")
    return re.sub(r"\](?=\s*[\[(:])", r"\\]", line.replace("<", "&lt;").replace("|", r"\|"))


def spreadsheet(text: str) -> str:
    """A text that a spreadsheet shows as it is: one that begins like a formula has a quote in front."""
    return f"'{visible(text)}" if text.startswith(_FORMULA) else visible(text)
