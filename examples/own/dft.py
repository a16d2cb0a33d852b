"""A method of your own: dynamic fine-tuning (Wu et al., arXiv 2508.05629), SFT whose loss weighs every token by its own
probability, through which no gradient goes.

    ebft-train --config-dir examples/own/conf method=dft
    ebft-sweep --config-dir examples/own/conf method=sft,dft,ebft seed=0,1 sweep.dir=outputs/dft
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ebft.config.methods import OwnMethodConfig
from ebft.config.schema import Needs, SamplerConfig, at_least
from ebft.methods.base import Counts, Ingredients, Loss
from ebft.methods.sft import SFT, Text
from ebft.objective.losses import cross_entropy


@dataclass(frozen=True)
class DFTConfig(OwnMethodConfig):
    power: float = at_least(0)  # of the probability; 0 is SFT, 1 the paper's

    def needs(self, sampler: SamplerConfig) -> Needs:
        return Needs()  # no rollouts, no questions, no other network: its plan is SFT's


class DFT(SFT):
    Config = DFTConfig

    @classmethod
    def of(cls, given: Ingredients) -> "DFT":
        method = cls(given.policy)
        method.power = given.config.method.power
        return method

    def losses(self, prepared: Text, totals: Counts, max_tokens: int | None) -> Iterator[Loss]:
        """- 1/M sum over tokens of p^power log p, p detached, M the tokens of the whole optimiser batch."""
        (log_probs,) = self.policy.log_probs(self.policy.row_hidden(prepared.batch), prepared.labels)
        weighted = (self.power * log_probs.detach()).exp() * log_probs
        loss = cross_entropy(weighted, prepared.labels.wanted, totals["targets"])
        plain = cross_entropy(log_probs.detach(), prepared.labels.wanted, totals["targets"])
        yield Loss(loss, {"dft": loss, "cross_entropy": plain})
