"""A row of named columns, and its cells as the texts that they must be: anything else is named by row and column."""

import json
from dataclasses import dataclass
from typing import Any

from ebft.config.schema import UserError


@dataclass(frozen=True)
class RawRow:
    origin: str  # how an error names it
    cells: dict[str, Any]

    def text(self, column: str) -> str:
        """Raises UserError for what is no text or blank."""
        return self._filled(self._text(self.cells[column], column, "text"), column)

    def lines(self, column: str) -> str:
        """A text, or a list of texts below each other. Raises UserError for anything else, and for nothing."""
        return self._filled("\n".join(self.texts(column)), column)

    def texts(self, column: str) -> list[str]:
        """A list of texts, from such a list, JSON of one, or one text; null is the empty list. Raises UserError for
        anything else."""
        value = self.cells[column]
        if value is None:
            return []
        values = value if isinstance(value, list) else _listed(value)
        return [self._text(item, column, "text or a list of texts") for item in values]

    def _filled(self, text: str, column: str) -> str:
        if not text.strip():
            raise UserError(f"{self.origin} is empty in column {column}; fill it in or remove the row.")
        return text

    def _text(self, value: Any, column: str, wanted: str) -> str:
        if not isinstance(value, str):
            raise UserError(f"{self.origin} holds {type(value).__name__} in column {column}; it must be {wanted}.")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{self.origin} holds half of a surrogate pair in column {column}, which is not text; correct its \\u "
                "escapes."
            ) from error
        return value


def _listed(value: Any) -> list[Any]:
    """What JSON of a list of texts holds, otherwise the value alone: test code, too, may begin with a bracket."""
    if not (isinstance(value, str) and value.lstrip("\ufeff \r\n\t").startswith("[")):
        return [value]
    try:
        parsed = json.loads(value.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return [value]
    return parsed if isinstance(parsed, list) and all(isinstance(item, str) for item in parsed) else [value]
