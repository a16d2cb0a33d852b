"""What the training loop knows of a method."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from ebft.config.schema import TrainConfig
from ebft.cost.workload import group_room
from ebft.models.decoder import UPDATE_TOKENS
from ebft.models.own_features import Phi
from ebft.models.policy import LanguageModel
from ebft.tasks.grader import Grader
from ebft.types import Batch

Counts = dict[str, Shaped[Tensor, ""]]  # sums over a micro-batch, which add up over the optimiser batch
Cut = tuple[int, int]  # a micro-batch of a batch: its first row and the one behind its last


@dataclass(frozen=True)
class Loss:
    """A micro-batch's share of the loss, and of its parts before they were weighted."""

    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]


@dataclass(frozen=True)
class Tally:
    """A mean as far as one process has it: how many values, their sum, the sum of their squares. Tallies of the same
    name add up."""

    sums: Float[Tensor, "3"]  # in float64
    is_spread: bool = False  # the values' standard deviation is wanted, not their mean

    @classmethod
    def of(cls, values: Shaped[Tensor, "*n"], counted: Bool[Tensor, "*n"], is_spread: bool = False) -> "Tally":
        held = torch.where(counted, values, 0).double()
        return cls(torch.stack([counted.sum().double(), held.sum(), held.square().sum()]), is_spread)

    @classmethod
    def ratio(cls, total: Shaped[Tensor, ""], count: Shaped[Tensor, ""]) -> "Tally":
        return cls(torch.stack([count, total, total]).double())

    def figure(self, count: float, total: float, squares: float) -> float | None:
        """The mean or standard deviation of everybody's sums; None where nothing counts."""
        if not count:
            return None
        mean = total / count
        return math.sqrt(max(0.0, squares / count - mean**2)) if self.is_spread else mean


@dataclass(frozen=True)
class Ingredients:
    """What set-up has for a method, as far as the method's config says that it needs it."""

    config: TrainConfig
    policy: LanguageModel
    phi: Phi
    stop_tokens: tuple[int, ...]  # each ends a branch; without any it runs on
    grader: Grader | None = None  # of the training questions, for a method that asks them
    reference: LanguageModel | None = None  # the policy before training, for a method that needs it
    micro_batches_together: int = 1  # whose rollouts find room together


Prepared = TypeVar("Prepared")


def branch_tokens(batch: Batch, max_tokens: int | None) -> int | None:
    """Tokens that every row of a micro-batch has for its branches at a time: under a limit of `max_tokens` those that
    the row leaves, without one those of `group_room`; None: for all of them."""
    rows, row_tokens = batch.tokens.shape
    if max_tokens is not None:
        return max_tokens // rows - row_tokens
    group_tokens = UPDATE_TOKENS[batch.tokens.device.type]
    return None if group_tokens is None else group_room(rows, row_tokens, group_tokens)


def differentiate(
    method: "Method[Prepared]", prepared: Prepared, totals: Counts, max_tokens: int | None
) -> dict[str, Float[Tensor, ""]]:
    """Add the gradient of a micro-batch's loss to those of the parameters. Returns the loss, and its parts by name."""
    figures: dict[str, Tensor] = {}
    for loss in method.losses(prepared, totals, max_tokens):
        loss.total.backward()
        for name, value in {"loss": loss.total, **loss.parts}.items():
            figures[name] = figures.get(name, torch.zeros_like(value)) + value.detach()
    return figures


@runtime_checkable
class Method(Protocol[Prepared]):
    """An algorithm as the loop sees it: prepare every micro-batch of an optimiser step, then take the loss of each.

    `counts` are a micro-batch's shares of the denominators and of whatever else losses need summed over the optimiser
    batch; the loop adds them up before any loss is taken, so that the losses of the micro-batches add up to the whole
    batch's.
    """

    def prepare(self, batch: Batch, step: int, is_only_microbatch: bool) -> Prepared:
        """Everything that needs no gradient: rollouts, features, rewards, advantages. Of the only micro-batch of a
        step a forward may be kept, with its graph, for the losses, which can then be taken only once."""
        ...

    def counts(self, prepared: Prepared) -> Counts: ...

    def losses(self, prepared: Prepared, totals: Counts, max_tokens: int | None) -> Iterator[Loss]:
        """Losses that add up to the micro-batch's. The gradient of each is to be taken before the next, so that at most
        `max_tokens` hold activations at a time."""
        ...

    def row_tokens(self, batch: Batch) -> list[int]:
        """Tokens of every row with all its rollouts, at most."""
        ...

    def metrics(self, prepared: list[Prepared]) -> dict[str, Tally]:
        """Figures of the micro-batches; the loop adds up those of several processes. Which there are depends on the
        config alone."""
        ...

    @property
    def tokens_forwarded(self) -> float:
        """Tokens forwarded so far, in forwards of the full policy; a backward counts as two."""
        ...


@runtime_checkable
class PreparesTogether(Protocol[Prepared]):
    """A method that prepares several micro-batches faster together than one by one."""

    def prepare_together(self, batch: Batch, cuts: list[Cut], step: int) -> list[Prepared]:
        """What `prepare` makes of each micro-batch alone."""
        ...


def prepare_all(method: Method[Prepared], batch: Batch, cuts: list[Cut], step: int) -> list[Prepared]:
    """Every micro-batch of an optimiser step, prepared."""
    if len(cuts) > 1 and isinstance(method, PreparesTogether):
        return method.prepare_together(batch, cuts, step)
    return [method.prepare(batch.rows(*cut), step, len(cuts) == 1) for cut in cuts]
