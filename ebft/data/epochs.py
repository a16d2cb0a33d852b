"""Which rows an optimiser step trains on: a pure function of the step, so that resuming needs nothing but its number."""

from functools import lru_cache
from math import gcd

import numpy as np
from jaxtyping import Int

from ebft.config import UserError

Permutation = Int[np.ndarray, "rows"]


def order(num_rows: int, seed: int, step: int, batch_size: int) -> list[int]:
    """The rows of step `step`, counted from 0. Every epoch is a permutation drawn from (seed, epoch); a batch may straddle two of them, and
    then the second one begins with rows that the batch does not yet hold, so no batch holds a row twice."""
    if num_rows < batch_size:
        raise UserError(f"trainer.batch_size={batch_size} is above the {num_rows} rows of the training data; lower it or add data.")
    epoch, start = divmod(step * batch_size, num_rows)
    rows = _epoch(num_rows, seed, epoch, batch_size)[start : start + batch_size]
    if len(rows) < batch_size:
        rows = np.concatenate([rows, _epoch(num_rows, seed, epoch + 1, batch_size)[: batch_size - len(rows)]])
    return [int(row) for row in rows]


def _epoch(num_rows: int, seed: int, epoch: int, batch_size: int) -> Permutation:
    """The epoch's permutation after its first rows were kept apart from the last rows of the epoch before.

    Keeping apart touches the first batch_size places only. With two batches an epoch the end of the previous epoch is therefore as drawn;
    with fewer the chain goes back to the last epoch that began together with a batch.
    """
    epochs_between_aligned_starts = batch_size // gcd(num_rows, batch_size)
    first = max(epoch - 1, 0) if num_rows >= 2 * batch_size else epoch - epoch % epochs_between_aligned_starts
    rows = _drawn(num_rows, seed, first)
    for later in range(first + 1, epoch + 1):
        num_before = later * num_rows % batch_size  # rows that the straddling batch takes from the epoch before
        rows = _kept_apart(_drawn(num_rows, seed, later), rows[num_rows - num_before :], batch_size)
    return rows


def _kept_apart(rows: Permutation, taken: Int[np.ndarray, "taken"], batch_size: int) -> Permutation:
    """`rows` with those of the first batch_size that are in `taken` moved behind the batch's share, order otherwise kept."""
    head, rest = rows[:batch_size], rows[batch_size:]
    clash = np.isin(head, taken)
    return np.concatenate([head[~clash], head[clash], rest])


@lru_cache(maxsize=2)
def _drawn(num_rows: int, seed: int, epoch: int) -> Permutation:
    rows = np.random.default_rng([seed, epoch]).permutation(num_rows)
    rows.flags.writeable = False
    return rows
