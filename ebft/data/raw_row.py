"""A row of named columns, and its cells as the texts that they must be: anything else is named by row and column."""

import json
from dataclasses import dataclass
from typing import Any

from ebft.data.bad_rows import EMPTY, MALFORMED, NULL, BadCell, BadRow


@dataclass(frozen=True)
class RawRow:
    origin: str  # how an error names it
    cells: dict[str, Any]

    def text(self, column: str) -> str:
        """Raises BadCell for what is no text or blank."""
        return self._filled(self._text(self.cells[column], column, "text"), column)

    def lines(self, column: str) -> str:
        """A text, or a list of texts below each other. Raises BadCell for anything else, and for nothing."""
        if self.cells[column] is None:
            raise self._bad(NULL, f"is null in column {column}", "fill it in or remove the row")
        return self._filled("\n".join(self.texts(column)), column)

    def texts(self, column: str) -> list[str]:
        """A list of texts, from such a list, JSON of one, or one text; null is the empty list. Raises BadCell for
        anything else."""
        value = self.cells[column]
        if value is None:
            return []
        values = value if isinstance(value, list) else _listed(value)
        return [self._text(item, column, "text or a list of texts") for item in values]

    def _filled(self, text: str, column: str) -> str:
        if not text.strip():
            raise self._bad(EMPTY, f"is empty in column {column}", "fill it in or remove the row")
        return text

    def _bad(self, kind: str, problem: str, fix: str) -> BadCell:
        return BadCell(BadRow(kind, f"{self.origin} {problem}", fix))

    def _text(self, value: Any, column: str, wanted: str) -> str:
        if value is None:
            raise self._bad(NULL, f"is null in column {column}", "fill it in or remove the row")
        if not isinstance(value, str):
            raise self._bad(MALFORMED, f"holds {type(value).__name__} in column {column}", f"it must be {wanted}")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            problem = f"holds half of a surrogate pair in column {column}, which is not text"
            raise self._bad(MALFORMED, problem, "correct its \\u escapes") from error
        return value


def _listed(value: Any) -> list[Any]:
    """What JSON of a list of texts holds, otherwise the value alone: test code, too, may begin with a bracket."""
    if not (isinstance(value, str) and value.lstrip().startswith("[")):
        return [value]
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return [value]
    return parsed if isinstance(parsed, list) and all(isinstance(item, str) for item in parsed) else [value]
