"""A worker that meets the others as a run's does and loads no model: rank 1 fails in the way that FAULT names, or all
refuse."""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ebft.cli.worker import main
from ebft.config.schema import TrainConfig, UserError
from ebft.parallel.world import World
from tests.cli.faults import strike


def train(config: TrainConfig, run_dir: Path, world: World) -> str:
    if os.environ["FAULT"] == "refuse":
        raise UserError("model.path=./nowhere does not exist; name another.")
    for number in range(5):
        if world.rank == 1 and number == 3:
            strike()
        world.barrier()
    return "completed"


loop: Any = ModuleType("ebft.train.loop")
loop.train = train
sys.modules[loop.__name__] = loop

if __name__ == "__main__":
    main()
