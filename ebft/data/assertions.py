"""Test code as data sets hold it: which function it tests, and what it takes to run it. Nothing here executes any of
it."""

import ast
import builtins
import re
from collections.abc import Collection, Iterator

from ebft.sandbox.statements import bound, free_names

BUILTINS = frozenset(dir(builtins))
_CANDIDATES = {"candidate", "func", "fn", "function", "f"}  # parameters of a check that stand for the function
_RUNS_TESTS = {"main", "run"}


def first_assert(tests: ast.Module) -> ast.Assert | None:
    for statement in tests.body:
        asserts = [node for node in ast.walk(statement) if isinstance(node, ast.Assert)]
        if asserts:
            return min(asserts, key=_place)
    return None


def checks_something(tests: ast.Module) -> bool:
    """Whether the code holds an assert, a handler of an error, or a test class."""
    return any(isinstance(node, ast.Assert | ast.ExceptHandler) for node in ast.walk(tests)) or bool(
        test_classes(tests)
    )


def test_classes(tests: ast.Module) -> list[str]:
    """The unittest classes of the code."""
    return [
        node.name
        for node in tests.body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("TestCase") for base in node.bases)
    ]


def function_under_test(tests: ast.Module, setup: ast.Module, defined: Collection[str] = ()) -> str | None:
    """The function that the first assert calls: of the names called there the first that setup and tests do not bind
    and the reference answer defines; without such, the first that is no builtin. Where the first assert tells nothing,
    the first name anywhere, called or not, that the reference defines.

    `assert set(f(x)) == g(2)` gives f. None where there is no such call, as in `assert y == 3`.
    """
    # asserts are many, and bind nothing for others
    first = first_assert(tests)
    others = [statement for statement in tests.body if not isinstance(statement, ast.Assert)]
    known = {*bound(setup, *others), *(bound(first) if first is not None else ())}
    called = [] if first is None else _called(first.test)
    names = [name for name in called if name not in known]
    used = sorted((node for node in ast.walk(tests) if isinstance(node, ast.Name)), key=_place)
    everywhere = [name for name in (*_called(tests), *(node.id for node in used)) if name not in known]
    return (
        next((name for name in names if name in defined), None)
        or next((name for name in names if name not in BUILTINS), None)
        or next((name for name in everywhere if name in defined), None)
    )


def _called(node: ast.AST) -> list[str]:
    """The names that are called, in the order of the text."""
    calls = [part.func for part in ast.walk(node) if isinstance(part, ast.Call)]
    functions = sorted((function for function in calls if isinstance(function, ast.Name)), key=_place)
    return [function.id for function in functions]


def _place(node: ast.stmt | ast.expr) -> tuple[int, int]:
    return node.lineno, node.col_offset


def definitions(program: ast.Module) -> Iterator[str]:
    """The names that a program binds at its top level, in the order of the text."""
    for statement in program.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name
        elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.Import | ast.ImportFrom):
            yield from bound(statement)


def main_function(program: ast.Module) -> str | None:
    """The function that a program is about: the last at its top level that no other one there uses."""
    functions = [node for node in program.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    used = {name for node in functions for name in free_names(node) - {node.name}}
    names = [node.name for node in functions]
    return next((name for name in reversed(names) if name not in used), names[-1] if names else None)


def runnable(code: str, tests: ast.Module, entry_point: str) -> str:
    """`code` with a call of each check in it that is never called outside a function: HumanEval's `check`, which takes
    the function, and functions without arguments whose name begins with `test`. A run of its test classes, which are
    run in any case, is left out."""
    calls = {name for statement in tests.body if not _is_definition(statement) for name in _called(statement)}
    added = [
        f"{node.name}({argument})"
        for node in tests.body
        if isinstance(node, ast.FunctionDef) and node.name not in calls
        for argument in _arguments(node, entry_point)
    ]
    if any(map(_runs_test_classes, tests.body)):
        code = ast.unparse(ast.Module([node for node in tests.body if not _runs_test_classes(node)], []))
    return "\n".join([code, *added, ""]) if added else code


def _is_definition(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def _arguments(node: ast.FunctionDef, entry_point: str) -> list[str]:
    """The arguments to call a check with, at most one; none of these where it is no check."""
    given = node.args
    needed = [*given.posonlyargs, *given.args][: len(given.posonlyargs) + len(given.args) - len(given.defaults)]
    if any(default is None for default in given.kw_defaults):
        return []
    if not needed:
        return [""] if node.name.startswith("test") or node.name == "check" else []
    takes_it = node.name == "check" or (node.name.startswith("test") and needed[0].arg in _CANDIDATES)
    return [entry_point] if len(needed) == 1 and takes_it else []


def _runs_test_classes(statement: ast.stmt) -> bool:
    match statement:
        case ast.Expr(ast.Call(ast.Attribute(value=value, attr=name))):
            return name in _RUNS_TESTS and ast.unparse(value).startswith("unittest")
    return False


def before_definition(prompt: str, entry_point: str) -> str | None:
    """What a prompt holds before the function that it begins, such as imports and helpers; None where it begins no such
    function."""
    definition = re.search(rf"^(?:@.*\n)*(?:async[ \t]+)?def[ \t]+{entry_point}\b", prompt, re.MULTILINE)
    return None if definition is None else prompt[: definition.start()]
