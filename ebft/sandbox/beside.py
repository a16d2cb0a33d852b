"""Tests that run in the program's own process, because they take more of it than calls and plain values: other names, a
class, values that cannot travel, arguments changed in place.

A program could in principle tamper with them. What makes that hard: the tests arrive when the program has run; what it
replaced by then, in Python's builtins and in the modules that the tests import, they see as it was; comparisons are
those of guarded.py; the verdict needs a nonce that is read from the socket when the tests have ended, by functions that
no program can replace; and an end before that is a failure. What remains is a program that reads the interpreter's
frames or the socket while it is being called.
"""

import ast
import builtins
import importlib
import os
import sys
import types
from collections.abc import Callable
from typing import Any, NoReturn

from ebft.sandbox.guarded import compare, is_honest, is_plain
from ebft.sandbox.statements import BUILTIN, COMPARE, COUNT, free_names, guarded
from ebft.sandbox.wire import Channel

NONCE_BYTES = 32
_LENGTH_BYTES = 4

_BUILTINS = dict(vars(builtins))
globals()["__builtins__"] = _BUILTINS

Load = Callable[[dict[str, Any], str, str, str], str]


def serve(
    channel: Channel,
    namespace: dict[str, Any],
    load: Load,
    kind_of: Callable[[BaseException], str],
    setup: str,
    source: str,
    entry_point: str,
    imports: list[str],
) -> None:
    """Runs the program, then its tests in the same namespace, as one file would."""
    kept = _Kept(imports)
    kind = load(namespace, setup, source, "")
    if kind == "loaded" and entry_point and entry_point not in namespace:
        kind = "no_entry_point"
    if kind != "loaded":
        channel.send("failed", kind)
        return
    channel.send("loaded")
    tests = _Tests(channel, kind_of)
    tests.prepare(namespace, entry_point, *channel.receive()[1:])
    kept.restore()
    tests.run(namespace)


class _Kept:
    """The modules that the tests import, and the classes in them, as they are before the program runs."""

    def __init__(self, imports: list[str]) -> None:
        self._modules: dict[str, types.ModuleType] = {}
        self._members: list[tuple[Any, dict[str, Any]]] = []
        for name in imports:
            try:
                module = importlib.import_module(name)
            except ImportError:  # the test will say so
                continue
            related = {other: sys.modules[other] for other in sys.modules if other.startswith(f"{name}.")}
            for other, one in {name: module, **related}.items():
                self._keep(other, one)

    def _keep(self, name: str, module: types.ModuleType) -> None:
        self._modules[name] = module
        self._members.append((module, dict(vars(module))))
        for value in vars(module).values():
            if isinstance(value, type) and value.__flags__ & (1 << 9):  # a class that can be changed
                self._members.append((value, dict(vars(value))))

    def restore(self) -> None:
        sys.modules.update(self._modules)
        for owner, members in self._members:
            now = vars(owner)
            for name, value in members.items():
                if name not in now or now[name] is not value:
                    setattr(owner, name, value)


class _Tests:
    def __init__(self, channel: Channel, kind_of: Callable[[BaseException], str]) -> None:
        self._send, self._receive = channel.primitives()
        self._exit, self._kind_of = os._exit, kind_of
        self._num_asserts = 0
        self._trusted: tuple[type, ...] = ()
        self._classes: list[str] = []
        self._code: types.CodeType | None = None

    def prepare(self, namespace: dict[str, Any], entry_point: str, code: str, names: list[str]) -> None:
        """Nothing that lives on holds the tests' text, where a program would look first."""
        try:
            tree = ast.parse(code, "<tests>")
            used = free_names(tree)
            self._classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
            self._code = guarded(tree, [*names, entry_point])
        except Exception:  # any error before the first test is not the program's
            self._fail("broken_test")
        named = (namespace[name] for name in used if name in namespace)
        self._trusted = tuple(value for value in named if isinstance(value, type))
        if entry_point:
            namespace.setdefault("candidate", namespace[entry_point])
        namespace.update({BUILTIN + name: value for name, value in _BUILTINS.items()})
        namespace["__builtins__"] = dict(_BUILTINS)
        namespace[COUNT] = self._count
        namespace[COMPARE] = lambda operator, left, right: compare(operator, left, right, self._trusted)

    def run(self, namespace: dict[str, Any]) -> None:
        assert self._code is not None
        try:
            exec(self._code, namespace)
            kind = self._run_classes(namespace)
        except AssertionError:
            kind = "wrong_value"
        except BaseException as error:  # a test may raise anything
            kind = "exit" if type(error) is SystemExit else self._kind_of(error)
        if kind != "passed":
            self._fail(kind)
        nonce = self._receive(NONCE_BYTES)
        self._say(f'["done", "{nonce.decode()}", {self._num_asserts}]')

    def _run_classes(self, namespace: dict[str, Any]) -> str:
        """Runs the unittest classes that the tests define."""
        if "unittest" not in sys.modules:
            return "passed"
        import unittest

        suite = unittest.TestSuite()
        for value in map(namespace.get, self._classes):
            if isinstance(value, type) and issubclass(value, unittest.TestCase):
                _guard(value, self._trusted)
                suite.addTests(unittest.defaultTestLoader.loadTestsFromTestCase(value))
        result = unittest.TestResult()
        suite.run(result)
        self._num_asserts += result.testsRun - len(result.skipped)
        if result.wasSuccessful():
            return "passed"
        return "exception" if result.errors else "wrong_value"

    def _count(self) -> None:
        self._num_asserts += 1

    def _fail(self, kind: str) -> NoReturn:
        """Says it once the nonce has come: to whom is gone by then it could not be sent, and nobody would hear why."""
        self._receive(NONCE_BYTES)
        self._say(f'["failed", "{kind}", {self._num_asserts}]')
        self._exit(0)

    def _say(self, message: str) -> None:
        content = message.encode()
        self._send(len(content).to_bytes(_LENGTH_BYTES, "big") + content)


def _guard(kind: type, trusted: tuple[type, ...]) -> None:
    """Has the methods of a test class that compare two values look at them first."""
    for name in dir(kind):
        method = getattr(kind, name)
        if not name.startswith("assert") or not ("Equal" in name or name in ("assertIn", "assertIs")):
            continue
        if "Not" in name:
            continue

        def checked(self: Any, first: Any, second: Any, *others: Any, _method: Any = method, **keywords: Any) -> None:
            if (is_plain(first) and not is_honest(second, trusted)) or (
                is_plain(second) and not is_honest(first, trusted)
            ):
                self.fail("a value that only says that it is equal")
            _method(self, first, second, *others, **keywords)

        setattr(kind, name, checked)
