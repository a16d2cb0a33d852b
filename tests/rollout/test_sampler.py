"""Rollouts against each branch forwarded alone, and draws against exhaustive probabilities (method.md section 2)."""

from collections import defaultdict
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from ebft.config.schema import SamplerConfig
from ebft.geometry.blocks import find_blocks, make_branches
from ebft.geometry.reuse import branches_of
from ebft.models.logprobs import branch_labels
from ebft.models.policy import LanguageModel
from ebft.rollout.sampler import inverse_cdf, sample, uniforms
from ebft.types import Batch, Blocks, Rollout
from tests.helpers import (
    FAMILIES,
    LAYOUTS,
    VOCABULARY,
    T,
    blocks_of,
    context_of,
    existing,
    geometry,
    likely_text,
    log_probs_alone,
    plain_model,
    policy_of,
    random_batch,
    random_draws,
)
from tests.reference import leading_matches_loop

ALMOST_ONE = float(np.nextafter(np.float32(1), np.float32(0)))  # the largest draw there is


def rolled_out(
    policy: LanguageModel, batch: Batch, config: SamplerConfig, stop_tokens: tuple[int, ...] = ()
) -> Rollout:
    blocks = blocks_of(batch, config)
    return sample(
        policy, batch, blocks, random_draws(batch, blocks, config), config.temperature, stop_tokens, config.reuse
    )[0]


def training_log_probs(policy: LanguageModel, batch: Batch, rollout: Rollout, config: SamplerConfig) -> Tensor:
    branches = branches_of(batch, rollout.predicting, config.reuse)
    labels = branch_labels(batch, rollout, branches, config.temperature)
    (log_probs,) = policy.log_probs(policy.flat_hidden(batch, branches), labels)
    return rollout.like_tokens(log_probs)


