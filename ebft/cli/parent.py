"""Ending with the process that started this one."""

import ctypes
import os
import signal
import sys

from ebft.sweep.attempt import PARENT

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """Makes this process end with its parent: on Linux the kernel sends SIGTERM when the parent has ended, even by
    SIGKILL; elsewhere an orphan runs on, and its lock with it."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.environ[PARENT] != str(os.getppid()):  # it ended before the kernel knew
        os.kill(os.getpid(), signal.SIGTERM)
