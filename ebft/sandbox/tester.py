"""The runner's side of a run: asks the program, compares outside its process, and says in a word how it did."""

import secrets
from typing import Any

from ebft.sandbox.programs import Program
from ebft.sandbox.wire import Channel, TooLong, encode, same

PASSED = "passed"
CLOSED = "closed"  # the process went away; how it ended says why

# How a program can fail by what its process or its tests report. That it passed is nobody's to report.
_REPORTS = {
    "broken_test", "exception", "exit", "forbidden", "memory", "no_entry_point", "no_test", "not_plain_data", "output",
    "syntax", "wrong_value",
}  # fmt: skip


class _Failed(Exception):
    def __init__(self, kind: Any) -> None:
        super().__init__(kind if isinstance(kind, str) and kind in _REPORTS else "exception")


class ProgramTester:
    """Tests one program by its cases and then by its test code. `num_tests` counts executed cases and asserts."""

    def __init__(self, program: Program, channel: Channel, tests_channel: Channel | None) -> None:
        self._program, self._tests = program, program.tests
        self._channel, self._tests_channel = channel, tests_channel
        self._nonce = secrets.token_hex(16)
        self.num_tests = 0

    def kind(self) -> str:
        """`passed`, `closed`, or how the program failed. It passes if it did all that was asked of it, and something
        was."""
        try:
            self._load()
            for case in self._tests.cases:
                self._check(encode(list(case.arguments)), encode(case.expected))
            if self._tests_channel is not None:
                self._relay(self._tests_channel)
        except _Failed as failure:
            return str(failure)
        except EOFError:
            return CLOSED
        except TimeoutError:
            return "timeout"
        except TooLong:
            return "output"
        except (RecursionError, ValueError):  # our own values that cannot travel, or a message that is no JSON
            return "not_plain_data"
        return PASSED if self.num_tests else "no_test"

    def _load(self) -> None:
        self._channel.send("program", self._tests.setup, self._program.source, self._tests.entry_point)
        match self._channel.receive():
            case ["loaded"]:
                return
            case ["failed", kind]:
                raise _Failed(kind)
        raise _Failed("not_plain_data")

    def _check(self, arguments: list[Any], expected: Any) -> None:
        reply = self._ask(arguments, {})
        self.num_tests += 1
        if reply[0] == "raised":
            raise _Failed(reply[1])
        if not same(reply[1], expected):
            raise _Failed("wrong_value")

    def _ask(self, arguments: Any, keywords: Any) -> list[Any]:
        """["value", tree] or ["raised", kind, names of the error's classes, its arguments]."""
        self._channel.send("call", arguments, keywords)
        reply = self._channel.receive()
        match reply:
            case ["value", _] | ["raised", str(), [*_], [*_]]:
                return reply
            case ["failed", kind]:
                raise _Failed(kind)
        raise _Failed("not_plain_data")

    def _relay(self, tests: Channel) -> None:
        """Carry calls from the tests to the program and answers back, until the tests say how it went."""
        tests.send("tests", self._tests.setup, self._tests.code, self._tests.entry_point, self._nonce)
        num_calls = 0
        while True:
            match tests.receive():
                case ["call", arguments, keywords]:
                    tests.send(*self._ask(arguments, keywords))
                    num_calls += 1
                case ["failed", kind, int(num_asserts)]:
                    self.num_tests += num_asserts
                    raise _Failed(kind)
                case ["done", self._nonce, int(num_asserts)]:
                    if not (num_asserts and num_calls):  # asserts that never ask the program say nothing about it
                        raise _Failed("no_test")
                    self.num_tests += num_asserts
                    return
                case _:
                    raise _Failed("exception")
