"""From the columns of a row to the tests of its question."""

import ast
import json
import textwrap
from collections.abc import Sequence
from keyword import iskeyword
from typing import Any

from ebft.config.schema import ColumnsDataConfig, UserError
from ebft.data.assertions import (
    BUILTINS,
    before_definition,
    checks_something,
    definitions,
    function_under_test,
    main_function,
    runnable,
    test_classes,
)
from ebft.data.raw_row import RawRow
from ebft.sandbox.functions import parse
from ebft.sandbox.programs import Exchange, Tests
from ebft.sandbox.reading import blocks
from ebft.sandbox.statements import free_names, needs_program


class Untestable(UserError):
    """Tests that are missing or of no use, which `data.drop_untestable` drops."""

    def __init__(self, row: RawRow, complaint: str) -> None:
        super().__init__(
            f"{row.origin} {complaint}; correct or remove the row, or drop all such rows with "
            "data.drop_untestable=true."
        )


def tests_of(config: ColumnsDataConfig, row: RawRow, prompt: str, completion: str) -> Tests:
    """Raises Untestable."""
    exchanges = _exchanges(config, row)
    if exchanges is not None:
        return Tests("", exchanges=exchanges)
    code, setup = _code(row, config.tests_column), _code(row, config.setup_column)
    tests, prepared = _tree(row, code, config.tests_column), _tree(row, setup, config.setup_column)
    if not checks_something(tests):
        raise Untestable(row, f"has no assert in column {config.tests_column}")
    reference = _reference(prompt + completion if config.completes_prompt else completion)
    entry_point = _entry_point(config, row, tests, prepared, reference)
    if config.completes_prompt:
        helpers = before_definition(prompt, entry_point)
        if helpers is None or parse(helpers) is None:
            raise Untestable(
                row, f"has a prompt that does not begin the function {entry_point}, as data.completes_prompt=true says"
            )
        setup = "\n".join(part for part in (setup, helpers) if part)  # the tests may call what the prompt defines
        prepared = ast.parse(setup)
    code = runnable(code, tests, entry_point)
    in_process = bool(test_classes(tests)) or needs_program(ast.parse(code), prepared, entry_point)
    own_builtins = sorted(free_names(tests) & BUILTINS & set(definitions(reference)))
    return Tests(entry_point, code=code, setup=setup, in_process=in_process, names=tuple(own_builtins))


def _code(row: RawRow, column: str | None) -> str:
    return "" if column is None else "\n".join(map(clean, row.texts(column)))


def clean(code: str) -> str:
    """Code without what files and tables add to it: a byte order mark, foreign line ends, a common indentation."""
    return textwrap.dedent(code.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n"))


def _tree(row: RawRow, code: str, column: str | None) -> ast.Module:
    tree = parse(code)
    if tree is None:
        raise Untestable(row, f"holds code in column {column} that does not compile")
    return tree


def _reference(answer: str) -> ast.Module:
    """The program of a reference answer, wherever in its text; an empty one where there is none."""
    trees = [parse(clean(text)) for text in (answer, *(block.code for block in blocks(answer)))]
    return next((tree for tree in trees if tree is not None), ast.Module([], []))


def _entry_point(
    config: ColumnsDataConfig, row: RawRow, tests: ast.Module, setup: ast.Module, reference: ast.Module
) -> str:
    column = config.entry_point_column
    name = row.cells[column] if column is not None else _tested(tests, setup, reference)
    if name is None and column is None:
        raise Untestable(
            row,
            f"has a first assert in column {config.tests_column} that calls no function of the program's (name "
            "data.entry_point_column)",
        )
    if not isinstance(name, str) or not name.isidentifier() or iskeyword(name):
        raise Untestable(row, f"holds {name!r} in column {column}, which is no name of a function")
    return name


def _tested(tests: ast.Module, setup: ast.Module, reference: ast.Module) -> str | None:
    """What the tests call; where they name nothing, as `check(candidate)` does, what the reference answer is about."""
    name = function_under_test(tests, setup, set(definitions(reference)))
    names_nothing = not free_names(tests, setup) - BUILTINS
    return main_function(reference) if name is None and names_nothing else name


def _exchanges(config: ColumnsDataConfig, row: RawRow) -> tuple[Exchange, ...] | None:
    """What a program reads and must write; None for a row with test code."""
    if config.stdout_column is not None:
        given = [] if config.stdin_column is None else row.texts(config.stdin_column)
        return _paired(row, given, row.texts(config.stdout_column), config.stdout_column)
    assert config.tests_column is not None
    found = _structured(row.cells[config.tests_column])
    return None if found is None else _paired(row, *found, config.tests_column)


def _paired(row: RawRow, given: Sequence[Any], expected: Sequence[Any], column: str) -> tuple[Exchange, ...]:
    inputs, outputs = [*map(_text, given or [""] * (len(expected) == 1))], [*map(_text, expected)]
    if not outputs or len(inputs) != len(outputs):
        raise Untestable(row, f"has {len(inputs)} inputs for the {len(outputs)} outputs of column {column}")
    pairs = zip(inputs, outputs, strict=True)
    if any(given is None or expected is None for given, expected in pairs):
        raise Untestable(row, f"holds inputs or outputs in column {column} that are no text")
    return tuple(Exchange(str(given), str(expected)) for given, expected in zip(inputs, outputs, strict=True))


def _text(value: Any) -> str | None:
    """A text, or lines of one."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    return value if isinstance(value, str) else None


def _structured(cell: Any) -> tuple[list[Any], list[Any]] | None:
    """Inputs and outputs in one cell, as APPS and CodeContests have them: {"inputs": [...], "outputs": [...]}, or a
    list of {"input": ..., "output": ...}, or JSON of either. None for anything else, and for calls of a function."""
    if isinstance(cell, str) and cell.lstrip("\ufeff \r\n\t").startswith(("{", "[")):
        try:
            cell = json.loads(cell.lstrip("\ufeff"))
        except (ValueError, RecursionError):
            return None
    if isinstance(cell, list) and cell and all(isinstance(item, dict) for item in cell):
        if not all({"input", "output"} <= item.keys() for item in cell):
            return None
        return [item["input"] for item in cell], [item["output"] for item in cell]
    if not isinstance(cell, dict) or cell.get("fn_name"):
        return None
    for names in (("inputs", "outputs"), ("input", "output")):
        if all(isinstance(cell.get(name), list) for name in names):
            return cell[names[0]], cell[names[1]]
    return None
