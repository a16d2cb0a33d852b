"""Test code as data sets hold it: which function it tests, and what it takes to run it. Nothing here executes any of
it."""

import ast
import builtins
import re
from collections.abc import Iterable, Iterator
from itertools import chain


def first_assert(tests: ast.Module) -> ast.Assert | None:
    for statement in tests.body:
        asserts = [node for node in ast.walk(statement) if isinstance(node, ast.Assert)]
        if asserts:
            return min(asserts, key=_place)
    return None


def function_under_test(tests: ast.Module, setup: ast.Module) -> str | None:
    """The function that the first assert calls: of the names called there the first that is neither a builtin nor bound
    by setup or tests.

    `assert set(f(x)) == g(2)` gives f. None where there is no such call, as in `assert y == 3`.
    """
    first = first_assert(tests)
    if first is None:
        return None
    # asserts are many, and bind nothing for others
    others = [statement for statement in tests.body if not isinstance(statement, ast.Assert)]
    known = {*dir(builtins), *_bound([setup, first, *others])}
    called = [node.func for node in ast.walk(first.test) if isinstance(node, ast.Call)]
    names = [function for function in called if isinstance(function, ast.Name) and function.id not in known]
    return min(names, key=_place).id if names else None


def _place(node: ast.stmt | ast.expr) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _bound(trees: Iterable[ast.AST]) -> Iterator[str]:
    """Every name that is defined, imported, assigned to or a parameter anywhere in the code."""
    for node in chain.from_iterable(map(ast.walk, trees)):
        match node:
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
                | ast.arg(arg=name)
            ):
                yield name
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.alias(name=name, asname=alias):
                yield alias or name.partition(".")[0]


def checking(code: str, tests: ast.Module, entry_point: str) -> str:
    """`code`, followed by `check(ENTRY_POINT)` where it defines `check`, as HumanEval's tests do, and never calls it
    outside a function."""
    defines = calls = False
    for statement in tests.body:
        match statement:
            case ast.FunctionDef(name="check"):
                defines = True
            case ast.Expr(ast.Call(ast.Name("check"))):
                calls = True
    return f"{code}\ncheck({entry_point})\n" if defines and not calls else code


def before_definition(prompt: str, entry_point: str) -> str | None:
    """What a prompt holds before the function that it begins, such as imports and helpers; None where it begins no such
    function."""
    definition = re.search(rf"^(?:@.*\n)*(?:async[ \t]+)?def[ \t]+{entry_point}\b", prompt, re.MULTILINE)
    return None if definition is None else prompt[: definition.start()]
