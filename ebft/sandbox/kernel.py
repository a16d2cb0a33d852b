"""System calls that Python has no function for, through ctypes. Every failure is an OSError."""

import ctypes
import os
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

CLONE_NEWNS = 0x0002_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

_CAPABILITIES_VERSION_3 = 0x2008_0522


def call(name: str, *arguments: Any) -> int:
    """The C library's function `name`; numbers travel as C longs, so that pointers and 64-bit flags keep all their
    bits."""
    return _checked(
        getattr(_libc, name)(*(ctypes.c_long(value) if isinstance(value, int) else value for value in arguments))
    )


def syscall(number: int, *arguments: Any) -> int:
    return call("syscall", number, *arguments)


def prctl(option: int, *arguments: Any) -> None:
    call("prctl", option, *arguments, *[0] * (4 - len(arguments)))


def drop_capabilities() -> None:
    """Give up every capability of the calling process, for good where no_new_privs is set."""
    header, empty_sets = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    call("capset", header, empty_sets)


def _checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
