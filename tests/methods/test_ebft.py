"""EBFT as one piece: micro-batches, denominators, what is forwarded, and its expected gradient on a real transformer
(method.md sections 7, 9)."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from ebft.config.methods import EBFTConfig
from ebft.config.schema import SamplerConfig
from ebft.cost.tokens import of_row
from ebft.geometry import chunked
from ebft.geometry import reuse as reuse_module
from ebft.geometry.reuse import leading_matches
from ebft.methods import differentiate, ebft
from ebft.methods.base import branch_tokens, prepare_all
from ebft.methods.ebft import EBFT, EBFTExperience
from ebft.models.decoder import UPDATE_TOKENS
from ebft.models.feature_network import FeatureNetwork
from ebft.models.policy import LanguageModel
from ebft.objective.losses import cross_entropy
from ebft.objective.rewards import alignment_and_diversity
from ebft.types import Batch, Blocks, Rollout
from tests.helpers import (
    LAYOUTS,
    T,
    blocks_of,
    figures,
    geometry,
    likely_text,
    optimiser_step,
    phi_of,
    plain_model,
    policy_of,
    random_batch,
)
from tests.reference import embed_loop

CONFIG = EBFTConfig(
    name="ebft", rl_coef=1.0, ce_coef=0.1, alignment_coef=1.0, diversity_coef=1.0, advantage="rloo", reward=None
)
ROWS = [*LAYOUTS["plain"], *LAYOUTS["documents"], [0] * 3 + [-1] * 20, *LAYOUTS["padded"], [0] * 17 + [-1] * 6]
EIGHT = random_batch(
    ROWS, [[t % 9 > 3 for t in range(T)]] * len(ROWS)
)  # completions of five tokens; the fifth row has no block
EIGHT = replace(EIGHT, loss_mask=EIGHT.document_ids >= 0)


def method_of(
    sampler: SamplerConfig | None = None,
    stop_tokens: tuple[int, ...] = (),
    policy: LanguageModel | None = None,
    **changes: object,
) -> EBFT:
    return EBFT(
        replace(CONFIG, **changes),
        sampler or geometry(),
        policy or policy_of(),
        phi_of(seed=1),
        seed=6,
        stop_tokens=stop_tokens,
    )


def tokens_by_row(prepared: list[EBFTExperience]) -> dict[int, list]:
    """The rollouts of the blocks that exist, under their row's number."""
    rows = {}
    for part in prepared:
        for b, row in enumerate(part.batch.row_ids.tolist()):
            rows[row] = part.rollout.tokens[b].transpose(0, 1)[part.rollout.blocks.valid[b]].tolist()
    return rows


@pytest.mark.slow
@pytest.mark.parametrize(
    ("anchors", "ce_coef", "advantage"),
    [("all", 0.1, "rloo"), ("all", 0.0, "batch"), ("completion", 0.1, "batch"), ("completion", 0.0, "rloo")],
)
def test_one_by_eight_micro_batches_equal_eight_by_one(anchors: str, ce_coef: float, advantage: str) -> None:
    """Rollouts, loss and gradient, with rows of different numbers of blocks and one row of none."""
    sampler = geometry(anchors=anchors, stride=3, generate_length=2)
    whole, values, gradients = optimiser_step(method_of(sampler, ce_coef=ce_coef, advantage=advantage), EIGHT, 8)
    blocks_per_row = [len(blocks) for blocks in tokens_by_row(whole).values()]
    assert blocks_per_row[4] == 0
    assert len(set(blocks_per_row)) >= 4
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for size in (1, 2, 4):
        parts, other_values, others = optimiser_step(
            method_of(sampler, ce_coef=ce_coef, advantage=advantage), EIGHT, size
        )
        assert tokens_by_row(parts) == tokens_by_row(whole)
        assert {name: value.item() for name, value in other_values.items()} == pytest.approx(
            {name: value.item() for name, value in values.items()}, rel=1e-5, abs=1e-6
        )
        for name, gradient in gradients.items():
            torch.testing.assert_close(others[name], gradient, rtol=1e-5, atol=1e-6 * largest, msg=name)


