"""The statements of a test: what they need of the program, and the forms in which they are run."""

import ast
import builtins
from collections.abc import Collection, Iterator
from types import CodeType

COUNT, COMPARE, BUILTIN = "_ebft_count", "_ebft_compare", "_ebft_builtin_"
_COMPARED: dict[type[ast.cmpop], str] = {ast.Eq: "eq", ast.NotEq: "ne", ast.In: "in", ast.NotIn: "not_in"}

# Modules whose functions see values only, so that a test that uses them need not share the program's process.
_OF_VALUES = {
    "__future__", "bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq",
    "itertools", "json", "math", "numbers", "operator", "random", "re", "statistics", "string", "time", "typing",
}  # fmt: skip
_OF_THE_PROCESS = {"id", "open", "input", "globals", "locals", "vars", "__import__", "exec", "eval", "breakpoint"}


def counted(tree: ast.Module) -> CodeType:
    """The code with a count in front of every assert and in every handler of errors."""
    return compile(ast.fix_missing_locations(_Counting().visit(tree)), "<tests>", "exec")


def guarded(tree: ast.Module, names: Collection[str]) -> CodeType:
    """The code with a count in front of every assert, comparisons that a value of the program's cannot decide, and
    builtins that are Python's own, but for `names`."""
    own = {*names, *bound(tree)}
    tree = _Guarding({name for name in dir(builtins) if name not in own}).visit(_Counting().visit(tree))
    return compile(ast.fix_missing_locations(tree), "<tests>", "exec")


class _Counting(ast.NodeTransformer):
    """An error that is handled is as good a check as an assert."""

    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        return [_count(), node]

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.ExceptHandler:
        self.generic_visit(node)
        node.body.insert(0, _count())
        return node


def _count() -> ast.stmt:
    return ast.Expr(ast.Call(ast.Name(COUNT, ast.Load()), [], []))


class _Guarding(ast.NodeTransformer):
    def __init__(self, builtin_names: Collection[str]) -> None:
        self._builtin_names = builtin_names

    def visit_Name(self, node: ast.Name) -> ast.Name:
        if isinstance(node.ctx, ast.Load) and node.id in self._builtin_names:
            return ast.Name(BUILTIN + node.id, node.ctx)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        operator = _COMPARED.get(type(node.ops[0]))
        if len(node.ops) > 1 or operator is None:
            return node
        return ast.Call(ast.Name(COMPARE, ast.Load()), [ast.Constant(operator), node.left, *node.comparators], [])


def bound(*trees: ast.AST) -> Iterator[str]:
    """Every name that is defined, imported, assigned to, caught or a parameter anywhere in the code."""
    for tree in trees:
        for node in ast.walk(tree):
            match node:
                case (
                    ast.FunctionDef(name=name)
                    | ast.AsyncFunctionDef(name=name)
                    | ast.ClassDef(name=name)
                    | ast.arg(arg=name)
                    | ast.ExceptHandler(name=str(name))
                    | ast.MatchAs(name=str(name))
                    | ast.MatchStar(name=str(name))
                ):
                    yield name
                case ast.Name(id=name, ctx=ast.Store()):
                    yield name
                case ast.alias(name=name, asname=alias):
                    yield alias or name.partition(".")[0]


def imported(tree: ast.AST) -> set[str]:
    """The modules that the code imports, by their full names."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def free_names(tree: ast.AST, *given: ast.AST) -> set[str]:
    """Names that the code uses and neither it nor the code given before it binds."""
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return used - {*bound(tree, *given)}


def needs_program(tree: ast.Module, setup: ast.Module, entry_point: str) -> bool:
    """Whether the tests take more of the program than calls of its entry point: another of its names, the function
    itself, the identity of a value, or the process that it runs in."""
    known = {entry_point, "candidate", "__name__", *dir(builtins)} - _OF_THE_PROCESS
    return (
        bool(free_names(tree, setup) - known)
        or any(name.partition(".")[0] not in _OF_VALUES for name in imported(tree))
        or any(_takes_more(node, entry_point) for node in ast.walk(tree))
    )


def _takes_more(node: ast.AST, entry_point: str) -> bool:
    match node:
        case ast.Attribute(value=ast.Name(id=name)) if name in (entry_point, "candidate"):
            return True
        case ast.Attribute(value=ast.Name("random"), attr="seed" | "setstate"):
            return True
        case ast.FunctionDef(decorator_list=parts):
            return any(isinstance(part, ast.Name) and part.id == entry_point for part in map(_called, parts))
        case ast.ClassDef(decorator_list=decorators, bases=bases):
            parts = [*map(_called, decorators), *bases]
            return any(isinstance(part, ast.Name) and part.id == entry_point for part in parts)
        case ast.Compare(ops=operators, comparators=values):
            pairs = zip(operators, values, strict=True)
            return any(
                isinstance(operator, ast.Is | ast.IsNot)
                and not (isinstance(value, ast.Constant) or (isinstance(value, ast.Name) and _is_type(value.id)))
                for operator, value in pairs
            )
    return False


def _is_type(name: str) -> bool:
    return isinstance(vars(builtins).get(name), type)


def _called(node: ast.expr) -> ast.expr:
    return node.func if isinstance(node, ast.Call) else node


def looks_at_arguments(tree: ast.AST) -> bool:
    """Whether a value that is passed to a function has a name, under which the tests may look at it afterwards."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return any(
        isinstance(part, ast.Name | ast.Attribute | ast.Subscript | ast.Starred)
        for call in calls
        for argument in [*call.args, *(keyword.value for keyword in call.keywords)]
        for part in ast.walk(argument)
    )


def handles_errors(tree: ast.AST) -> bool:
    """Whether the tests may catch what a function raises, and look at it."""
    return any(isinstance(node, ast.Try | ast.TryStar | ast.With) for node in ast.walk(tree))
