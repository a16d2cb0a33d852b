"""Draws without chance: what a name picks is the same on every machine and in every version of Python."""

from collections.abc import Sequence
from hashlib import shake_256
from typing import Any

NUM_PICKS = 64


class Draws:
    """A sequence of up to NUM_PICKS picks, all determined by a name."""

    def __init__(self, name: str) -> None:
        self._bytes = iter(shake_256(name.encode()).digest(2 * NUM_PICKS))

    def pick(self, choices: Sequence[Any]) -> Any:
        return choices[(next(self._bytes) * 256 + next(self._bytes)) % len(choices)]

    def one_of_each(self, *pools: Sequence[Any]) -> list[Any]:
        return [choices[(next(self._bytes) * 256 + next(self._bytes)) % len(choices)] for choices in pools]

    def several(self, choices: Sequence[Any], count: int) -> list[Any]:
        """One pick after another, which may repeat."""
        size = len(choices)
        return [choices[(next(self._bytes) * 256 + next(self._bytes)) % size] for _ in range(count)]