REUSED = [("all", (), 8), ("all", (7,), 1), ("completion", (7,), 3), ("completion", (), 8)]
SIZES = [(2, 3, 5, 4), (1, 1, 3, 2), (7, 2, 4, 3)]
PLACES = [  # with all sizes, and each of both at both temperatures
    (*place, sizes, (0.3, 1.0)[(i + j) % 2]) for i, place in enumerate(REUSED) for j, sizes in enumerate(SIZES)
]


@pytest.mark.slow
@pytest.mark.parametrize(("anchors", "stop_tokens", "size", "sizes", "temperature"), PLACES, ids=str)
def test_reuse_changes_no_rollout_no_reward_and_no_gradient(
    anchors: str, stop_tokens: tuple[int, ...], size: int, sizes: tuple[int, int, int, int], temperature: float
) -> None:
    """Rows of several documents, with padding and without a block; rollouts that follow their row for a while, that are
    twins, and that stop."""
    context_length, stride, length, n_samples = sizes
    sampler = geometry(
        anchors=anchors,
        context_length=context_length,
        stride=stride,
        generate_length=length,
        n_samples=n_samples,
        temperature=temperature,
    )
    method, reusing = method_of(sampler, stop_tokens), method_of(replace(sampler, reuse=True), stop_tokens)
    batch = likely_text(method.policy, EIGHT)
    before = method.tokens_forwarded, reusing.tokens_forwarded
    expected, values, gradients = optimiser_step(method, batch, size)
    found, others, reused = optimiser_step(reusing, batch, size)
    for one, other in zip(expected, found, strict=True):
        valid, exists = one.rollout.valid, one.rollout.blocks.valid
        assert torch.equal(other.rollout.tokens[valid], one.rollout.tokens[valid])
        assert torch.equal(other.rollout.valid, valid)
        torch.testing.assert_close(other.rollout.log_probs[valid], one.rollout.log_probs[valid], rtol=1e-5, atol=1e-5)
        for name in ("reward", "advantages"):
            torch.testing.assert_close(
                *(getattr(part, name).transpose(1, 2)[exists] for part in (other, one)), rtol=1e-4, atol=1e-5
            )
        assert torch.equal(
            other.reused, leading_matches(one.batch, one.rollout.blocks, one.rollout.tokens).minimum(valid.sum(-1))
        )
        assert not one.reused.any()
    assert {name: value.item() for name, value in others.items()} == pytest.approx(
        {name: value.item() for name, value in values.items()}, rel=1e-5, abs=1e-6
    )
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(reused[name], gradient, rtol=1e-5, atol=1e-5 * largest, msg=name)
    plain, live = method.tokens_forwarded - before[0], reusing.tokens_forwarded - before[1]
    assert live < plain
    assert sum(int(part.reused.sum()) for part in found) > 0


