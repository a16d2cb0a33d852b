"""Supervised fine-tuning: mean cross-entropy over the tokens that count."""

from collections.abc import Iterator
from dataclasses import dataclass

from ebft.methods.base import Counts, Ingredients, Loss, Tally
from ebft.models.logprobs import Labels, row_labels
from ebft.models.policy import LanguageModel
from ebft.objective.losses import cross_entropy
from ebft.types import Batch


@dataclass(frozen=True)
class Text:
    """A micro-batch, and its tokens as they count."""

    batch: Batch
    labels: Labels


class SFT:
    def __init__(self, policy: LanguageModel) -> None:
        self.policy = policy

    @classmethod
    def of(cls, given: Ingredients) -> "SFT":
        return cls(given.policy)

    def prepare(self, batch: Batch, step: int, is_only_microbatch: bool) -> Text:
        return Text(batch.to(self.policy.device), row_labels(batch).to(self.policy.device))

    def counts(self, prepared: Text) -> Counts:
        return {"targets": prepared.labels.wanted.sum()}

    def losses(self, prepared: Text, totals: Counts, max_tokens: int | None) -> Iterator[Loss]:
        (log_probs,) = self.policy.log_probs(self.policy.row_hidden(prepared.batch), prepared.labels)
        loss = cross_entropy(log_probs, prepared.labels.wanted, totals["targets"])
        yield Loss(loss, {"cross_entropy": loss})

    def row_tokens(self, batch: Batch) -> list[int]:
        return [batch.tokens.shape[1]] * len(batch)

    def metrics(self, prepared: list[Text]) -> dict[str, Tally]:
        return {}

    @property
    def tokens_forwarded(self) -> float:
        return self.policy.decoder.tokens_forwarded
