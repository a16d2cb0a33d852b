"""The filter, line by line in a small interpreter of its own: numbers as in the kernel's headers, and arguments where
they decide."""

import errno
import re
from pathlib import Path

import pytest

from ebft.sandbox import seccomp

HEADERS = {0: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), 1: Path("/usr/include/asm-generic/unistd.h")}
X86_64, AARCH64 = 0xC000_003E, 0xC000_00B7
ALLOWED, KILLED, REFUSED, UNKNOWN = 0x7FFF_0000, 0x8000_0000, 0x5_0000 | errno.EPERM, 0x5_0000 | errno.ENOSYS


def verdict(number: int, *arguments: int, architecture: int = X86_64, threads: bool = False) -> int:
    """What the filter says to a system call, by running it as the kernel does."""
    lines = list(
        seccomp._filter(0 if architecture != AARCH64 else 1, AARCH64 if architecture == AARCH64 else X86_64, threads)
    )
    words = {
        0: number,
        4: architecture,
        **{16 + 8 * place: value & 0xFFFF_FFFF for place, value in enumerate(arguments)},
    }
    value = at = 0
    while True:
        operation, if_equal, if_not, operand = lines[at]
        at += 1
        if operation == 0x06:
            return operand
        if operation == 0x20:
            value = words[operand]
        elif operation == 0x54:
            value &= operand
        else:
            assert operation == 0x15
            at += if_equal if value == operand else if_not


def number(name: str) -> int:
    return seccomp.NUMBERS[name][0]


@pytest.mark.parametrize("column", HEADERS)
def test_numbers_are_the_kernels(column: int) -> None:
    if not HEADERS[column].exists():
        pytest.skip(f"needs {HEADERS[column]}")
    text = re.sub(
        r"__NR3264_(fstatat|fstat|lseek|mmap|fcntl|ftruncate)\b",
        lambda match: f"__NR_{match[1]}",
        HEADERS[column].read_text(),
    )
    known = dict(re.findall(r"#define __NR_(\w+) (\d+)", text))
    known["newfstatat"] = known.get("newfstatat", known.get("fstatat"))
    assert {
        name: numbers[column] for name, numbers in seccomp.NUMBERS.items() if numbers[column] != _int(known.get(name))
    } == {}


def _int(text: str | None) -> int | None:
    return None if text is None else int(text)


def test_computing_is_allowed_and_the_rest_refused() -> None:
    assert verdict(number("read"), 0, 0, 0) == ALLOWED
    assert verdict(63, 0, 0, 0, architecture=AARCH64) == ALLOWED  # read there, uname here
    assert verdict(41, 1, 1, 0) == REFUSED  # socket
    assert verdict(59, 0, 0, 0) == REFUSED  # execve
    assert verdict(62, 1, 9) == REFUSED  # kill
    assert verdict(10_000) == REFUSED


def test_another_architecture_is_killed() -> None:
    """A 32-bit call has other numbers, and would be judged by the wrong table."""
    assert verdict(number("read"), 0, 0, 0, architecture=0x4000_0003) == KILLED


def test_threads_only_where_asked_for_and_processes_never() -> None:
    thread, process = 0x3D0F00, 0x1200011
    assert verdict(number("clone"), thread) == REFUSED
    assert verdict(number("clone"), thread, threads=True) == ALLOWED
    assert verdict(number("clone"), process, threads=True) == REFUSED
    assert verdict(435, 0) == UNKNOWN  # clone3: the C library then uses clone


@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("openat", (0, 0, 0o100), ALLOWED),  # O_RDONLY | O_CREAT
        ("openat", (0, 0, 0o1101), ALLOWED),  # O_WRONLY | O_CREAT | O_TRUNC
        ("openat", (0, 0, 0o1002), ALLOWED),  # O_RDWR | O_TRUNC
        ("openat", (0, 0, 0o1000), REFUSED),  # O_RDONLY | O_TRUNC
        ("openat", (0, 0, 0o1003), REFUSED),
        ("fcntl", (0, 3), ALLOWED),  # F_GETFL
        ("fcntl", (0, 8), REFUSED),  # F_SETOWN
        ("fcntl", (0, 10), REFUSED),  # F_SETSIG
        ("fcntl", (0, 1031), REFUSED),  # F_SETPIPE_SZ
        ("ioctl", (0, 0x5401), ALLOWED),  # TCGETS
        ("ioctl", (0, 0x5412), REFUSED),  # TIOCSTI
        ("socketpair", (1, 0x80801), ALLOWED),  # SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK
        ("socketpair", (1, 2), REFUSED),  # SOCK_DGRAM
    ],
)
def test_arguments_decide(name: str, arguments: tuple[int, ...], answer: int) -> None:
    assert verdict(number(name), *arguments) == answer