@pytest.mark.slow
@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize(("size", "max_tokens"), [(1, T + 5), (1, T + 17), (4, 4 * (T + 13)), (1, None), (4, None)])
def test_branches_in_groups_give_the_same_losses_and_gradients_with_fewer_tokens_at_a_time(
    size: int, max_tokens: int | None, reuse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a limit as many own tokens at a time as their rows have."""
    sampler = geometry(stride=3, generate_length=5, reuse=reuse)
    whole, parted = method_of(sampler, stop_tokens=(7,)), method_of(sampler, stop_tokens=(7,))
    batch, seen = likely_text(whole.policy, EIGHT).rows(2, 6), list[int]()  # one of which has no block
    monkeypatch.setitem(UPDATE_TOKENS, "cpu", None)
    _, values, gradients = optimiser_step(whole, batch, size)
    monkeypatch.setitem(UPDATE_TOKENS, "cpu", 1)
    parted.policy.model.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].numel()) if torch.is_grad_enabled() else None,
        with_kwargs=True,
    )
    _, others, found = optimiser_step(parted, batch, size, max_tokens)
    assert max(seen) <= max(size * T, 0 if max_tokens is None else max_tokens - size * T)
    assert len(seen) > (2 if max_tokens is None else 3) * len(batch) / size  # rows, and several groups each
    assert {name: value.item() for name, value in others.items()} == pytest.approx(
        {name: value.item() for name, value in values.items()}, rel=1e-5, abs=1e-6
    )
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-5 * largest, msg=name)


@pytest.mark.parametrize(
    ("rows", "length", "max_tokens", "tokens"),
    [(1, 101, None, 1024), (4, 101, None, 256), (4, 307, None, 307), (1, 101, 1001, 900), (4, 101, 1001, 149)],
)
def test_own_tokens_of_a_row_at_a_time(rows: int, length: int, max_tokens: int | None, tokens: int) -> None:
    assert branch_tokens(random_batch([[0] * length] * rows), max_tokens) == tokens


class OnDevice(Tensor):
    """A tensor as if on a device, and whatever comes from it: counts what would make the host wait, numbers read and
    shapes that depend on values."""

    READS = (
        Tensor.item,
        Tensor.tolist,
        Tensor.__int__,
        Tensor.__bool__,
        Tensor.__float__,
        Tensor.__index__,
        Tensor.nonzero,
        Tensor.cpu,
    )
    reads = 0

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), options=None):  # type: ignore[no-untyped-def]
        keys = arguments[1] if function is Tensor.__getitem__ else ()
        by_mask = any(
            isinstance(key, Tensor) and key.dtype == torch.bool
            for key in (keys if isinstance(keys, tuple) else (keys,))
        )
        OnDevice.reads += by_mask or function in cls.READS or (function is torch.where and len(arguments) == 1)
        result = super().__torch_function__(function, types, arguments, options or {})
        return result.as_subclass(Tensor) if function is Tensor.cpu else result

    @staticmethod
    def of(x: Tensor) -> Tensor:
        return x.as_subclass(OnDevice)


@pytest.mark.slow
@pytest.mark.parametrize("max_tokens", [None, 3 * (T + 17)])
@pytest.mark.parametrize("reuse", [False, True])
def test_a_device_is_asked_once_how_far_rollouts_follow_their_rows(
    reuse: bool, max_tokens: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where reading is not free, shapes come from bounds instead: the same rollouts and gradients, up to tokens that
    nothing reads."""
    sampler = geometry(stride=3, generate_length=5, reuse=reuse)
    freely, asked = (method_of(sampler, stop_tokens=(7,)) for _ in range(2))
    batch = likely_text(freely.policy, EIGHT).rows(0, 3)
    (experience,), values, gradients = optimiser_step(freely, batch, 3, max_tokens)
    monkeypatch.setattr(reuse_module, "free_to_read", lambda _: False)
    monkeypatch.setattr(chunked, "free_to_read", lambda _: False)
    monkeypatch.setattr(Batch, "to", lambda self, _: self._map(OnDevice.of))
    monkeypatch.setattr(
        Blocks, "to", lambda self, _: Blocks(OnDevice.of(self.anchors), OnDevice.of(self.valid), self.reach)
    )
    OnDevice.reads = 0
    (other,), others, found = optimiser_step(asked, batch, 3, max_tokens)
    asked.metrics([other])
    assert OnDevice.reads == int(reuse)
    assert torch.equal(other.rollout.tokens[other.rollout.valid], experience.rollout.tokens[experience.rollout.valid])
    assert {name: value.item() for name, value in others.items()} == pytest.approx(
        {name: value.item() for name, value in values.items()}, rel=1e-5, abs=1e-6
    )
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-5 * largest, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("anchors", "stop_tokens", "training", "reuse", "max_tokens"),
    [
        ("all", (), True, False, None),
        ("all", (), True, True, 3 * (T + 17)),
        ("all", (7,), False, False, 3 * (T + 17)),
        ("all", (7,), False, True, None),
        ("completion", (7,), True, False, None),
        ("completion", (7,), True, True, 3 * (T + 17)),
    ],
)
def test_a_kept_row_changes_no_rollout_no_reward_and_no_gradient(
    anchors: str, stop_tokens: tuple[int, ...], training: bool, reuse: bool, max_tokens: int | None
) -> None:
    """Of a step's only micro-batch the rows are forwarded once, with their graph; otherwise once to sample and once
    to update."""
    sampler = geometry(anchors=anchors, stride=3, generate_length=5, reuse=reuse)
    results = []
    for is_only in (False, True):
        method = method_of(sampler, stop_tokens)
        method.policy.model.train(training)
        batch = likely_text(method.policy, EIGHT).rows(0, 3)
        before = method.policy.decoder.tokens_forwarded
        experience = method.prepare(batch, 3, is_only)
        assert method.policy.model.training == training
        figures = differentiate(method, experience, method.counts(experience), max_tokens)
        gradients = {name: parameter.grad for name, parameter in method.policy.model.named_parameters()}
        results.append((experience, figures, gradients, method.policy.decoder.tokens_forwarded - before))
    (apart, values, gradients, tokens), (kept, others, found, fewer) = results
    assert (apart.row, tokens - fewer) == (None, 3 * T)
    for name in ("tokens", "log_probs", "valid"):
        assert torch.equal(getattr(kept.rollout, name), getattr(apart.rollout, name))
    assert torch.equal(kept.advantages, apart.advantages)
    assert not kept.advantages.requires_grad
    assert {name: value.item() for name, value in others.items()} == pytest.approx(
        {name: value.item() for name, value in values.items()}, rel=1e-6
    )
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6 * largest, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("reuse", [False, True])
def test_micro_batches_drawn_together_are_those_drawn_alone(reuse: bool) -> None:
    """As on a GPU: three at a time, of rows with different numbers of blocks."""
    sampler = geometry(stride=3, generate_length=5, reuse=reuse)
    cuts = [(start, start + 2) for start in range(0, 8, 2)]
    alone, method = method_of(sampler, (7,)), method_of(sampler, (7,))
    expected = prepare_all(alone, EIGHT, cuts, 3)
    method.micro_batches_together = 3
    assert len({part.rollout.tokens.shape[2] for part in expected}) > 1
    for found, one in zip(prepare_all(method, EIGHT, cuts, 3), expected, strict=True):
        assert torch.equal(found.rollout.tokens, one.rollout.tokens)
        assert torch.equal(found.rollout.valid, one.rollout.valid)
        assert torch.equal(found.batch.tokens, one.batch.tokens)
        assert found.rollout.blocks.reach == one.rollout.blocks.reach
        assert found.text.max_wanted == one.text.max_wanted
        exists = one.rollout.blocks.valid[:, None].expand(one.advantages.shape)
        torch.testing.assert_close(found.advantages[exists], one.advantages[exists], rtol=1e-4, atol=1e-5)
        totals = [method.counts(found), alone.counts(one)]
        assert totals[0] == totals[1]
        losses = [differentiate(*each, None) for each in ((method, found, totals[0]), (alone, one, totals[1]))]
        torch.testing.assert_close(losses[0]["loss"], losses[1]["loss"], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings(
    "ignore:`gradient_checkpointing_enable` is deprecated"
)  # its new name is younger than the oldest transformers
def test_no_row_is_kept_where_activations_are_recomputed() -> None:
    method = method_of()
    method.policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    assert method.prepare(EIGHT, 0, is_only_microbatch=True).row is None


def test_a_step_whose_rollouts_are_the_row_s_costs_its_rows_in_one_pass() -> None:
    method = method_of(geometry(temperature=0.01, reuse=True))
    batch = likely_text(method.policy, EIGHT.rows(0, 2), share=1.0)
    before = method.policy.decoder.tokens_forwarded
    (experience,), _, _ = optimiser_step(method, batch, 2)
    assert method.policy.decoder.tokens_forwarded - before == 2 * 3 * T
    assert method.phi.decoder.tokens_forwarded == pytest.approx(2 * T * method.phi.decoder.depth)
    assert figures(method.metrics([experience]))["reused_share"] == 1


def test_the_loss_by_hand_from_what_the_sampler_recorded() -> None:
    method = method_of(geometry(generate_length=5), stop_tokens=(7,), rl_coef=0.7, ce_coef=0.3)
    (experience,), values, _ = optimiser_step(method, EIGHT, 8)
    rollout, valid = experience.rollout, experience.rollout.valid
    weighted = experience.advantages[..., None] * rollout.log_probs
    assert 0 < valid.sum() < rollout.blocks.valid.sum() * 3 * 5  # some branches stopped
    assert values["policy_gradient"].item() == pytest.approx((-weighted[valid].sum() / valid.sum()).item(), rel=1e-4)
    with torch.no_grad():
        log_probs = plain_model()(input_ids=EIGHT.tokens[:2]).logits.log_softmax(-1)
    (sft_only,), two_rows, _ = optimiser_step(method_of(ce_coef=1.0), EIGHT.rows(0, 2), 2)
    expected = cross_entropy(
        log_probs[:, :-1].gather(2, EIGHT.tokens[:2, 1:, None]).squeeze(-1),
        EIGHT.loss_mask[:2, 1:],
        sft_only.batch.loss_mask[:, 1:].sum(),
    )
    assert two_rows["cross_entropy"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert values["loss"].item() == pytest.approx(
        0.7 * values["policy_gradient"].item() + 0.3 * values["cross_entropy"].item(), rel=1e-5
    )


def test_reward_and_advantage_carry_their_coefficients() -> None:
    method = method_of(alignment_coef=0.5, diversity_coef=2.0, advantage="none")
    experience = method.prepare(EIGHT, 0, is_only_microbatch=False)
    alignment, diversity = alignment_and_diversity(
        method.phi.embeddings(EIGHT, experience.rollout, reuse=False), "none"
    )
    torch.testing.assert_close(experience.reward, 0.5 * alignment - 2.0 * diversity)
    torch.testing.assert_close(experience.advantages, experience.reward)
    assert not experience.advantages.requires_grad


def test_tokens_behind_the_stop_token_take_no_part() -> None:
    """Tokens after EOS once counted in the loss."""
    method = method_of(geometry(generate_length=5), stop_tokens=(7,))
    experience = method.prepare(EIGHT, 0, is_only_microbatch=False)
    rollout, totals = experience.rollout, method.counts(experience)
    behind = ~rollout.valid & rollout.blocks.valid[:, None, :, None]
    assert behind.any()
    other = replace(experience, rollout=replace(rollout, tokens=torch.where(behind, 11, rollout.tokens)))
    one, same = (differentiate(method, made, totals, None) for made in (other, experience))
    assert one == same


def test_a_step_draws_its_own_rollouts_and_always_the_same() -> None:
    method = method_of()
    first, again, next_step = (
        method.prepare(EIGHT, 0, is_only_microbatch=False),
        method.prepare(EIGHT, 0, is_only_microbatch=False),
        method.prepare(EIGHT, 1, is_only_microbatch=False),
    )
    assert torch.equal(first.rollout.tokens, again.rollout.tokens)
    assert not torch.equal(first.rollout.tokens, next_step.rollout.tokens)


def test_a_micro_batch_without_any_block_trains_on_its_text_only() -> None:
    """A row too short for a block was a crash in one implementation and a NaN in another."""
    short, method = EIGHT.rows(4, 5), method_of()
    experience, values, gradients = optimiser_step(method, short, 1)
    assert method.counts(experience[0])["generated"] == 0
    assert values["policy_gradient"].item() == 0
    expected = plain_model()(input_ids=short.tokens[:, :3], labels=short.tokens[:, :3]).loss
    assert values["loss"].item() == pytest.approx(0.1 * expected.item(), rel=1e-5)
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_one_rollout_needs_neither_baseline_nor_diversity() -> None:
    _, values, gradients = optimiser_step(
        method_of(geometry(n_samples=1), advantage="none", diversity_coef=0.0), EIGHT, 8
    )
    assert values["policy_gradient"].isfinite()
    assert max(float(gradient.abs().max()) for gradient in gradients.values()) > 0


@pytest.mark.parametrize(("ce_coef", "rows"), [(0.0, 4), (0.1, T - 1)])
def test_logits_exist_only_where_a_token_is_predicted(ce_coef: float, rows: int) -> None:
    """4 anchors and 12 branches of 4 tokens, the last of which predicts nothing; with cross-entropy, every row position
    but the last."""
    method, seen = method_of(ce_coef=ce_coef), []
    experience = method.prepare(EIGHT.rows(0, 1), 0, is_only_microbatch=False)
    method.policy.head.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[:-1].numel()))
    differentiate(method, experience, method.counts(experience), None)
    assert seen == [4 * 3 * 3, rows]


