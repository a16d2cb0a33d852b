"""Which rows an optimiser step trains on: a pure function of the step, so that resuming needs nothing but its
number."""

from functools import lru_cache

import numpy as np
from jaxtyping import Int

from ebft.config.schema import UserError


def steps_per_epoch(num_rows: int, batch_size: int) -> int:
    """Whole batches in an epoch. Raises UserError if there is not one."""
    if num_rows < batch_size:
        raise UserError(
            f"trainer.batch_size={batch_size} is above the {num_rows} rows of the training data; lower it or add data."
        )
    return num_rows // batch_size


def order(num_rows: int, seed: int, step: int, batch_size: int) -> list[int]:
    """The rows of step `step`, counted from 0. Every epoch is a permutation drawn from (seed, epoch), cut into whole
    batches; the rows left over, fewer than a batch, are other ones each time."""
    epoch, index = divmod(step, steps_per_epoch(num_rows, batch_size))
    return _permutation(num_rows, seed, epoch)[index * batch_size : (index + 1) * batch_size].tolist()


@lru_cache(maxsize=2)
def _permutation(num_rows: int, seed: int, epoch: int) -> Int[np.ndarray, "rows"]:
    rows = np.random.default_rng([seed, epoch]).permutation(num_rows)
    rows.flags.writeable = False
    return rows
