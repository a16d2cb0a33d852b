"""Further programs that mean harm, of kinds that `attacks.py` has not: system calls by their numbers, what the kernel
offers beside files, and the interpreter's own insides."""

import platform

from tests.sandbox.attacks import SUCCEEDED, Attack, attack, attempt

REFUSED = ("forbidden", "exception", "exit", "wrong_value", "memory")


def by_number(name: str, number: int, *arguments: str) -> Attack:
    """The system call of that name, by its number on x86-64 and through the C library; True if the kernel looked at it:
    without harm, it mostly says that there is nothing at address 0."""
    call = ", ".join([f"ctypes.c_long({number})", *(f"ctypes.c_long({argument})" for argument in arguments)])
    source = (
        "import ctypes, errno\ndef f():\n    libc = ctypes.CDLL(None, use_errno=True)\n"
        f"    return libc.syscall({call}) >= 0 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS)\n"
    )
    return attack(source, "wrong_value", tests=SUCCEEDED)


SYSTEM_CALLS = {
    "io_uring, which no filter of calls sees through": by_number("io_uring_setup", 425, "8", "0"),
    "a program in the kernel": by_number("bpf", 321, "5", "0", "0"),
    "counters of the processor": by_number("perf_event_open", 298, "0", "0", "-1", "-1", "0"),
    "pages that tell of their use": by_number("userfaultfd", 323, "0"),
    "a key in the kernel's ring": by_number("keyctl", 250, "0", "-3", "1"),
    "shared memory": by_number("shmget", 29, "7", "4096", "0"),
    "a queue of messages": by_number("msgget", 68, "7", "0"),
    "semaphores": by_number("semget", 64, "7", "1", "0"),
    "a mount": by_number("mount", 165, "0", "0", "0", "0", "0"),
    "a new mount": by_number("fsopen", 430, "0", "0"),
    "another root": by_number("chroot", 161, "0"),
    "a process by its number": by_number("pidfd_open", 434, "1", "0"),
    "another process's file": by_number("pidfd_getfd", 438, "0", "0", "0"),
    "writing into another process": by_number("process_vm_writev", 311, "1", "0", "0", "0", "0", "0"),
    "the kernel's log": by_number("syslog", 103, "3", "0", "0"),
    "the time of all": by_number("settimeofday", 164, "0", "0"),
    "the name of the machine": by_number("sethostname", 170, "0", "-1"),
    "a module of the kernel": by_number("init_module", 175, "0", "0", "0"),
    "another personality, without random addresses": by_number("personality", 135, "0x0040000"),
    "watching files": by_number("inotify_init1", 294, "0"),
    "watching all files": by_number("fanotify_init", 300, "0", "0"),
    "a program from memory": by_number("execveat", 322, "0", "0", "0", "0", "0x1000"),
    "a process without fork": by_number("clone3", 435, "0", "0"),
    "a handle of a file": by_number("open_by_handle_at", 304, "0", "0", "0"),
}

# Refused by some kernels, whatever the filter says, to whoever has no capability.
PRIVILEGED = {
    "a program in the kernel", "a mount", "a new mount", "the kernel's log", "the time of all",
    "the name of the machine", "a module of the kernel", "a handle of a file", "watching all files",
    "counters of the processor", "another root", "pages that tell of their use",
}  # fmt: skip

INSIDES = {
    "objects that the collector knows": attack(
        "import gc\ndef f():\n"
        "    return any(type(o).__name__ in ('Case', 'Tests', 'CaseTester') for o in gc.get_objects())\n",
        "wrong_value",
    ),
    "the right values in any frame": attack(
        "import sys\ndef f():\n    frame, found = sys._getframe(), False\n    while frame:\n"
        "        found |= any('expec' + 'ted=' in repr(value) for value in [*frame.f_locals.values()])\n"
        "        frame = frame.f_back\n    return found\n",
        "wrong_value",
    ),
    "a signal in the middle of its answer": attack(
        "import os, signal\nsignal.signal(signal.SIGALRM, lambda *_: os._exit(0))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.01)\ndef f():\n    while True: pass\n",
        "exit",
    ),
    "a crash of the interpreter": attack("import ctypes\ndef f(): ctypes.string_at(0)\n", "exit"),
    "an answer at its exit": attack(
        "import atexit, os\natexit.register(lambda: os.write(1, b'passed'))\ndef f(): raise SystemExit(0)\n", "exit"
    ),
}
# What the system would do for anybody; each does no harm where nothing refuses it.
OFFERS = {
    "a limit of another process": attack(
        attempt("resource.prlimit(os.getppid(), resource.RLIMIT_CORE)", imports="os, resource"), *REFUSED
    ),
    "other processors": attack(attempt("os.sched_setaffinity(0, os.sched_getaffinity(0))"), *REFUSED),
    "another priority": attack(attempt("os.nice(1)"), *REFUSED),
    "a terminal": attack(attempt("os.openpty()"), *REFUSED),
    "a pipe with a name": attack(attempt("os.mkfifo('pipe')"), *REFUSED),
    "a socket with a name": attack(attempt("socket.socket(socket.AF_UNIX).bind('here')", imports="socket"), *REFUSED),
    "a socket that hears all packets": attack(
        attempt("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)", imports="socket"), *REFUSED
    ),
    "an attribute beside a file": attack(attempt("open('a', 'w').close()\nos.setxattr('a', 'user.x', b'1')"), *REFUSED),
    "a second name for a file": attack(attempt("open('a', 'w').close()\nos.link('a', 'b')"), *REFUSED),
    "room without writing": attack(
        attempt("with open('a', 'w') as file: os.posix_fallocate(file.fileno(), 0, 1 << 16)"), *REFUSED
    ),
    "another device": attack(attempt("open('/dev/zero', 'rb').read(1)"), *REFUSED),
    "its own place before the killer": attack(attempt("open('/proc/self/oom_score_adj', 'r+')"), *REFUSED),
    "names of all processes": attack(attempt("pass", "any(map(str.isdigit, os.listdir('/proc')))"), *REFUSED),
    "settings of the kernel": attack(attempt("open('/proc/sys/kernel/osrelease').read()"), *REFUSED),
    "locked memory": attack(
        attempt("libc = ctypes.CDLL(None)", "libc.mlock(ctypes.create_string_buffer(4096), 4096) == 0", "ctypes"),
        *REFUSED,
    ),
}

MORE_ATTACKS = INSIDES | OFFERS | (SYSTEM_CALLS if platform.machine() == "x86_64" else {})