# Cost (section 9)


def announced(method: EBFT, row_length: int, num_blocks: float, row_is_kept: bool) -> dict[str, float]:
    needs, n_samples = method.config.needs(method.sampler), method.sampler.n_samples
    return of_row(needs, n_samples, row_length, num_blocks, method.phi.decoder.depth, row_is_kept)


@pytest.mark.parametrize("alone", [False, True])
def test_announced_tokens_are_those_that_are_forwarded(alone: bool) -> None:
    """A kept row is the update's from the start."""
    method, batch = method_of(), EIGHT.rows(0, 2)
    assert blocks_of(batch, method.sampler).valid.sum(1).tolist() == [4, 4]
    phases = announced(method, T, 4.0, row_is_kept=alone)
    experience = method.prepare(batch, 0, alone)
    assert method.policy.decoder.tokens_forwarded == pytest.approx(2 * (phases["sampling"] + (3 * T if alone else 0)))
    assert method.phi.decoder.tokens_forwarded == pytest.approx(2 * phases["features"])
    differentiate(method, experience, method.counts(experience), None)
    assert method.tokens_forwarded == pytest.approx(2 * sum(phases.values()))


def test_cost_of_the_paper_s_geometry() -> None:
    """The third row of section 9's table: T = 1024, K = 127, N = 4, G = 8, phi cut at three quarters of the depth."""
    method = method_of(geometry(n_samples=4, generate_length=8))
    method.phi.decoder.depth = 0.75
    apart = {"sampling": 4580, "features": 3816, "update": 13740}
    assert announced(method, 1024, 127.0, row_is_kept=False) == apart
    assert announced(method, 1024, 127.0, row_is_kept=True) == apart | {"sampling": 3556}


