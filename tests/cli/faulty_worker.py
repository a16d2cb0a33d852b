"""A worker of which rank 1 fails before its third step, in the way that FAULT names."""

import os
import signal
import time
from typing import Any

from ebft.cli.worker import main
from ebft.train.optimization import Optimization

step = Optimization.step


def faulty(self: Optimization, method: Any, batch: Any, number: int, *limits: Any) -> dict[str, float]:
    if os.environ["RANK"] == "1" and number == 3:
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
    return step(self, method, batch, number, *limits)


Optimization.step = faulty  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
