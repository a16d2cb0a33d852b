"""Runs a batch of programs in a process of its own, which may be another user's and have no more than the standard
library."""

import pickle
import sys
from pathlib import Path

from ebft.sandbox import Sandbox, kernel


def main() -> None:
    """In the other process: programs on stdin, level and outcomes on stdout."""
    config, programs, denied = pickle.load(sys.stdin.buffer)
    if denied:
        deny_namespaces()
    with Sandbox(config) as sandbox:
        result = sandbox.level, sandbox.run_all(programs)
    sys.stdout.buffer.write(pickle.dumps(result))


def deny_namespaces() -> None:
    """From here on the kernel refuses to make user namespaces, which is all that is left to a process without the
    capability to do without."""
    kernel.call("unshare", kernel.CLONE_NEWUSER)
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
    kernel.drop_capabilities()