# The expected gradient, over every rollout there is, on a real transformer

TERNARY = {"vocab_size": 3, "num_hidden_layers": 2}
CONTINUATIONS = torch.tensor(list(product(range(3), repeat=2)))
PAIRS = torch.tensor(list(product(range(9), repeat=2)))
ANCHORS = [2, 4]


def continuation_log_probs(model: torch.nn.Module, row: Tensor, temperature: float) -> Tensor:
    """[K, 9] log-probs of every continuation of every anchor, each forwarded alone."""

    def one(anchor: int, continuation: Tensor) -> Tensor:
        logits = model(input_ids=torch.cat([row[:anchor], continuation])[None]).logits[0, anchor - 1 : -1]
        return (logits / temperature).log_softmax(-1).gather(1, continuation[:, None]).sum()

    return torch.stack(
        [torch.stack([one(anchor, continuation) for continuation in CONTINUATIONS]) for anchor in ANCHORS]
    )


def continuation_features(model: torch.nn.Module, row: Tensor) -> tuple[Tensor, Tensor]:
    """[K, 9, D] features of every continuation and [K, D] of the real ones."""

    def one(anchor: int, continuation: Tensor) -> Tensor:
        states = model(input_ids=torch.cat([row[:anchor], continuation])[None], output_hidden_states=True).hidden_states
        return embed_loop(states[1][0, anchor:, None], torch.ones(2, dtype=torch.bool), "last_token", "joint").float()

    with torch.no_grad():
        every = torch.stack(
            [torch.stack([one(anchor, continuation) for continuation in CONTINUATIONS]) for anchor in ANCHORS]
        )
        return every, torch.stack([one(anchor, row[anchor : anchor + 2]) for anchor in ANCHORS])