@pytest.mark.slow
@pytest.mark.parametrize(("n_samples", "reuse"), [(2, False), (3, False), (3, True)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_sampled_log_probs_equal_the_training_forward_and_every_branch_alone(
    family: str, layout: str, n_samples: int, reuse: bool
) -> None:
    config, policy, plain = geometry(n_samples=n_samples, reuse=reuse), policy_of(family), plain_model(family)
    batch = likely_text(policy, random_batch(LAYOUTS[layout]))
    rollout = rolled_out(policy, batch, config)
    trained = training_log_probs(policy, batch, rollout, config)
    torch.testing.assert_close(trained[rollout.valid], rollout.log_probs[rollout.valid], rtol=1e-5, atol=1e-5)
    for (b, k), n in product(existing(rollout.blocks), range(n_samples)):
        context = context_of(batch, b, int(rollout.blocks.anchors[b, k]))
        expected = log_probs_alone(plain, context, rollout.tokens[b, n, k], config.temperature)
        torch.testing.assert_close(rollout.log_probs[b, n, k], expected, rtol=1e-5, atol=1e-5)


def sampled_tokens(batch: Batch, rollout: Rollout) -> int:
    """Tokens that the sampler forwards for branches with reuse, counted one by one: rows wait for the one with the most
    branches."""
    num_steps, most = rollout.tokens.shape[3], defaultdict[int, int](int)
    matches = leading_matches_loop(batch, rollout.blocks, rollout.tokens)
    for b in range(len(batch)):
        branches = defaultdict[int, set](set)
        for (_, k), n in product([at for at in existing(rollout.blocks) if at[0] == b], range(rollout.tokens.shape[1])):
            m, tokens = matches[b][n][k], rollout.tokens[b, n, k].tolist()
            for step in range(m, min(num_steps, int(rollout.valid[b, n, k].sum())) - 1):
                branches[step - m].add((int(rollout.blocks.anchors[b, k]) + m, *tokens[m : step + 1]))
        for step, different in branches.items():
            most[step] = max(most[step], len(different))
    return len(batch) * sum(most.values())


@pytest.mark.slow
@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize("temperature", [0.3, 1.0])
@pytest.mark.parametrize(
    ("context_length", "stride", "length", "n_samples"), [(2, 5, 4, 3), (3, 1, 7, 2), (7, 2, 3, 11), (1, 7, 1, 5)]
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_reuse_changes_no_rollout_and_forwards_a_token_once(
    layout: str,
    context_length: int,
    stride: int,
    length: int,
    n_samples: int,
    temperature: float,
    stops: bool,
) -> None:
    sizes = {"context_length": context_length, "stride": stride, "generate_length": length, "n_samples": n_samples}
    plain = geometry(**sizes, temperature=temperature)
    policy = policy_of("qwen2", seed=2)
    batch = likely_text(policy, random_batch(LAYOUTS[layout]))
    commonest = int(rolled_out(policy, batch, plain).tokens.mode(-1).values.mode(-1).values[0, 0])
    stop = (commonest,) if stops else ()
    expected = rolled_out(policy, batch, plain, stop)
    before = policy.decoder.tokens_forwarded
    rollout = rolled_out(policy, batch, replace(plain, reuse=True), stop)
    forwarded, valid = policy.decoder.tokens_forwarded - before, expected.valid
    assert torch.equal(rollout.valid, valid)
    assert torch.equal(rollout.tokens[valid], expected.tokens[valid])
    torch.testing.assert_close(rollout.log_probs[valid], expected.log_probs[valid], rtol=1e-5, atol=1e-5)
    assert forwarded == batch.tokens.numel() + sampled_tokens(batch, expected)
    matches = torch.tensor(leading_matches_loop(batch, expected.blocks, expected.tokens))[valid.any(-1)]
    assert ((matches > 0) & (matches < length)).any() or length == 1


@pytest.mark.slow
def test_rollouts_to_beyond_the_row_s_end_follow_it_to_its_end_only() -> None:
    """An evaluation's longest horizon: blocks that have two real tokens, rollouts of 11."""
    policy = policy_of()
    for layout in LAYOUTS.values():
        batch = likely_text(policy, random_batch(layout), share=1.0)
        blocks = find_blocks(batch, "all", 1, 1, 2)
        draws = torch.rand(len(batch), 2, blocks.anchors.shape[1], 11, generator=torch.Generator().manual_seed(3))
        expected, rollout = (sample(policy, batch, blocks, draws, 0.3, (), reuse)[0] for reuse in (False, True))
        assert torch.equal(rollout.tokens[rollout.valid], expected.tokens[expected.valid])
        torch.testing.assert_close(
            rollout.log_probs[rollout.valid], expected.log_probs[expected.valid], rtol=1e-5, atol=1e-5
        )


def test_rollouts_that_are_the_row_to_their_end_cost_nothing() -> None:
    policy, config = policy_of(), geometry(temperature=0.01, reuse=True)
    batch = likely_text(policy, random_batch([[0] * T]), share=1.0)
    before = policy.decoder.tokens_forwarded
    rollout = rolled_out(policy, batch, config)
    assert policy.decoder.tokens_forwarded - before == T
    windows = rollout.blocks.anchors[..., None] + torch.arange(config.generate_length)
    assert (rollout.tokens == batch.tokens[0, windows][:, None]).all()


def test_log_probs_read_by_a_plain_shift_of_the_flat_row_are_others() -> None:
    """An implementation gave every generated token the log-prob that the token before it in the flat row assigns."""
    batch, config, policy = random_batch(LAYOUTS["plain"]), geometry(), policy_of()
    rollout = rolled_out(policy, batch, config)
    branches = make_branches(rollout.blocks, rollout.tokens)
    with torch.no_grad():
        logits = policy.logits(policy.flat_hidden(batch, branches)) / config.temperature
    labels = branch_labels(batch, rollout, branches, config.temperature)
    row_length = batch.tokens.shape[1]
    shifted = logits[:, row_length - 1 : -1].log_softmax(-1).gather(2, labels.tokens[..., None]).squeeze(-1)
    error = (rollout.like_tokens(shifted) - rollout.log_probs).abs()
    assert error[..., 0].median() > 1  # first tokens are predicted by the row, not by the branch before
    assert error[..., 1:].max() < 1e-4


def test_rollouts_of_one_block_do_not_depend_on_later_text_or_other_blocks() -> None:
    batch, config, policy = random_batch(LAYOUTS["plain"]), geometry(), policy_of()
    blocks = blocks_of(batch, config)
    draws = random_draws(batch, blocks, config)
    before, _ = sample(policy, batch, blocks, draws, config.temperature, (), reuse=False)
    tokens, others = batch.tokens.clone(), draws.clone()
    tokens[:, 12:] = (tokens[:, 12:] + 1) % VOCABULARY  # anchors are 2, 7, 12, 17: behind the context of block 2
    others[:, :, 3] = 1 - others[:, :, 3]
    after, _ = sample(policy, replace(batch, tokens=tokens), blocks, others, config.temperature, (), reuse=False)
    assert torch.equal(after.tokens[:, :, :3], before.tokens[:, :, :3])
    assert torch.equal(after.log_probs[:, :, :3], before.log_probs[:, :, :3])
    assert not torch.equal(after.tokens[:, :, 3], before.tokens[:, :, 3])


@pytest.mark.slow
def test_frequencies_are_the_exhaustive_probabilities_of_every_pair_of_tokens() -> None:
    vocabulary, num_draws, temperature = 5, 20_011, 1.3
    sizes = {"vocab_size": vocabulary, "num_hidden_layers": 1, "initializer_range": 0.2}
    policy, plain = policy_of(**sizes), plain_model(**sizes)
    batch = random_batch([[0] * 7])
    batch = replace(batch, tokens=batch.tokens % vocabulary)
    blocks = Blocks(torch.tensor([[3]]), torch.tensor([[True]]), (3,))
    draws = torch.rand(1, num_draws, 1, 2, generator=torch.Generator().manual_seed(0))
    tokens = sample(policy, batch, blocks, draws, temperature, (), reuse=False)[0].tokens[0, :, 0]
    counts = torch.bincount(tokens[:, 0] * vocabulary + tokens[:, 1], minlength=vocabulary**2)
    pairs = torch.cartesian_prod(torch.arange(vocabulary), torch.arange(vocabulary))
    exact = torch.stack([log_probs_alone(plain, batch.tokens[0, :3], pair, temperature).sum() for pair in pairs]).exp()
    assert exact.sum().item() == pytest.approx(1, abs=1e-5)
    sigma = (num_draws * exact * (1 - exact)).sqrt()
    assert ((counts - num_draws * exact).abs() < 5 * sigma).all()
    assert exact.max() > 3 * exact.min()


class Fixed(LanguageModel):
    """A policy with the same next-token distribution everywhere."""

    distribution: Tensor

    def logits(self, hidden: Tensor) -> Tensor:
        return self.distribution.log().repeat(*hidden.shape[:-1], 1)


@pytest.mark.parametrize(
    ("draw", "token"),
    [(0.0, 1), (0.2499, 1), (0.2501, 2), (0.7499, 2), (0.7501, 4), (ALMOST_ONE, 4)],
    ids=["0", "end of 1", "start of 2", "end of 2", "start of 4", "just below 1"],
)
def test_inverse_cdf_by_hand_never_draws_a_token_of_probability_zero(draw: float, token: int) -> None:
    policy = Fixed(plain_model(), "fp32")
    policy.distribution = torch.tensor([0, 0.25, 0.5, 0, 0.25, 0])
    blocks = Blocks(torch.tensor([[3]]), torch.tensor([[True]]), (3,))
    rollout, _ = sample(policy, random_batch([[0] * 7]), blocks, torch.full((1, 2, 1, 2), draw), 1.0, (), reuse=False)
    assert rollout.tokens.eq(token).all()
    torch.testing.assert_close(rollout.log_probs, policy.distribution[token].log().expand(1, 2, 1, 2))


@pytest.mark.parametrize("vocabulary", [1, 127, 128, 129, 1009])
def test_inverse_cdf_by_runs_is_that_of_one_sum(vocabulary: int) -> None:
    """Up to and beyond a run of 128 tokens, many of which cannot be drawn. Draws within rounding of a step are left
    out."""
    draw = torch.Generator().manual_seed(vocabulary)
    weights = torch.rand(7, vocabulary, generator=draw) * (torch.rand(7, vocabulary, generator=draw) < 0.3)
    weights[:, vocabulary // 2] = 0.5
    uniform = torch.rand(7, 211, generator=draw)
    uniform[:, :2] = torch.tensor([0.0, ALMOST_ONE])
    token = inverse_cdf(weights, uniform)
    assert (weights.gather(1, token) > 0).all()
    cumulative = weights.double().cumsum(1)
    targets = uniform.double() * cumulative[:, -1:]
    expected = torch.searchsorted(cumulative, targets, right=True).clamp_max(vocabulary - 1)
    near = (cumulative[:, None] - targets[..., None]).abs().amin(-1) < 1e-5 * cumulative[:, -1:]
    assert torch.equal(token[~near], expected[~near])
    assert near.float().mean() < 0.1 + 2 / 211


def test_temperature_divides_the_logits_before_the_draw() -> None:
    """Odds of 1 to 3 become 1 to 9 at temperature 1/2: a draw of 0.15 lies above 1/10."""
    policy = Fixed(plain_model(), "fp32")
    policy.distribution = torch.tensor([0.25, 0.75])
    blocks = Blocks(torch.tensor([[3]]), torch.tensor([[True]]), (3,))
    warm, cold = (
        sample(policy, random_batch([[0] * 7]), blocks, torch.full((1, 2, 1, 2), 0.15), t, (), reuse=False)[0]
        for t in (1.0, 0.5)
    )
    assert warm.tokens.eq(0).all()
    assert cold.tokens.eq(1).all()
    assert cold.log_probs.exp().flatten().tolist() == pytest.approx([0.9] * 4)


def test_a_branch_ends_with_its_first_stop_token() -> None:
    """The stop token itself counts; later ones are invalid and filled with it. Without one, a packed row runs on."""
    policy = policy_of()
    batch, config = random_batch(LAYOUTS["padded"]), geometry(generate_length=7, temperature=1.0)
    free = rolled_out(policy, batch, config)
    stop = int(free.tokens[free.valid].mode().values)
    stopped = rolled_out(policy, batch, config, stop_tokens=(stop,))
    lengths = set()
    for (b, k), n in product(existing(free.blocks), range(config.n_samples)):
        tokens = free.tokens[b, n, k].tolist()
        length = tokens.index(stop) + 1 if stop in tokens else len(tokens)
        lengths.add(length)
        assert stopped.tokens[b, n, k].tolist() == tokens[:length] + [stop] * (len(tokens) - length)
        assert stopped.valid[b, n, k].tolist() == [True] * length + [False] * (len(tokens) - length)
        assert torch.equal(stopped.log_probs[b, n, k, :length], free.log_probs[b, n, k, :length])
    assert len(lengths) >= 3
    assert free.valid.sum() == free.blocks.valid.sum() * config.n_samples * config.generate_length
    assert not stopped.valid.transpose(1, 2)[~stopped.blocks.valid].any()


def test_dropout_is_off_in_rollouts_of_a_model_in_training() -> None:
    """Rollouts in training mode came from another policy than the one whose log-probs were then trained."""
    batch, config = random_batch(LAYOUTS["plain"]), geometry()
    calm = rolled_out(policy_of("gpt_neox"), batch, config)
    policy = policy_of("gpt_neox", hidden_dropout=0.5)
    policy.model.train()
    rollout = rolled_out(policy, batch, config)
    assert torch.equal(rollout.tokens, calm.tokens)
    assert torch.equal(rollout.log_probs, calm.log_probs)
    assert policy.model.training
    assert not rollout.log_probs.requires_grad


def test_a_single_generated_token_needs_no_branch_forward() -> None:
    batch, config, policy = random_batch(LAYOUTS["plain"]), geometry(generate_length=1), policy_of()
    rollout = rolled_out(policy, batch, config)
    assert policy.decoder.tokens_forwarded == batch.tokens.numel()
    trained = training_log_probs(policy, batch, rollout, config)
    torch.testing.assert_close(trained, rollout.log_probs, rtol=1e-5, atol=1e-5)


def test_one_block_at_vanishing_temperature_is_greedy_generation() -> None:
    batch = random_batch([[0] * 9])
    blocks = Blocks(torch.tensor([[9]]), torch.tensor([[True]]), (9,))
    rollout, _ = sample(policy_of(), batch, blocks, torch.full((1, 1, 1, 11), 0.5), 1e-4, (), reuse=False)
    settings = {"max_new_tokens": 11, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    generated = plain_model().generate(batch.tokens, attention_mask=torch.ones(1, 9), **settings)
    assert rollout.tokens[0, 0, 0].tolist() == generated[0, 9:].tolist()


def test_bfloat16_rollouts_are_finite_and_near_the_training_forward() -> None:
    batch, config, policy = (
        random_batch(LAYOUTS["documents"]),
        geometry(),
        policy_of(dtype="bf16", initializer_range=0.1),
    )
    rollout = rolled_out(policy, batch, config)
    assert rollout.log_probs.dtype == torch.float32
    assert rollout.log_probs.isfinite().all()
    trained = training_log_probs(policy, batch, rollout, config)
    assert (trained - rollout.log_probs)[rollout.valid].abs().max() < 0.2


def test_draws_of_a_row_ignore_other_rows_and_the_number_of_blocks() -> None:
    many = uniforms("7/train/3", torch.tensor([11, 2, 5]), 13, 3, 4)
    few = uniforms("7/train/3", torch.tensor([5]), 2, 3, 4)
    assert many.shape == (3, 3, 13, 4)
    assert torch.equal(many[2:, :, :2], few)
    assert many.min() >= 0
    assert many.max() < 1
    assert many.unique().numel() > 0.99 * many.numel()


def test_draws_change_with_the_key_and_the_row_and_never_between_releases() -> None:
    draws = [
        uniforms(key, torch.tensor([row]), 2, 2, 2).flatten()
        for key, row in (("0/train/1", 4), ("0/train/2", 4), ("0/train/1", 5))
    ]
    assert not any(torch.equal(a, b) for a, b in ((draws[0], draws[1]), (draws[0], draws[2])))
    assert draws[0][:3].tolist() == pytest.approx([0.6137614, 0.1999568, 0.2234794], abs=1e-7)
