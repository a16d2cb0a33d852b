"""What runs in a confined process: a model's program, or the tests of one. Nothing that is said here is believed
without a check outside.

The first message says which. A program's process answers calls; it never learns what the right values are. The tests'
process runs trusted statements in which the program's function is a stand-in (relayed.py), so that `==` and `assert`
happen where the program cannot reach. Tests that need more of the program than calls and plain values run in its own
process (beside.py), and a whole program is run on its input (script.py). Texts are only read (reading.py).
"""

import errno
import json
import random
import sys
from collections.abc import Callable
from dataclasses import astuple
from types import ModuleType
from typing import Any

from ebft.sandbox import beside, reading, relayed, script
from ebft.sandbox.wire import Channel, NotPlainData, decode, encode


def serve(channel: Channel) -> None:
    """Say that the process is confined, then do its one job."""
    random.seed(0)  # the same program gets the same verdict
    channel.send("ready")
    match channel.receive():
        case ["program", setup, source, entry_point]:
            _serve_program(channel, setup, source, entry_point)
        case ["tests", setup, code, entry_point, nonce]:
            relayed.RelayedTests(channel, nonce).run(setup, code, entry_point)
        case ["beside", setup, source, entry_point, imports]:
            beside.serve(channel, new_module(), load, kind_of, setup, source, entry_point, imports)
        case ["script", source, given]:
            script.serve(channel, kind_of, source, given)
        case ["read", how, texts]:
            for text in texts:
                channel.send(*astuple(reading.WAYS[how](*text)))


def new_module() -> dict[str, Any]:
    """The namespace of a program."""
    module = ModuleType("program")
    sys.modules["program"] = module  # some libraries look up the module of a class
    return module.__dict__


def _serve_program(channel: Channel, setup: str, source: str, entry_point: str) -> None:
    namespace = new_module()
    kind = load(namespace, setup, source, entry_point)
    if kind != "loaded":
        channel.send("failed", kind)
        return
    channel.send("loaded")
    while True:
        _, arguments, keywords, watched = channel.receive()
        channel.send(
            *_answer(
                namespace[entry_point],
                [decode(tree) for tree in arguments],
                {name: decode(tree) for name, tree in keywords.items()},
                [arguments, keywords] if watched else None,
            )
        )


def load(namespace: dict[str, Any], setup: str, source: str, entry_point: str) -> str:
    """Runs the program: `loaded`, or in a word why it cannot be called. Without an entry point it need have none."""
    try:
        exec(compile(setup, "<setup>", "exec"), namespace)
    except Exception:  # any error of the setup's is the setup's
        return "broken_test"
    try:
        code = compile(source, "<program>", "exec")
    except Exception:  # null bytes, lone surrogates, endless nesting: not only SyntaxError
        return "syntax"
    try:
        exec(code, namespace)
    except BaseException as error:  # whatever a program raises is its answer
        return kind_of(error)
    return "loaded" if not entry_point or callable(namespace.get(entry_point)) else "no_entry_point"


def _answer(
    function: Callable[..., Any], arguments: list[Any], keywords: dict[str, Any], sent: list[Any] | None
) -> list[Any]:
    """`sent` are the arguments as they came, where the tests look at them afterwards."""
    try:
        value = function(*arguments, **keywords)
    except BaseException as error:  # whatever a program raises is its answer
        names = [base.__name__ for base in type(error).__mro__]
        return ["raised", kind_of(error), names, _plain_arguments(error)]
    try:
        if sent is not None and _changed(arguments, keywords, sent):
            return ["failed", "in_process"]
        return ["value", encode(value)]
    except (NotPlainData, RecursionError):
        return ["failed", "not_plain_data"]


def _changed(arguments: list[Any], keywords: dict[str, Any], sent: list[Any]) -> bool:
    now = [[encode(value) for value in arguments], {name: encode(value) for name, value in keywords.items()}]
    return json.dumps(now) != json.dumps(sent)  # as text, because nan differs from itself


def _plain_arguments(error: BaseException) -> list[Any]:
    try:
        return [encode(argument) for argument in error.args]
    except (NotPlainData, RecursionError):
        return [str(error)]


def kind_of(error: BaseException) -> str:
    """How a program failed that raised this."""
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, PermissionError):
        return "forbidden"
    if isinstance(error, OSError) and error.errno in (errno.EFBIG, errno.ENOSPC):
        return "output"
    return "exit" if isinstance(error, SystemExit) else "exception"