@pytest.mark.slow
@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("advantage", ["none", "rloo"])
def test_expected_gradient_of_a_transformer_is_that_of_the_exact_objective(
    advantage: str, temperature: float, reuse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V = 3, G = 2, N = 2, two blocks: all 81 pairs of rollouts pass through prepare and loss, weighted by their
    probability."""
    row = torch.tensor([2, 0, 1, 1, 2, 0])
    plain, phi = plain_model(**TERNARY), plain_model(seed=1, **TERNARY)
    log_probs = continuation_log_probs(plain, row, temperature)
    features, reference = continuation_features(phi, row)
    exact = (torch.einsum("kc,kcd->kd", log_probs.exp(), features) - reference).square().sum(-1).mean()
    exact.backward()

    sampler = geometry(n_samples=2, stride=2, context_length=2, generate_length=2, temperature=temperature, reuse=reuse)
    network = FeatureNetwork(plain_model(seed=1, **TERNARY), replace(phi_of().features, feature_layers=[1]), "fp32")
    method = EBFT(replace(CONFIG, ce_coef=0.0, advantage=advantage), sampler, policy_of(**TERNARY), network, 0, ())
    batch = random_batch([[0] * 6] * len(PAIRS))
    batch = replace(batch, tokens=row.expand(len(PAIRS), -1).clone())
    tokens = CONTINUATIONS[PAIRS][:, :, None].expand(-1, -1, len(ANCHORS), -1)
    monkeypatch.setattr(
        ebft,
        "sample",
        lambda policy, batch, blocks, *_: (Rollout(blocks, tokens, torch.zeros(tokens.shape), tokens >= 0), None),
    )
    kept = (advantage == "rloo") ^ (temperature == 0.6) ^ reuse  # any three of the four settings in every combination
    experience = method.prepare(batch, 0, is_only_microbatch=kept)
    assert experience.rollout.blocks.anchors[0].tolist() == ANCHORS
    probability = log_probs.detach()[:, PAIRS].sum(-1).exp().T[:, None]  # [81, 1, K]
    assert probability.sum(0).flatten().tolist() == pytest.approx([1, 1], abs=1e-5)
    one_draw = torch.tensor(2 * len(ANCHORS) * 2)  # generated tokens of a single draw
    differentiate(
        method, replace(experience, advantages=experience.advantages * probability), {"generated": one_draw}, None
    )

    for (name, parameter), truth in zip(method.policy.model.named_parameters(), plain.parameters(), strict=True):
        scale = float(truth.grad.abs().max())
        torch.testing.assert_close(2 * parameter.grad, truth.grad, rtol=1e-3, atol=1e-3 * scale, msg=name)
    assert max(float(parameter.grad.abs().max()) for parameter in plain.parameters()) > 0.05
