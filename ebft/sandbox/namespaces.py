"""A world of its own for a process and its children: users, processes, network, IPC and files.

The new root is a small tmpfs with nothing in it but the interpreter's library, read-only, /dev/null and an empty /tmp.
In there every program gets a file system of its own, so that not even the numbers of files tell it of earlier ones.
Root gives up its user first, so that files which belong to root do not belong to the program; anybody else keeps their
user, without any capability outside.
"""

import os
import signal
from collections.abc import Sequence

from ebft.sandbox import kernel

NOBODY = 65534
FOLDER = "/tmp"  # inside

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT = 1, 2, 4, 8, 32
_MS_BIND, _MS_REC, _MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18
_MNT_DETACH = 2
_NEW_ROOT = "/proc"  # covered by the new root while that is built; any folder that every system has would do


def enter(library: Sequence[str], size_bytes: int) -> int:
    """Leave the outer world. Returns in a new process, the first of its process namespace, what `fork_apart` needs; the
    caller's own process waits for that one and ends as it does. OSError, in the caller's process, where the system
    refuses."""
    user, group = os.geteuid(), os.getegid()
    if user != 0:
        kernel.call("unshare", kernel.CLONE_NEWUSER)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    kernel.call("unshare", kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC)
    own = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)  # which the new root does not have
    _change_root(library, size_bytes)
    if user == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # or /proc/self would still be root's
    kernel.call("unshare", kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID | kernel.CLONE_NEWNS)
    _map_own_user(own)
    child = os.fork()
    if child != 0:
        os.closerange(3, 256)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.pidfd_open(os.getpid())


def fork_apart(own_processes: int) -> int:
    """os.fork whose child is the first of a process namespace of its own: when it dies, so does whatever it started."""
    kernel.call("unshare", kernel.CLONE_NEWPID)
    child = os.fork()
    if child != 0:
        kernel.call("setns", own_processes, kernel.CLONE_NEWPID)
    return child


def mount_folder(folder: str, size_bytes: int) -> None:
    """A file system of its own in place of a folder, which counts its files from the start."""
    _mount("tmpfs", folder, "tmpfs", _MS_NOSUID | _MS_NODEV, f"mode=700,size={size_bytes}")


def unmount_folder(folder: str) -> None:
    kernel.call("umount2", folder.encode(), _MNT_DETACH)
    os.rmdir(folder)


def _map_own_user(own: int) -> None:
    """User and group are themselves in a new namespace of users; without, no file of a new file system could be
    theirs."""
    for name, text in [
        ("setgroups", "deny"),
        ("uid_map", f"{os.geteuid()} {os.geteuid()} 1"),
        ("gid_map", f"{os.getegid()} {os.getegid()} 1"),
    ]:
        descriptor = os.open(name, os.O_WRONLY, dir_fd=own)
        os.write(descriptor, text.encode())
        os.close(descriptor)
    os.close(own)


def _change_root(library: Sequence[str], size_bytes: int) -> None:
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", _NEW_ROOT, "tmpfs", _MS_NOSUID | _MS_NODEV, f"mode=755,size={size_bytes}")
    for path in library:
        os.makedirs(_NEW_ROOT + path, exist_ok=True)
        _mount(path, _NEW_ROOT + path, "", _MS_BIND | _MS_REC)
        # A mount from outside keeps the restrictions that it has there; to drop one of them is refused.
        kept = os.statvfs(_NEW_ROOT + path).f_flag & (_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
        _mount(path, _NEW_ROOT + path, "", _MS_BIND | _MS_REMOUNT | _MS_RDONLY | kept)
    os.mkdir(_NEW_ROOT + "/dev")
    _write(_NEW_ROOT + os.devnull, "")
    _mount(os.devnull, _NEW_ROOT + os.devnull, "", _MS_BIND)
    os.mkdir(_NEW_ROOT + FOLDER)
    os.chmod(_NEW_ROOT + FOLDER, 0o1777)
    os.chdir(_NEW_ROOT)
    kernel.call("pivot_root", b".", b".")
    kernel.call("umount2", b".", _MNT_DETACH)  # the old root, which now lies upon the new one
    os.chdir("/")


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    kernel.call("mount", source.encode(), target.encode(), kind.encode(), flags, options.encode())


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
