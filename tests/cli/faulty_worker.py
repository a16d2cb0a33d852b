"""A worker of which rank 1 fails before its third step, in the way that FAULT names."""

import os
from typing import Any

from ebft.cli.worker import main
from ebft.train.optimization import Optimization
from tests.cli.faults import strike

step = Optimization.step


def faulty(self: Optimization, method: Any, batch: Any, number: int, *limits: Any) -> dict[str, float]:
    if os.environ["RANK"] == "1" and number == 3:
        strike()
    return step(self, method, batch, number, *limits)


Optimization.step = faulty  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
