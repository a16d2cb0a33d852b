"""A row of named columns, and its cells as the texts that they must be: anything else is named by row and column."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ebft.data.bad_rows import EMPTY, MALFORMED, NULL, BadCell, BadRow

Messages = tuple[Mapping[str, Any], ...]

ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant"}


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

    def messages(self, column: str, cell: Any = None) -> Messages:
        """A list of messages, each with role and content, or with from and value, from the column or from `cell`.
        Raises BadCell for anything else, and for an empty list."""
        value = self.cells[column] if cell is None else cell
        if not isinstance(value, list) or not value:
            raise self._bad(MALFORMED, f"holds no list of messages in column {column}", "each has role and content")
        return tuple(self._message(item, column) for item in value)

    def _message(self, item: Any, column: str) -> Mapping[str, Any]:
        if isinstance(item, dict) and {"from", "value"} <= item.keys():
            speaker = self._text(item["from"], column, "text")
            item = {"role": ROLES.get(speaker, speaker), "content": item["value"]}
        if not isinstance(item, dict) or not {"role", "content"} <= item.keys():
            problem = f"holds a message without role and content (or from and value) in column {column}"
            raise self._bad(MALFORMED, problem, "add them")
        return {**item, "role": self._text(item["role"], column, "text"), "content": self._content(item, column)}

    def _content(self, item: Mapping[str, Any], column: str) -> str:
        """A text, or the texts of blocks of type text, which are joined."""
        content = item["content"]
        if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            content = "".join(self._text(part.get("text"), column, "text") for part in content)
        text = self._text(content, column, "text in every message's content")
        return self._filled(text, column) if item["role"] == "assistant" else text

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
    if not (isinstance(value, str) and value.lstrip("\ufeff \r\n\t").startswith("[")):
        return [value]
    try:
        parsed = json.loads(value.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return [value]
    return parsed if isinstance(parsed, list) and all(isinstance(item, str) for item in parsed) else [value]
