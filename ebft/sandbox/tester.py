"""The runner's side of a run: asks the program, compares outside its process, and says in a word how it did."""

import ast
import secrets
from collections.abc import Sequence
from typing import Any

from ebft.sandbox.beside import NONCE_BYTES
from ebft.sandbox.limits import Starved
from ebft.sandbox.outputs import same_output
from ebft.sandbox.programs import Exchange, Program
from ebft.sandbox.statements import imported
from ebft.sandbox.wire import Channel, TooLong, encode, same

PASSED = "passed"
CLOSED = "closed"  # the process went away; how it ended says why
STARVED = "starved"
IN_PROCESS = "in_process"  # the tests cannot be relayed
_ESCAPED_BYTES = 12  # of a character in JSON, at most

# How a program can fail by what its process or its tests report. That it passed is nobody's to report.
_REPORTS = {
    "broken_test", "exception", "exit", "forbidden", "memory", "no_entry_point", "no_test", "not_plain_data", "output",
    "syntax", "wrong_value",
}  # fmt: skip


class _Failed(Exception):
    def __init__(self, kind: Any) -> None:
        super().__init__(kind if isinstance(kind, str) and kind in _REPORTS else "exception")


class _NotRelayed(Exception):
    pass


class Asker:
    """Asks something of the processes of one run, which are `num_processes`."""

    num_processes = 1
    max_bytes: int | None = None  # of an answer; None: what the sandbox allows a program's

    def __init__(self) -> None:
        self.num_tests = 0

    def kind(self, channels: list[Channel]) -> str:
        """`passed`, `closed`, `starved`, `in_process`, or how the program failed. It passes if it did all that was
        asked of it, and something was. `channels` lead to the processes."""
        self._channels, self._channel = channels, channels[0]
        try:
            self._test()
        except _Failed as failure:
            return str(failure)
        except _NotRelayed:
            return IN_PROCESS
        except EOFError:
            return CLOSED
        except TimeoutError:
            return "timeout"
        except Starved:
            return STARVED
        except TooLong:
            return "output"
        except (RecursionError, ValueError):  # our own values that cannot travel, or a message that is no JSON
            return "not_plain_data"
        return PASSED if self.num_tests else "no_test"

    def _test(self) -> None:
        raise NotImplementedError


class Reader(Asker):
    """Has texts read one after another. `found` has what came of those at the front."""

    def __init__(self, how: str, texts: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self._how, self._texts = how, texts
        self.max_bytes = _ESCAPED_BYTES * max(sum(map(len, text)) for text in texts) + _ESCAPED_BYTES**2
        self.found: list[list[Any]] = []

    def _test(self) -> None:
        self._channel.send("read", self._how, self._texts)
        for _ in self._texts:
            self.found.append(self._channel.receive())


class Tester(Asker):
    """Tests one program. `num_tests` counts executed cases, asserts, test methods and exchanges."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self._program, self._tests = program, program.tests
        self._nonce = secrets.token_hex(NONCE_BYTES // 2)

    def _loaded(self) -> None:
        match self._channel.receive():
            case ["loaded"]:
                return
            case ["failed", kind]:
                raise _Failed(kind)
        raise _Failed("not_plain_data")


class CaseTester(Tester):
    """By the cases alone."""

    def _test(self) -> None:
        self._channel.send("program", self._tests.setup, self._program.source, self._tests.entry_point)
        self._loaded()
        for case in self._tests.cases:
            reply = self._ask(encode(list(case.arguments)), {}, False)
            self.num_tests += 1
            if reply[0] == "raised":
                raise _Failed(reply[1])
            if not same(reply[1], encode(case.expected)):
                raise _Failed("wrong_value")

    def _ask(self, arguments: Any, keywords: Any, watched: bool) -> list[Any]:
        """["value", tree] or ["raised", kind, names of the error's classes, its arguments]."""
        self._channel.send("call", arguments, keywords, watched)
        reply = self._channel.receive()
        match reply:
            case ["value", _] | ["raised", str(), [*_], [*_]]:
                return reply
            case ["failed", kind]:
                self._give_up(kind)
        raise _Failed("not_plain_data")

    def _give_up(self, kind: Any) -> None:
        raise _Failed(kind)


class RelayTester(CaseTester):
    """By the cases, and then by test code in a process of its own."""

    num_processes = 2

    def _test(self) -> None:
        super()._test()
        try:
            self._relay(self._channels[1])
        except (RecursionError, ValueError) as error:
            raise _NotRelayed from error

    def _relay(self, tests: Channel) -> None:
        """Carry calls from the tests to the program and answers back, until the tests say how it went."""
        tests.send("tests", self._tests.setup, self._tests.code, self._tests.entry_point, self._nonce)
        num_calls = 0
        while True:
            match tests.receive():
                case ["call", arguments, keywords, bool(watched)]:
                    tests.send(*self._ask(arguments, keywords, watched))
                    num_calls += 1
                case ["failed", kind, int(num_asserts)]:
                    self.num_tests += num_asserts
                    self._give_up(kind)
                case ["done", self._nonce, int(num_asserts)]:
                    if not (num_asserts and num_calls):  # asserts that never ask the program say nothing about it
                        raise _Failed("no_test")
                    self.num_tests += num_asserts
                    return
                case _:
                    raise _Failed("exception")

    def _give_up(self, kind: Any) -> None:
        if kind in (IN_PROCESS, "not_plain_data"):
            raise _NotRelayed
        raise _Failed(kind)


class BesideTester(Tester):
    """By test code in the program's own process. That it never asks the program cannot be seen here."""

    def _test(self) -> None:
        tests, imports = self._tests, sorted(imported(ast.parse(f"{self._tests.setup}\n{self._tests.code}")))
        self._channel.send("beside", tests.setup, self._program.source, tests.entry_point, imports)
        self._loaded()
        self._channel.send("tests", tests.code, list(tests.names))
        self._channel.send_bytes(self._nonce.encode())
        match self._channel.receive():
            case ["failed", kind, int(num_asserts)]:
                self.num_tests += num_asserts
                raise _Failed(kind)
            case ["done", self._nonce, int(num_asserts)]:
                self.num_tests += num_asserts
                return
        raise _Failed("exception")


class ScriptTester(Tester):
    """By what the whole program writes for an input: one exchange a process."""

    def __init__(self, program: Program, exchange: Exchange) -> None:
        super().__init__(program)
        self._exchange = exchange

    def _test(self) -> None:
        self._channel.send("script", self._program.source, self._exchange.given)
        match self._channel.receive():
            case ["written", "passed", str(written)]:
                self.num_tests += 1
                if not same_output(written, self._exchange.expected):
                    raise _Failed("wrong_value")
            case ["written", kind, str()]:
                self.num_tests += 1
                raise _Failed(kind)
            case ["failed", kind]:
                raise _Failed(kind)
            case _:
                raise _Failed("exception")
