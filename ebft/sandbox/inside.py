"""What runs in a confined process: a model's program, or the tests of one. Nothing that is said here is believed
without a check outside.

The first message says which. A program's process answers calls; it never learns what the right values are. The tests'
process runs trusted statements in which the program's function is a stand-in: each call travels as plain data to the
program's process and back, so that `==` and `assert` happen where the program cannot reach. An argument changed in
place is therefore not seen by the tests.
"""

import ast
import builtins
import errno
import os
import random
import sys
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any, NoReturn

from ebft.sandbox.wire import Channel, NotPlainData, decode, encode

_COUNT = "_count_assert"

# What the stand-in may raise in a test. StopIteration would end a loop of the test's as if it had run out of values to
# check.
_ERRORS = {
    name: error
    for name, error in vars(builtins).items()
    if isinstance(error, type)
    and issubclass(error, Exception)
    and not issubclass(error, StopIteration | StopAsyncIteration | ExceptionGroup)
}


def serve(channel: Channel) -> None:
    """Say that the process is confined, then do its one job."""
    random.seed(0)  # the same program gets the same verdict
    channel.send("ready")
    match channel.receive():
        case ["program", setup, source, entry_point]:
            _serve_program(channel, setup, source, entry_point)
        case ["tests", setup, code, entry_point, nonce]:
            _Tests(channel, nonce).run(setup, code, entry_point)


def _serve_program(channel: Channel, setup: str, source: str, entry_point: str) -> None:
    module = ModuleType("program")
    sys.modules["program"] = module  # some libraries look up the module of a class
    kind, function = _load(module.__dict__, setup, source, entry_point)
    if function is None:
        channel.send("failed", kind)
        return
    channel.send("loaded")
    while True:
        _, arguments, keywords = channel.receive()
        channel.send(
            *_answer(
                function, [decode(tree) for tree in arguments], {name: decode(tree) for name, tree in keywords.items()}
            )
        )


def _load(
    namespace: dict[str, Any], setup: str, source: str, entry_point: str
) -> tuple[str, Callable[..., Any] | None]:
    """The program's function, or in a word why there is none."""
    try:
        exec(compile(setup, "<setup>", "exec"), namespace)
    except Exception:  # any error of the setup's is the setup's
        return "broken_test", None
    try:
        code = compile(source, "<program>", "exec")
    except Exception:  # null bytes, lone surrogates, endless nesting: not only SyntaxError
        return "syntax", None
    try:
        exec(code, namespace)
    except BaseException as error:  # whatever a program raises is its answer
        return _kind(error), None
    function = namespace.get(entry_point)
    return ("loaded", function) if callable(function) else ("no_entry_point", None)


def _answer(function: Callable[..., Any], arguments: list[Any], keywords: dict[str, Any]) -> list[Any]:
    try:
        value = function(*arguments, **keywords)
    except BaseException as error:  # whatever a program raises is its answer
        names = [base.__name__ for base in type(error).__mro__]
        return ["raised", _kind(error), names, _plain_arguments(error)]
    try:
        return ["value", encode(value)]
    except (NotPlainData, RecursionError):
        return ["failed", "not_plain_data"]


def _plain_arguments(error: BaseException) -> list[Any]:
    try:
        return [encode(argument) for argument in error.args]
    except (NotPlainData, RecursionError):
        return [str(error)]


def _kind(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, PermissionError):
        return "forbidden"
    if isinstance(error, OSError) and error.errno in (errno.EFBIG, errno.ENOSPC):
        return "output"
    return "exit" if isinstance(error, SystemExit) else "exception"


class _Tests:
    """Runs test statements and reports, with the nonce that proves the report to come from here, how many asserts were
    executed."""

    def __init__(self, channel: Channel, nonce: str) -> None:
        self._channel, self._nonce = channel, nonce
        self._num_asserts = 0
        self._raised: tuple[Exception, str] | None = None  # by the program last, and its kind

    def run(self, setup: str, code: str, entry_point: str) -> None:
        namespace: dict[str, Any] = {"__name__": "tests", _COUNT: self._count}
        try:
            tests = _count_asserts(code)
            exec(compile(setup, "<setup>", "exec"), namespace)
        except Exception:  # any error before the first test is not the program's
            self._fail("broken_test")
        namespace.update({entry_point: self._call, "candidate": self._call})
        try:
            exec(tests, namespace)
        except BaseException as error:  # a test may raise anything
            self._fail(self._kind(error))
        self._channel.send("done", self._nonce, self._num_asserts)

    def _kind(self, error: BaseException) -> str:
        if self._raised is not None and error is self._raised[0]:
            return self._raised[1]
        return "wrong_value" if isinstance(error, AssertionError) else "exception"

    def _count(self) -> None:
        self._num_asserts += 1

    def _call(self, *arguments: Any, **keywords: Any) -> Any:
        """The stand-in for the program's function."""
        try:
            message = [
                "call",
                [encode(value) for value in arguments],
                {name: encode(value) for name, value in keywords.items()},
            ]
        except (NotPlainData, RecursionError):
            self._fail("not_plain_data")
        self._channel.send(*message)
        match self._channel.receive():
            case ["raised", kind, names, arguments]:
                error = next(_ERRORS[name] for name in [*names, "Exception"] if name in _ERRORS)
                self._raised = error(*map(decode, arguments)), kind
                raise self._raised[0]
            case [_, tree]:
                return decode(tree)

    def _fail(self, kind: str) -> NoReturn:
        """Leaves no statement of the test's a chance to catch the end."""
        self._channel.send("failed", kind, self._num_asserts)
        os._exit(0)


def _count_asserts(code: str) -> CodeType:
    """The code with a count in front of every assert."""
    tree = _Counting().visit(ast.parse(code, "<tests>"))
    return compile(ast.fix_missing_locations(tree), "<tests>", "exec")


class _Counting(ast.NodeTransformer):
    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        return [ast.Expr(ast.Call(ast.Name(_COUNT, ast.Load()), [], [])), node]
