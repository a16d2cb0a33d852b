"""What the training loop knows of a method."""

from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from ebft.types import Batch

Counts = dict[str, Int[Tensor, ""]]


@dataclass(frozen=True)
class Loss:
    """A micro-batch's share of the loss, and of its parts before they were weighted."""

    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]


Prepared = TypeVar("Prepared")


@runtime_checkable
class Method(Protocol[Prepared]):
    """An algorithm as the loop sees it: prepare every micro-batch of an optimiser step, then take the loss of each.

    `counts` are a micro-batch's shares of the denominators; the loop adds them up over the optimiser batch before any loss is taken, so that
    the losses of the micro-batches add up to the whole batch's.
    """

    def prepare(self, batch: Batch, step: int) -> Prepared:
        """Everything that needs no gradient: rollouts, features, rewards, advantages."""
        ...

    def counts(self, prepared: Prepared) -> Counts: ...

    def loss(self, prepared: Prepared, totals: Counts) -> Loss: ...

    def metrics(self, prepared: list[Prepared]) -> dict[str, float]:
        """Figures of the whole optimiser batch."""
        ...

    def rollouts(self, num_blocks: float) -> str:
        """What is sampled of a row with so many blocks, for people."""
        ...

    def tokens_per_row(self, row_length: int, num_blocks: float) -> dict[str, float]:
        """What a row with so many blocks costs in each phase, in the unit of `tokens_forwarded` (method.md section 9)."""
        ...

    @property
    def tokens_forwarded(self) -> float:
        """Tokens forwarded so far, in forwards of the full policy; a backward counts as two."""
        ...
