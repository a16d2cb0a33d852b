"""What confines a program, by part, and the levels that the parts add up to.

    rlimits      memory, processor time, file size, open files, core dumps; no further process
    seccomp      the system call filter
    landlock     the files and ports that may be opened
    namespaces   users, processes, network, IPC and mounts of its own

A level holds if all its parts do, and a part counts only if it worked when it was tried on this machine. Parts of a
higher level that work are used even where a lower one fails; they just earn no level. Below `landlock` a program can
read and change what its user can; with `none` it has a process of its own and its time, and nothing else holds it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

MAX_THREADS = 16
PARTS = ("rlimits", "seccomp", "landlock", "namespaces")
LEVELS = {"none": (), "rlimits": PARTS[:1], "landlock": PARTS[:3], "namespaces": PARTS}  # from the weakest


@dataclass(frozen=True)
class Limits:
    cpu_seconds: int  # at which the system kills, far above the limit that the runner holds a program to
    memory_bytes: int  # of address space
    output_bytes: int  # of a message to us, of a file, and of all files together
    processes: int | None  # threads, the first included; None: MAX_THREADS where they can be counted, otherwise one


@dataclass(frozen=True)
class Settings:
    """What the runner tells the zygote."""

    parts: Sequence[str]  # to try
    limits: Limits
    folder: str  # where private folders are made, unless the processes have a root of their own
    packages: Sequence[str] = ()  # folders of packages that programs may import beside the standard library


def level(parts: Sequence[str]) -> str:
    """The strongest level whose parts all hold."""
    return [name for name, needed in LEVELS.items() if set(needed) <= set(parts)][-1]
