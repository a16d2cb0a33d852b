"""Means over documents, with standard errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ebft.evaluation.names import Names, joined


@dataclass(frozen=True)
class Ratio:
    """A figure that is a mean over things that rows hold in different numbers: tokens, blocks."""

    sums: Float[Tensor, "D"]  # per row
    counts: Float[Tensor, "D"]
    names: Names | None = None  # of the rows; None: unknown, and every row is taken for a document of its own

    @property
    def value(self) -> float:
        """sum of sums / sum of counts."""
        return float(self.sums.sum() / self.counts.sum())

    @property
    def stderr(self) -> float | None:
        """Standard error over documents, by linearisation: with the sums s_d and counts c_d of the rows of each of C
        documents, sqrt(C / (C - 1) * sum_d (s_d - r c_d)^2) / sum c. None for a single document."""
        return _standard_error(self._influence)

    @cached_property
    def _document(self) -> Int[Tensor, "D"]:
        """The number of each row's document."""
        if self.names is None:
            return torch.arange(len(self.sums))
        numbers = {name: number for number, name in enumerate(dict.fromkeys(self.names.documents))}
        return torch.tensor([numbers[name] for name in self.names.documents])

    @property
    def _influence(self) -> Float[Tensor, "C"]:
        """Each document's part in the figure's deviation from its expectation."""
        of_rows = (self.sums - self.value * self.counts) / self.counts.sum()
        return torch.zeros(int(self._document.max()) + 1, dtype=of_rows.dtype).index_add_(0, self._document, of_rows)

    def change(self, base: "Ratio") -> tuple[float, float | None]:
        """This figure minus the base's on the same rows, and the standard error of that paired difference."""
        return self.value - base.value, _standard_error(self._influence - base._influence)

    def state(self) -> dict[str, Any]:
        """As tensors and lists of texts, for a checkpoint."""
        names = {} if self.names is None else {"rows": self.names.rows, "documents": self.names.documents}
        return {"sums": self.sums, "counts": self.counts, **names}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Ratio":
        """Checkpoints of older versions hold no names."""
        names = Names(state["rows"], state["documents"]) if "rows" in state else None
        return cls(state["sums"], state["counts"], names)


def _standard_error(influence: Float[Tensor, "C"]) -> float | None:
    num_documents = influence.shape[0]
    if num_documents < 2:
        return None
    return float((num_documents / (num_documents - 1) * influence.square().sum()).sqrt())


def named(scores: dict[str, Ratio], names: Names) -> dict[str, Ratio]:
    return {name: replace(score, names=names) for name, score in scores.items()}


def concatenate(parts: list[dict[str, Ratio]]) -> dict[str, Ratio]:
    """The rows of several batches as one, each batch's figures over the same rows; figures with nothing to count are
    left out."""
    first = [next(iter(part.values())).names for part in parts if part]
    known = [names for names in first if names is not None]
    names = joined(known) if known and len(known) == len(first) else None
    whole = {name: join([part[name] for part in parts], names) for name in (parts[0] if parts else ())}
    return {name: ratio for name, ratio in whole.items() if ratio.counts.sum() > 0}


def join(parts: Sequence[Ratio], names: Names | None) -> Ratio:
    return Ratio(torch.cat([part.sums for part in parts]), torch.cat([part.counts for part in parts]), names)
