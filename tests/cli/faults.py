"""The ways in which a process of several can fail."""

import os
import signal
import time


def strike() -> None:
    """What the environment variable FAULT names, to this process."""
    match os.environ["FAULT"]:
        case "throw":
            raise ZeroDivisionError("this rank is broken")
        case "sleep":
            time.sleep(1000)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "term":
            os.kill(os.getpid(), signal.SIGTERM)
