"""Imports without the garbage collector: none of what they make is garbage, and to look through it again and again, and
once more at the program's end, takes two of five seconds."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Nothing is collected inside this block, and what is there at its end is not looked through afterwards."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
