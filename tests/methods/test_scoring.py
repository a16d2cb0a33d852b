"""Parts of an update, of each of which a loss is to be made."""

import pytest

from ebft.config.schema import RunFailure
from ebft.geometry.blocks import make_branches
from ebft.methods.base import Loss
from ebft.methods.scoring import Scored, scored
from tests.helpers import LAYOUTS, geometry, policy_of, random_batch, random_rollout


def test_a_part_that_was_only_looked_at_ends_the_run() -> None:
    """Loss(total) alone once gave a smaller gradient, and nothing told."""
    batch = random_batch(LAYOUTS["plain"])
    rollout = random_rollout(batch, geometry())
    branches = make_branches(rollout.blocks, rollout.predicting.tokens, group_tokens=9)

    def total(part: Scored) -> Loss:
        return Loss(part.log_probs.sum(), {})

    parts = scored(policy_of(), batch, rollout, branches, 1.0, None)
    first = next(parts)
    assert total(first).total.requires_grad
    with pytest.raises(RunFailure, match=r"part\.loss\(total, parts\) is to be yielded"):
        next(parts)
    for part in scored(policy_of(), batch, rollout, branches, 1.0, None):
        part.loss(part.log_probs.sum(), {}).total.backward()
