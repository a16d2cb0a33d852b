"""Confines the calling process by the parts of levels.py, and says what the interpreter itself must be able to read."""

import os
import resource
import signal
import sys
from collections.abc import Sequence

from ebft.sandbox import kernel, landlock, seccomp
from ebft.sandbox.levels import Limits

MAX_OPEN_FILES = 32
_OUR_PROCESSES = (
    3  # that share a user namespace with a program: the zygote, the one that waits for it, the other program of a pair
)


def library() -> list[str]:
    """The folders of the interpreter's own library, in a process that was started without others."""
    folders = [os.path.realpath(path) for path in sys.path if os.path.isdir(path)]
    return [folder for folder in folders if not any(folder.startswith(f"{other}/") for other in folders)]


def confine(parts: Sequence[str], limits: Limits, folder: str, packages: Sequence[str] = ()) -> None:
    """Confine the calling process for good. OSError or ValueError where the system refuses a part."""
    if sys.platform == "linux":
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    if "rlimits" in parts:
        _set_limits(limits, shared="namespaces" in parts)
    if "landlock" in parts:
        landlock.restrict(
            {
                **{os.path.dirname(package): landlock.LIST for package in packages},
                **dict.fromkeys([*library(), *packages], landlock.READ),
                os.devnull: landlock.USE_FILE,
                folder: landlock.WRITE_FLAT,
            }
        )
    if sys.platform == "linux":
        kernel.drop_capabilities()
    if "seccomp" in parts:
        seccomp.install(threads=limits.processes != 1)


def _set_limits(limits: Limits, shared: bool) -> None:
    """Processes are counted by user: where users are namespaced those of one zygote, elsewhere all of the user's, which
    are too many already."""
    for what, value in [
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.output_bytes),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_NPROC, (limits.processes or 1) + _OUR_PROCESSES * shared),
        (resource.RLIMIT_CORE, 0),
    ]:
        hard = resource.getrlimit(what)[1]
        resource.setrlimit(what, (value, value) if hard == resource.RLIM_INFINITY else (min(value, hard),) * 2)


def check_limits(limits: Limits) -> None:
    """OSError unless memory and processes of this confined process are limited indeed: some systems accept a limit and
    ignore it."""
    try:
        bytearray(limits.memory_bytes)
    except MemoryError:
        pass
    else:
        raise OSError("memory is not limited")
    try:
        child = os.fork()
    except OSError:
        return
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    raise OSError("processes are not limited")
