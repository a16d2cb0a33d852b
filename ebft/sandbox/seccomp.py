"""System calls, by a seccomp filter: those that computing in Python needs are allowed, all others fail with EPERM.

Allowed is what a process can do to its own memory, to descriptors that it holds, to files that Landlock grants, and to
its own time. No socket but a stream pair of its own (asyncio wakes itself through one), no new program or process, no
thread unless asked for, no signal to anybody, no change to a file's mode, owner or times, no namespace, key, trace or
module. Where an argument decides, it is looked at: `fcntl` and `ioctl` could otherwise have the kernel signal a
process, and O_TRUNC empties a file that is open for reading only.
"""

import ctypes
import errno
import platform
import struct
from collections.abc import Iterator

from ebft.sandbox import kernel

# Name: number on x86_64, number on aarch64, which lacks the old forms of some.
NUMBERS: dict[str, tuple[int, int | None]] = {
    # memory
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "mremap": (25, 216),
    "madvise": (28, 233),
    # descriptors
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62), "pread64": (17, 67),
    "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66), "dup": (32, 23), "dup2": (33, None),
    "dup3": (292, 24), "fsync": (74, 82), "ftruncate": (77, 46), "pipe": (22, None), "pipe2": (293, 59),
    "eventfd2": (290, 19), "close_range": (436, 436), "fcntl": (72, 25), "ioctl": (16, 29), "sendto": (44, 206),
    "recvfrom": (45, 207), "shutdown": (48, 210), "socketpair": (53, 199),
    # waiting
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72), "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21), "epoll_wait": (232, None), "epoll_pwait": (281, 22), "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115), "sched_yield": (24, 124), "futex": (202, 98), "restart_syscall": (219, 128),
    # files
    "openat": (257, 56), "newfstatat": (262, 79), "statx": (332, 291), "access": (21, None), "faccessat": (269, 48),
    "faccessat2": (439, 439), "getdents64": (217, 61), "getcwd": (79, 17), "chdir": (80, 49), "readlink": (89, None),
    "readlinkat": (267, 78), "umask": (95, 166), "rename": (82, None), "renameat": (264, 38), "unlink": (87, None),
    "unlinkat": (263, 35),
    # its own signals and timers
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "alarm": (37, None), "getitimer": (36, 102), "setitimer": (38, 103),
    # what it may know
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "uname": (63, 160), "getrusage": (98, 165), "times": (100, 153),
    "gettimeofday": (96, 169), "clock_gettime": (228, 113), "clock_getres": (229, 114), "getrandom": (318, 278),
    "sched_getaffinity": (204, 123),
    # threads, and the end
    "clone": (56, 220), "set_tid_address": (218, 96), "set_robust_list": (273, 99), "rseq": (334, 293),
    "membarrier": (324, 283), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
_CLONE3 = 435  # on both

# Name: argument, mask, and the values of argument & mask that are allowed.
_CONDITIONS = {
    "openat": (2, 0o1003, (0o0, 0o1, 0o2, 0o1001, 0o1002)),  # O_TRUNC only with O_WRONLY or O_RDWR
    "fcntl": (1, 0xFFFF_FFFF, (0, 1, 2, 3, 4, 1030)),  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC
    "ioctl": (
        1,
        0xFFFF_FFFF,
        (0x5401, 0x5413, 0x5421, 0x5450, 0x5451),
    ),  # TCGETS, TIOCGWINSZ, FIONBIO, FIONCLEX, FIOCLEX
    "socketpair": (1, 0xF, (1,)),  # SOCK_STREAM: a datagram socket could send to others
    "clone": (0, 0x1_0000, (0x1_0000,)),  # CLONE_THREAD
}

_ARCHITECTURES = {"x86_64": (0, 0xC000_003E), "aarch64": (1, 0xC000_00B7)}  # column of NUMBERS, AUDIT_ARCH value
_LOAD, _AND, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
_ALLOW, _KILL_PROCESS, _FAIL = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16
_SECCOMP_MODE_FILTER = 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def install(threads: bool) -> None:
    """Filter this process for good. Needs no_new_privs; OSError on an architecture without a table here."""
    if platform.machine() not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no system call table for {platform.machine()}")
    column, architecture = _ARCHITECTURES[platform.machine()]
    instructions = b"".join(struct.pack("HBBI", *line) for line in _filter(column, architecture, threads))
    kernel.prctl(
        kernel.PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(_Program(len(instructions) // 8, instructions))
    )


def _filter(column: int, architecture: int, threads: bool) -> Iterator[tuple[int, int, int, int]]:
    """Instructions of classic BPF: operation, lines to skip if equal, lines to skip if not, operand."""
    yield (_LOAD, 0, 0, _ARCHITECTURE_OFFSET)
    yield (_JUMP_IF_EQUAL, 1, 0, architecture)
    yield (_RETURN, 0, 0, _KILL_PROCESS)
    yield (_LOAD, 0, 0, _NUMBER_OFFSET)
    for name, numbers in NUMBERS.items():
        number = numbers[column]
        if number is not None and (threads or name != "clone"):
            condition = list(_condition(*_CONDITIONS[name])) if name in _CONDITIONS else []
            yield (_JUMP_IF_EQUAL, 0, len(condition) + 1, number)
            yield from condition
            yield (_RETURN, 0, 0, _ALLOW)
    # The C library falls back from clone3, whose flags a filter cannot read, to clone if the kernel seems not to know
    # it.
    yield (_JUMP_IF_EQUAL, 0, 1, _CLONE3)
    yield (_RETURN, 0, 0, _FAIL | errno.ENOSYS)
    yield (_RETURN, 0, 0, _FAIL | errno.EPERM)


def _condition(argument: int, mask: int, values: tuple[int, ...]) -> Iterator[tuple[int, int, int, int]]:
    """Goes on behind its last line if argument & mask, of the lower 32 bits, is one of the values; fails otherwise."""
    yield (_LOAD, 0, 0, _ARGUMENTS_OFFSET + 8 * argument)
    yield (_AND, 0, 0, mask)
    for num_left, value in zip(reversed(range(len(values))), values, strict=True):
        yield (_JUMP_IF_EQUAL, num_left + 1, 0, value)
    yield (_RETURN, 0, 0, _FAIL | errno.EPERM)
