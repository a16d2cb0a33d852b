"""From the columns of a row to a document and, where `data.task` verifies completions, to a question with tests or
references."""

import json
import re
from string import Formatter

from ebft.config.doors import is_door
from ebft.config.schema import ColumnsDataConfig, UserError
from ebft.data.documents import Document
from ebft.data.raw_row import Messages, RawRow
from ebft.data.testing import Untestable, tests_of
from ebft.tasks.base import Question

DIRECTION = re.compile(r"[a-z]{2,3}-[a-z]{2,3}")


def wanted_columns(config: ColumnsDataConfig) -> dict[str, str]:
    """Column -> the key that names it."""
    named = {
        column: f"data.{key}" for key, column in vars(config).items() if key.endswith("_column") and column is not None
    }
    return {column: "data.prompt_template" for _, column in _template(config) if column is not None} | named


def document(config: ColumnsDataConfig, row: RawRow) -> Document:
    """The key of a pair is its prompt, so that one question is never on both sides of a split. A row whose tests were
    to be dropped has no question. Raises UserError for cells that cannot be used."""
    if config.text_column is not None:
        text = row.text(config.text_column)
        return Document(text, "", text, row.origin)
    if messages := _messages(config, row):
        return _conversation(config, row, messages)
    assert config.completion_column is not None
    key, completion = _prompt(config, row), row.text(config.completion_column)
    prompt = key if config.border_space is None else key.rstrip(" ") or key
    completion = key[len(prompt) :] + completion
    return Document(key, prompt, completion, row.origin, _question(config, row, prompt, completion))


def _messages(config: ColumnsDataConfig, row: RawRow) -> Messages:
    """Those of a conversation; none where prompt and completion are texts."""
    if config.messages_column is not None:
        return row.messages(config.messages_column)
    if config.prompt_column is None or not isinstance(row.cells[config.prompt_column], list):
        return ()
    assert config.completion_column is not None
    completion = row.cells[config.completion_column]
    answer = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else None
    return row.messages(config.prompt_column) + row.messages(config.completion_column, answer)


def _conversation(config: ColumnsDataConfig, row: RawRow, messages: Messages) -> Document:
    """Split by what comes before the first answer. What is asked, where answers are verified, is the last one."""
    turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise UserError(f"{row.origin} holds no message of an assistant; add one, or remove the row.")
    key = json.dumps(messages[: turns[0]], sort_keys=True)
    answer = messages[turns[-1]]["content"]
    question = _question(config, row, key, answer)
    return Document(key, "", answer, row.origin, question, messages=messages)


def _template(config: ColumnsDataConfig) -> list[tuple[str, str | None]]:
    """Text and the column that follows it, if any. Raises UserError for a template that is none."""
    if config.prompt_template is None:
        return []
    try:
        parts = list(Formatter().parse(config.prompt_template))
    except ValueError as error:
        raise UserError(
            f"data.prompt_template is malformed ({error}); write a column as {{name}} and a brace of the text twice."
        ) from error
    if any(specification or conversion for _, _, specification, conversion in parts) or not any(
        column for _, column, _, _ in parts
    ):
        raise UserError(
            "data.prompt_template must hold columns as {name}, with nothing else inside the braces, and at least one."
        )
    return [(text, column) for text, column, _, _ in parts]


def _prompt(config: ColumnsDataConfig, row: RawRow) -> str:
    if config.prompt_template is None:
        assert config.prompt_column is not None
        return row.text(config.prompt_column)
    return "".join(text if column is None else text + row.lines(column) for text, column in _template(config))


def _question(config: ColumnsDataConfig, row: RawRow, prompt: str, completion: str) -> Question | None:
    if config.task is None:
        return None
    if config.task != "unit_tests":
        references, direction = _references(config, row, completion), _direction(config, row)
        cells = row.cells if is_door(config.task) else {}
        return Question(prompt, prompt, completion, row.origin, references=references, direction=direction, row=cells)
    try:
        tests = tests_of(config, row, prompt, completion)
    except Untestable:
        if config.drop_untestable:
            return None
        raise
    return Question(
        prompt, prompt, completion, row.origin, tests, program_prefix=prompt if config.completes_prompt else ""
    )


def _references(config: ColumnsDataConfig, row: RawRow, completion: str) -> tuple[str, ...]:
    """The completion, and what else is known to be right."""
    further = [] if config.references_column is None else row.texts(config.references_column)
    if not all(reference.strip() for reference in further):
        raise UserError(
            f"{row.origin} holds an empty text in column {config.references_column}; fill it in or remove it."
        )
    return tuple(dict.fromkeys([completion, *further]))


def _direction(config: ColumnsDataConfig, row: RawRow) -> str:
    if config.direction_column is None:
        return ""
    direction = row.text(config.direction_column)
    if not DIRECTION.fullmatch(direction):
        raise UserError(
            f"{row.origin} holds {direction!r} in column {config.direction_column}; a direction is written as en-de."
        )
    return direction
