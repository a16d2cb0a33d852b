"""Tests in a process of their own: each call travels as plain data to the program's process and back.

What they cannot see from here, such as another name of the program or an argument changed in place, they report as
`in_process`: the tests must run beside the program, or not at all.
"""

import ast
import builtins
import os
from typing import Any, NoReturn

from ebft.sandbox.statements import COUNT, counted, handles_errors, looks_at_arguments
from ebft.sandbox.wire import Channel, NotPlainData, decode, encode

# What the stand-in may raise in a test. StopIteration would end a loop of the test's as if it had run out of values to
# check.
_ERRORS = {
    name: error
    for name, error in vars(builtins).items()
    if isinstance(error, type)
    and issubclass(error, Exception)
    and not issubclass(error, StopIteration | StopAsyncIteration | ExceptionGroup)
}


class RelayedTests:
    """Runs test statements and reports, with the nonce that proves the report to come from here, how many asserts were
    executed."""

    def __init__(self, channel: Channel, nonce: str) -> None:
        self._channel, self._nonce = channel, nonce
        self._num_asserts = 0
        self._watched = self._handles_errors = False
        self._raised: tuple[Exception, str] | None = None  # by the program last, and its kind

    def run(self, setup: str, code: str, entry_point: str) -> None:
        namespace: dict[str, Any] = {"__name__": "tests", COUNT: self._count}
        try:
            tree = ast.parse(code, "<tests>")
            self._watched, self._handles_errors = looks_at_arguments(tree), handles_errors(tree)
            tests = counted(tree)
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
        if isinstance(error, NameError):  # of the program's, perhaps
            return "in_process"
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
                self._watched,
            ]
        except (NotPlainData, RecursionError):
            self._fail("not_plain_data")
        self._channel.send(*message)
        match self._channel.receive():
            case ["raised", kind, names, arguments]:
                if self._handles_errors and names[0] not in _ERRORS:
                    self._fail("in_process")
                error = next(_ERRORS[name] for name in [*names, "Exception"] if name in _ERRORS)
                self._raised = error(*map(decode, arguments)), kind
                raise self._raised[0]
            case [_, tree]:
                return decode(tree)

    def _fail(self, kind: str) -> NoReturn:
        """Leaves no statement of the test's a chance to catch the end."""
        self._channel.send("failed", kind, self._num_asserts)
        os._exit(0)
