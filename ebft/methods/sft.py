"""Supervised fine-tuning: mean cross-entropy over the tokens that count."""

from ebft import cost
from ebft.losses import cross_entropy
from ebft.methods.base import Counts, Loss
from ebft.models import LanguageModel, row_labels
from ebft.types import Batch


class SFT:
    def __init__(self, policy: LanguageModel) -> None:
        self.policy = policy

    def prepare(self, batch: Batch, step: int) -> Batch:
        return batch.to(self.policy.device)

    def counts(self, prepared: Batch) -> Counts:
        return {"targets": prepared.loss_mask[:, 1:].sum()}

    def loss(self, prepared: Batch, totals: Counts) -> Loss:
        labels = row_labels(prepared)
        (log_probs,) = self.policy.log_probs(self.policy.row_hidden(prepared), labels)
        loss = cross_entropy(log_probs, labels.wanted, totals["targets"])
        return Loss(loss, {"cross_entropy": loss})

    def metrics(self, prepared: list[Batch]) -> dict[str, float]:
        return {}

    def rollouts(self, num_blocks: float) -> str:
        return "none"

    def tokens_per_row(self, row_length: int, num_blocks: float) -> dict[str, float]:
        return cost.supervised(row_length)

    @property
    def tokens_forwarded(self) -> float:
        return self.policy.decoder.tokens_forwarded
