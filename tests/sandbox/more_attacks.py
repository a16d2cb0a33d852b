"""Further programs that mean harm, of kinds that `attacks.py` has not: system calls by their numbers, what the kernel
offers beside files, and the interpreter's own insides."""

import platform

from tests.sandbox.attacks import SUCCEEDED, Attack, attack, attempt

REFUSED = ("forbidden", "exception", "exit", "wrong_value", "memory")


def by_number(name: str, number: int, *arguments: str) -> Attack:
    """The system call of that name, by its number on x86-64 and through the C library; True if the kernel did it."""
    call = ", ".join([f"ctypes.c_long({number})", *(f"ctypes.c_long({argument})" for argument in arguments)])
    source = f"import ctypes\ndef f():\n    return ctypes.CDLL(None).syscall({call}) >= 0\n"
    return attack(source, *REFUSED, tests=SUCCEEDED)


SYSTEM_CALLS = {
    "io_uring, which no filter of calls sees through": by_number("io_uring_setup", 425, "8", "0"),
    "a program in the kernel": by_number("bpf", 321, "5", "0", "0"),
    "counters of the processor": by_number("perf_event_open", 298, "0", "0", "-1", "-1", "0"),
    "pages that tell of their use": by_number("userfaultfd", 323, "0"),
    "a key in the kernel's ring": by_number("keyctl", 250, "0", "-3", "1"),
    "shared memory": by_number("shmget", 29, "7", "4096", "0o1777"),
    "a queue of messages": by_number("msgget", 68, "7", "0o1777"),
    "semaphores": by_number("semget", 64, "7", "1", "0o1777"),
    "a mount": by_number("mount", 165, "0", "0", "0", "0", "0"),
    "a new mount": by_number("fsopen", 430, "0", "0"),
    "another root": by_number("chroot", 161, "0"),
    "a process by its number": by_number("pidfd_open", 434, "1", "0"),
    "another process's file": by_number("pidfd_getfd", 438, "0", "0", "0"),
    "writing into another process": by_number("process_vm_writev", 311, "1", "0", "0", "0", "0", "0"),
    "the kernel's log": by_number("syslog", 103, "3", "0", "0"),
    "the time of all": by_number("settimeofday", 164, "0", "0"),
    "the name of the machine": by_number("sethostname", 170, "0", "0"),
    "a module of the kernel": by_number("init_module", 175, "0", "0", "0"),
    "another personality, without random addresses": by_number("personality", 135, "0x0040000"),
    "watching files": by_number("inotify_init1", 294, "0"),
    "watching all files": by_number("fanotify_init", 300, "0", "0"),
    "a program from memory": by_number("execveat", 322, "0", "0", "0", "0", "0x1000"),
    "a process without fork": by_number("clone3", 435, "0", "0"),
    "a handle of a file": by_number("open_by_handle_at", 304, "0", "0", "0"),
}

INSIDES = {
    "the runner's frames": attack(
        "import sys\ndef f():\n    frame = sys._getframe()\n    while frame.f_back: frame = frame.f_back\n"
        "    frame.f_locals.clear()\n    return 'expected' in str(frame.f_globals)\n",
        "wrong_value",
    ),
    "objects that the collector knows": attack(
        "import gc\ndef f():\n    return any(type(o).__name__ in ('Case', 'Tests', 'CaseTester') for o in gc.get_objects())\n",  # noqa: E501
        "wrong_value",
    ),
    "a true that is false": attack(
        "import ctypes\ndef f():\n    ctypes.memmove(id(False), id(True), 28)\n    return False\n", *REFUSED
    ),
    "a profiler that answers": attack(
        "import sys\nsys.setprofile(lambda frame, event, value: True)\ndef f(): return False\n", "wrong_value"
    ),
    "a codec of its own": attack(
        "import codecs, json\njson.dumps = lambda *a, **k: '[\"value\", true]'\ndef f(): return False\n",
        "wrong_value",
        "not_plain_data",
        "exception",
        "exit",
    ),
    "a signal in the middle of its answer": attack(
        "import os, signal\nsignal.signal(signal.SIGALRM, lambda *_: os._exit(0))\nsignal.setitimer(signal.ITIMER_REAL, "  # noqa: E501
        "0.01)\ndef f():\n    while True: pass\n",
        "exit",
        "timeout",
        "forbidden",
    ),
    "a crash of the interpreter": attack("import ctypes\ndef f(): ctypes.string_at(0)\n", "exit"),
    "an answer at its exit": attack(
        "import atexit, os\natexit.register(lambda: os.write(1, b'passed'))\ndef f(): raise SystemExit(0)\n", "exit"
    ),
    "a thread that outlives it": attack(
        attempt("threading.Thread(target=lambda: time.sleep(99)).start()", "False", "threading, time"), *REFUSED
    ),
    "the time of the processor turned back": attack(attempt("time.clock_settime(0, 0.0)", imports="time"), *REFUSED),
    "a limit of another process": attack(attempt("resource.prlimit(1, resource.RLIMIT_CPU, (1, 1))", imports="resource") , *REFUSED),  # noqa: E501
    "a priority above others": attack(attempt("os.nice(-5)"), *REFUSED),
    "a terminal": attack(attempt("os.openpty()"), *REFUSED),
    "a pipe with a name": attack(attempt("os.mkfifo('pipe')"), *REFUSED),
    "a device": attack(attempt("os.mknod('disk', 0o60666, os.makedev(8, 0))"), *REFUSED),
    "an attribute beside a file": attack(attempt("open('a', 'w').close()\nos.setxattr('a', 'user.x', b'1')"), *REFUSED),
    "memory of the machine": attack(attempt("open('/dev/mem', 'rb')"), *REFUSED),
    "kernel settings": attack(attempt("open('/proc/sys/kernel/core_pattern', 'w')"), *REFUSED),
}  # fmt: skip

MORE_ATTACKS = INSIDES | (SYSTEM_CALLS if platform.machine() == "x86_64" else {})
