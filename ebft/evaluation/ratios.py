"""Means over documents, with standard errors."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Ratio:
    """A figure that is a mean over things that documents hold in different numbers: tokens, blocks."""

    sums: Float[Tensor, "D"]  # per document
    counts: Float[Tensor, "D"]

    @property
    def value(self) -> float:
        """sum of sums / sum of counts."""
        return float(self.sums.sum() / self.counts.sum())

    @property
    def stderr(self) -> float:
        """Standard error over documents, by linearisation: sqrt(D / (D - 1) * sum_d (s_d - r c_d)^2) / sum c. Needs two
        documents."""
        return _standard_error(self._influence)

    @property
    def _influence(self) -> Float[Tensor, "D"]:
        """Each document's part in the figure's deviation from its expectation."""
        return (self.sums - self.value * self.counts) / self.counts.sum()

    def change(self, base: "Ratio") -> tuple[float, float]:
        """This figure minus the base's on the same documents, and the standard error of that paired difference."""
        return self.value - base.value, _standard_error(self._influence - base._influence)


def _standard_error(influence: Float[Tensor, "D"]) -> float:
    num_documents = influence.shape[0]
    return float((num_documents / (num_documents - 1) * influence.square().sum()).sqrt())


def concatenate(parts: list[dict[str, Ratio]]) -> dict[str, Ratio]:
    """The documents of several batches as one; figures with nothing to count are left out."""
    names = parts[0].keys() if parts else ()
    whole = {
        name: Ratio(torch.cat([part[name].sums for part in parts]), torch.cat([part[name].counts for part in parts]))
        for name in names
    }
    return {name: ratio for name, ratio in whole.items() if ratio.counts.sum() > 0}
