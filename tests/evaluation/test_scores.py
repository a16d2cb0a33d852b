"""Cross-entropy against transformers' own loss, and the feature-matching loss at every horizon against separate
rollouts (section 8)."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from ebft.evaluation.scores import cross_entropy, feature_matching
from ebft.objective.rewards import alignment_and_diversity
from ebft.types import Batch, Rollout
from tests.helpers import (
    LAYOUTS,
    blocks_of,
    context_of,
    existing,
    geometry,
    phi_of,
    plain_model,
    policy_of,
    random_batch,
    random_rollout,
)
from tests.reference import embed_loop

HORIZONS = [1, 2, 5]


def test_cross_entropy_is_the_loss_of_transformers_row_by_row() -> None:
    batch, policy, model = random_batch(LAYOUTS["plain"]), policy_of(), plain_model()
    with torch.no_grad():
        score = cross_entropy(policy, batch, policy.row_hidden(batch))
        losses = [model(input_ids=row[None], labels=row[None]).loss.item() for row in batch.tokens]
    assert score.counts.tolist() == [22, 22]
    assert (score.sums / score.counts).tolist() == pytest.approx(losses, rel=1e-5)


def test_cross_entropy_of_a_padded_row_leaves_the_padding_out() -> None:
    batch, policy, model = random_batch(LAYOUTS["padded"]), policy_of(), plain_model()
    labels = batch.tokens.masked_fill(~batch.loss_mask, -100)
    with torch.no_grad():
        score = cross_entropy(policy, batch, policy.row_hidden(batch))
        losses = [
            model(input_ids=row[None], labels=label[None]).loss.item()
            for row, label in zip(batch.tokens, labels, strict=True)
        ]
    assert score.counts.tolist() == [22, 12]
    assert (score.sums / score.counts).tolist() == pytest.approx(losses, rel=1e-5)


def test_cross_entropy_is_at_temperature_one_over_the_tokens_that_count_only() -> None:
    batch, policy = random_batch(LAYOUTS["plain"]), policy_of()
    chosen = torch.zeros_like(batch.loss_mask)
    chosen[0, [0, 3, 7]] = True  # nothing predicts a row's first token
    with torch.no_grad():
        score = cross_entropy(policy, replace(batch, loss_mask=chosen), policy.row_hidden(batch))
        log_probs = plain_model()(input_ids=batch.tokens).logits.log_softmax(-1)
    expected = -sum(log_probs[0, t - 1, batch.tokens[0, t]].item() for t in (3, 7))
    assert score.counts.tolist() == [2, 0]
    assert score.sums.tolist() == pytest.approx([expected, 0], rel=1e-5)


def stopped_rollout(batch: Batch) -> Rollout:
    """Two rollouts of 5 tokens per block, every one ended after 1 to 5 of them."""
    config = geometry(n_samples=2, generate_length=HORIZONS[-1])
    first = blocks_of(
        batch, geometry(generate_length=HORIZONS[0])
    )  # as an evaluation finds them: room for the shortest
    draw = torch.Generator().manual_seed(8)
    rollout = random_rollout(batch, config)
    shape = (len(batch), 2, first.anchors.shape[1], 5)
    tokens = torch.randint(31, shape, generator=draw)
    lengths = torch.randint(1, 6, shape[:3], generator=draw)
    valid = first.valid[:, None, :, None] & (torch.arange(5) < lengths[..., None])
    return replace(rollout, blocks=first, tokens=tokens, log_probs=torch.zeros(shape), valid=valid)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_horizon_is_the_loss_of_separate_shorter_rollouts(layout: str) -> None:
    """A horizon's figure comes from prefixes of the longest rollouts; here each prefix and each reference is forwarded
    alone."""
    batch = random_batch(LAYOUTS[layout])
    rollout, model = stopped_rollout(batch), plain_model()
    scores, _ = feature_matching(phi_of(), batch, rollout, "all", HORIZONS, reward_horizon=2, reuse=False)

    def feature(context: torch.Tensor, tokens: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            states = model(input_ids=torch.cat([context, tokens])[None], output_hidden_states=True).hidden_states
        return embed_loop(
            torch.stack([states[1][0], states[2][0]], dim=1)[len(context) :], valid, "last_token", "joint"
        )

    for horizon in HORIZONS:
        sums, counts = torch.zeros(len(batch), dtype=torch.float64), torch.zeros(len(batch), dtype=torch.float64)
        for b, k in existing(rollout.blocks):
            anchor = int(rollout.blocks.anchors[b, k])
            window = batch.document_ids[b, anchor - 1 : anchor + horizon]
            if len(window) <= horizon or (window != window[0]).any():
                continue
            context = context_of(batch, b, anchor)
            f = [
                feature(context, rollout.tokens[b, n, k, :horizon], rollout.valid[b, n, k, :horizon]) for n in range(2)
            ]
            g = feature(context, batch.tokens[b, anchor : anchor + horizon], torch.ones(horizon, dtype=torch.bool))
            sums[b] += f[0] @ f[1] - (f[0] + f[1]) @ g + g @ g
            counts[b] += 1
        score = scores[f"feature_matching_loss@{horizon}"]
        assert score.counts.tolist() == counts.tolist()
        torch.testing.assert_close(score.sums, sums, rtol=1e-4, atol=1e-5)


def test_a_block_counts_at_the_horizons_that_its_continuation_reaches_in_its_document() -> None:
    """Anchors 2, 7, 12, 17, 22 of 23 tokens; documents of row 0 end at 11 and 23, of row 1 at 4, 17 and, before the
    padding, nowhere else."""
    batch = random_batch(LAYOUTS["documents"])
    rollout = stopped_rollout(batch)
    assert rollout.blocks.anchors[0].tolist() == [2, 7, 12, 17, 22]
    scores, _ = feature_matching(phi_of(), batch, rollout, "all", HORIZONS, reward_horizon=2, reuse=False)
    counts = {horizon: scores[f"feature_matching_loss@{horizon}"].counts.tolist() for horizon in HORIZONS}
    assert counts == {1: [5, 3], 2: [4, 3], 5: [3, 2]}
    assert scores["reward"].counts.tolist() == counts[2]


@pytest.mark.parametrize("whitening", ["none", "paper"])
def test_rewards_are_at_their_own_horizon_with_the_whitening_of_the_run(whitening: str) -> None:
    batch = random_batch(LAYOUTS["plain"])
    rollout = random_rollout(batch, geometry(generate_length=5))
    phi = phi_of(whitening=whitening)
    scores, rewards = feature_matching(phi, batch, rollout, "all", HORIZONS, reward_horizon=2, reuse=False)
    short = Rollout(rollout.blocks, rollout.tokens[..., :2], rollout.log_probs[..., :2], rollout.valid[..., :2])
    embeddings = phi.embeddings(batch, short, reuse=False)
    alignment, diversity = alignment_and_diversity(embeddings, whitening)
    torch.testing.assert_close(rewards, alignment - diversity, rtol=1e-5, atol=1e-5)
    assert scores["reward"].value == pytest.approx((alignment - diversity).mean().item(), rel=1e-4)
    alignment, diversity = alignment_and_diversity(embeddings, "reference_code")
    assert scores["whitened_feature_reward"].value == pytest.approx((alignment - diversity / 2).mean().item(), rel=1e-4)


def test_two_copies_of_the_real_continuation_have_no_loss_left() -> None:
    batch = random_batch(LAYOUTS["plain"])
    rollout = random_rollout(batch, geometry(n_samples=2, generate_length=5))
    for (b, k), n in product(existing(rollout.blocks), range(2)):
        anchor = int(rollout.blocks.anchors[b, k])
        rollout.tokens[b, n, k] = batch.tokens[b, anchor : anchor + 5]
    scores, rewards = feature_matching(phi_of(), batch, rollout, "all", HORIZONS, reward_horizon=5, reuse=False)
    for horizon in HORIZONS:
        assert scores[f"feature_matching_loss@{horizon}"].value == pytest.approx(0, abs=1e-6)
    assert rewards.flatten().tolist() == pytest.approx([0] * rewards.numel(), abs=1e-5)  # alignment 2, diversity 2
