"""A whole program that reads standard input and writes standard output, as contests have it: run as `__main__`, to its
end, and what it wrote is compared outside."""

import atexit
import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from ebft.sandbox.wire import Channel

_INPUT, _OUTPUT = ".stdin", ".stdout"


class _Left(BaseException):
    """os._exit, which some programs end by."""


def serve(channel: Channel, kind_of: Callable[[BaseException], str], source: str, given: str) -> None:
    try:
        code = compile(source, "<program>", "exec")
    except Exception:  # null bytes, lone surrogates, endless nesting: not only SyntaxError
        channel.send("failed", "syntax")
        return
    with open(_INPUT, "w", encoding="utf-8", newline="") as file:
        file.write(given)
    kind = _run(code, kind_of)
    with open(_OUTPUT, encoding="utf-8", errors="replace", newline="") as file:
        written = file.read()
    channel.send("written", kind, written)


def _run(code: Any, kind_of: Callable[[BaseException], str]) -> str:
    """`passed`, or how the program failed, when it and its threads have ended and all that it wrote is in the file."""
    main = sys.modules["__main__"]
    main.__dict__.clear()
    main.__dict__.update(__name__="__main__", __builtins__=__builtins__)
    sys.argv = ["program.py"]
    _connect()
    kind = "passed"
    try:
        try:
            exec(code, main.__dict__)
        finally:
            threading._shutdown()  # type: ignore[attr-defined]  # waits for the program's threads
            atexit._run_exitfuncs()
    except _Left:
        pass
    except SystemExit as error:
        kind = "passed" if error.code in (None, 0) else "exit"
    except BaseException as error:  # whatever a program raises is its end
        kind = kind_of(error)
    with contextlib.suppress(OSError, ValueError, AttributeError):  # it closed or replaced it
        sys.stdout.flush()
    return kind


def _connect() -> None:
    given, written = os.open(_INPUT, os.O_RDONLY), os.open(_OUTPUT, os.O_RDWR | os.O_CREAT)
    os.unlink(_INPUT)  # not one of the program's files, which have a limit
    os.dup2(given, 0)
    os.dup2(written, 1)
    stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8")
    sys.stdin = sys.__stdin__ = stdin  # type: ignore[misc]
    stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), "utf-8", "surrogateescape")
    sys.stdout = sys.__stdout__ = stdout  # type: ignore[misc]

    def leave(code: int) -> NoReturn:
        raise _Left

    os._exit = leave  # type: ignore[assignment]
