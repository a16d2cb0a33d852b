"""A process that tells what it finds at its start, as JSON, and fails; or its kind; or sleeps, perhaps beside another.

python -m tests.start_probe [kind | sleep [beside another] | ...]
"""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy
import torch
from hydra.core.global_hydra import GlobalHydra


def found() -> dict[str, object]:
    pid = os.getpid()
    mask = os.umask(0)
    return {
        "arguments": sys.argv,
        "command": Path("/proc/self/cmdline").read_text().rstrip("\0").split("\0"),
        "name": __name__,
        "main": sys.modules["__main__"].__dict__ is globals(),
        "package": __spec__.name,
        "path": sys.path,
        "folder": os.getcwd(),
        "variables": dict(os.environ),
        "umask": mask,
        "descriptors": {number: kind_of(number) for number in range(3, 1000) if kind_of(number)},
        "signals": {number: str(signal.getsignal(number)) for number in sorted(signal.valid_signals())},
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "leads its session": os.getsid(0) == pid,
        "leads its group": os.getpgid(0) == pid,
        "parent": os.getppid(),
        "torch's threads": torch.get_num_threads(),
        "handlers": [str(handler) for handler in logging.getLogger().handlers],
        "level": logging.getLogger().level,
        "Hydra is initialized": GlobalHydra().is_initialized(),
        "streams": [(stream.encoding, stream.errors, stream.line_buffering) for stream in (sys.stdout, sys.stderr)],
        "input": sys.stdin.read(),
    }


def kind_of(number: int) -> str | None:
    try:
        return os.readlink(f"/proc/self/fd/{number}").partition(":")[0]
    except FileNotFoundError:
        return None


def main() -> None:
    match sys.argv[1:]:
        case ["kind"]:
            print(f"{subprocess.Popen.__module__}.{subprocess.Popen.__name__}")
        case ["sleep", *others]:
            if others:
                print(subprocess.Popen([sys.executable, "-m", __spec__.name, "sleep"], stdout=subprocess.DEVNULL).pid)
            print("asleep", flush=True)
            time.sleep(1000)
        case _:
            drawn = [random.random(), float(numpy.random.random()), torch.rand(1).item()]
            print(json.dumps({"found": found(), "random": drawn}))
            raise ZeroDivisionError("as asked")


if __name__ == "__main__":
    main()
