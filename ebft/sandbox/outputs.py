"""When what a program wrote is what it should have written, as contests see it."""

import math
import re

_DECIMAL = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?")


def same_output(written: str, expected: str) -> bool:
    """Equal word for word on every line, blank lines at the end and blanks beside words aside; a decimal number that is
    expected may be any within 1e-6 of it, relative or absolute."""
    ours, theirs = _lines(expected), _lines(written)
    return len(ours) == len(theirs) and all(
        len(right) == len(found) and all(map(_same_word, found, right))
        for found, right in zip(theirs, ours, strict=True)
    )


def _lines(text: str) -> list[list[str]]:
    lines = [line.split() for line in text.replace("\r\n", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _same_word(found: str, right: str) -> bool:
    if found == right:
        return True
    if len(found) > 100 or not _DECIMAL.fullmatch(right):
        return False
    try:
        return math.isclose(float(found), float(right), rel_tol=1e-6, abs_tol=1e-6)
    except ValueError:
        return False
