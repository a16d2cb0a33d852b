"""Log-probs of rollouts and of their rows, part by part, as the losses of all methods with rollouts take them."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from jaxtyping import Bool, Float
from torch import Tensor

from ebft.config.schema import RunFailure
from ebft.geometry.blocks import Branches
from ebft.methods.base import Loss
from ebft.models.decoder import RowForward
from ebft.models.logprobs import Labels, branch_labels
from ebft.models.policy import LanguageModel
from ebft.types import Batch, Rollout


@dataclass(frozen=True)
class Scored:
    """What one part of a micro-batch's update predicts: tokens of rollouts, and at last the row's own tokens."""

    log_probs: Float[Tensor, "B N K G"]  # at the sampling temperature
    wanted: Bool[Tensor, "B N K G"]  # of this part and valid; elsewhere log-probs are arbitrary
    text: Float[Tensor, "B M"] | None  # log-probs of `text` at temperature 1, in the part that predicts them
    carried: Float[Tensor, ""]
    losses: list[Loss] = field(default_factory=list)  # that were made of this part

    def loss(self, total: Float[Tensor, ""], parts: dict[str, Float[Tensor, ""]]) -> Loss:
        """`total` with the gradients that it hands on to the row; see `LanguageModel.hidden_slices`."""
        self.losses.append(Loss(total + self.carried, parts))
        return self.losses[-1]


def scored(
    policy: LanguageModel,
    batch: Batch,
    rollout: Rollout,
    branches: Branches,
    temperature: float,
    text: Labels | None,
    row: RowForward | None = None,
) -> Iterator[Scored]:
    """The branches group by group, then the row, whose hidden states predict the first tokens of rollouts and `text`.

    The gradient of each part's loss is to be taken before the next part, so that one group is held at a time. `row` is
    the row's forward where that was kept from sampling. Raises RunFailure for a part of which no loss was made.
    """
    generated = branch_labels(batch, rollout, branches, temperature)
    for part in policy.hidden_slices(batch, branches, row):
        here, texts = generated.within(part), [text] if text is not None and part.is_row else []
        log_probs, *of_text = policy.log_probs(part.hidden, here, *texts)
        wanted = rollout.like_tokens(here.wanted)
        scores = Scored(rollout.like_tokens(log_probs), wanted, of_text[0] if of_text else None, part.carried)
        yield scores
        if not scores.losses:
            raise RunFailure(
                "Of every part that `scored` gives, part.loss(total, parts) is to be yielded; Loss(total, parts) alone "
                "leaves out the gradient that branches hand on to their row."
            )
