"""Completions against `generate` and against one token at a time by the definition (design.md, tests 3 and 4)."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ebft.geometry import completions as attention
from ebft.geometry.blocks import make_branches
from ebft.models.logprobs import branch_labels
from ebft.models.policy import LanguageModel
from ebft.rollout import completions
from ebft.rollout.completions import Completions, Decoding, Wanted, complete, complete_together, prompts_batch
from ebft.rollout.sampler import uniforms
from ebft.types import Batch
from tests.helpers import FAMILIES, VOCABULARY, log_probs_alone, plain_model, policy_of

GREEDY, PLAIN, WARM = Decoding(0.0, 1.0), Decoding(1.0, 1.0), Decoding(0.7, 1.0)
LENGTHS = [7, 1, 13, 2, 5]  # of the prompts
N, G = 3, 11
ROW_IDS = [40, 3, 17, 8, 29]


def prompts() -> list[list[int]]:
    draw = torch.Generator().manual_seed(4)
    return [torch.randint(VOCABULARY, (length,), generator=draw).tolist() for length in LENGTHS]


def completed(
    policy: LanguageModel,
    decoding: Decoding,
    stop_tokens: tuple[int, ...],
    rows: list[int] | None = None,
    **changes: Any,
) -> Completions:
    """Of the given prompts, all by default."""
    rows = list(range(len(LENGTHS))) if rows is None else rows
    settings = {
        "n_samples": N,
        "max_new_tokens": G,
        "key": "7/eval",
        "decoding": decoding,
        "stop_tokens": stop_tokens,
    } | changes
    return complete(
        policy, *prompts_batch([prompts()[row] for row in rows], [ROW_IDS[row] for row in rows]), **settings
    )


def common_token(done: Completions) -> int:
    """One that many completions hold, so that it ends them at several lengths."""
    return int(done.rollout.tokens.mode(-1).values.mode(0).values.flatten()[0])


def said(done: Completions, b: int, n: int = 0) -> list[int]:
    return done.rollout.tokens[b, n, 0][done.rollout.valid[b, n, 0]].tolist()


def lengths(done: Completions) -> Tensor:
    return done.rollout.valid.sum(-1)


@torch.no_grad()
def slowly(
    model: PreTrainedModel, prompt: list[int], uniform: list[float], decoding: Decoding, stop_tokens: tuple[int, ...]
) -> tuple[list[int], Tensor, Tensor]:
    """Tokens, log-probs and entropies of one completion by the definition: forward everything, sort, add up, search."""
    tokens, log_probs, entropies = list(prompt), [], []
    for draw in uniform:
        logits = model(input_ids=torch.tensor([tokens])).logits[0, -1].double()
        model_probabilities = logits.softmax(-1)
        entropies.append(-sum(p * math.log(p) for p in model_probabilities.tolist()))
        probabilities = (logits / decoding.temperature).softmax(-1).tolist()
        nucleus: set[int] = set()
        for token in sorted(range(VOCABULARY), key=lambda token: -probabilities[token]):
            if sum(probabilities[inside] for inside in nucleus) < decoding.top_p:
                nucleus.add(token)
        target, passed = draw * sum(probabilities[inside] for inside in nucleus), 0.0
        for token in sorted(nucleus):
            passed += probabilities[token]
            if passed > target:
                break
        tokens.append(token)
        log_probs.append(math.log(probabilities[token]))
        if token in stop_tokens:
            break
    return tokens[len(prompt) :], torch.tensor(log_probs), torch.tensor(entropies)


def test_prompts_stand_on_the_left_with_a_block_at_the_end_of_each() -> None:
    batch, blocks = prompts_batch([[5, 6, 7], [8]], [11, 2])
    assert batch.tokens.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch.document_ids.tolist() == [[0, 0, 0], [0, -1, -1]]
    assert batch.row_ids.tolist() == [11, 2]
    assert not batch.loss_mask.any()
    assert not batch.completion_mask.any()
    assert blocks.anchors.tolist() == [[3], [1]]
    assert blocks.valid.tolist() == [[True], [True]]
    assert blocks.reach == (3,)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_completions_are_those_of_generate_token_for_token(family: str) -> None:
    """The rows of a batch are ragged and end at different tokens; `generate` gets each row alone."""
    policy, plain = policy_of(family), plain_model(family)
    stop = common_token(completed(policy, GREEDY, (), n_samples=1))
    done = completed(policy, GREEDY, (stop,), n_samples=1)
    for b, prompt in enumerate(prompts()):
        settings = {"max_new_tokens": G, "do_sample": False, "eos_token_id": stop, "pad_token_id": 0}
        generated = plain.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), **settings)
        assert said(done, b) == generated[0, len(prompt) :].tolist()
    assert len(lengths(done).unique()) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("decoding", [GREEDY, WARM], ids=["greedy", "drawn"])
@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_equal_the_training_forward_and_every_completion_alone(family: str, decoding: Decoding) -> None:
    policy, plain, temperature = policy_of(family), plain_model(family), decoding.temperature or 1.0
    rollout = completed(policy, decoding, (common_token(completed(policy, decoding, ())),)).rollout
    batch, blocks = prompts_batch(prompts(), ROW_IDS)
    branches = make_branches(blocks, rollout.tokens[..., :-1])
    with torch.no_grad():
        (flat,) = policy.log_probs(
            policy.flat_hidden(batch, branches), branch_labels(batch, rollout, branches, temperature)
        )
    trained = rollout.like_tokens(flat)
    torch.testing.assert_close(rollout.log_probs[rollout.valid], trained[rollout.valid], rtol=1e-5, atol=1e-5)
    for b, prompt in enumerate(prompts()):
        for n in range(N):
            valid = rollout.valid[b, n, 0]
            expected = log_probs_alone(plain, torch.tensor(prompt), rollout.tokens[b, n, 0][valid], temperature)
            torch.testing.assert_close(rollout.log_probs[b, n, 0][valid], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.0, 0.8), (1.3, 0.5), (0.7, 1e-9)])
def test_draws_log_probs_and_entropies_are_those_of_the_definition(temperature: float, top_p: float) -> None:
    policy, plain, decoding = policy_of(), plain_model(), Decoding(temperature, top_p)
    stop = common_token(completed(policy, decoding, ()))
    done = completed(policy, decoding, (stop,))
    draws = uniforms("7/eval", torch.tensor(ROW_IDS), 1, N, G)
    for b, prompt in enumerate(prompts()):
        for n in range(N):
            tokens, log_probs, entropies = slowly(plain, prompt, draws[b, n, 0].tolist(), decoding, (stop,))
            length = len(tokens)
            assert said(done, b, n) == tokens
            torch.testing.assert_close(done.rollout.log_probs[b, n, 0, :length], log_probs, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(done.entropies[b, n, 0, :length], entropies, rtol=1e-5, atol=1e-5)
            assert done.truncated[b, n, 0] == (stop not in tokens)
    assert 0 < done.truncated.sum() < done.truncated.numel()


def test_greedy_log_probs_and_entropies_are_at_temperature_one() -> None:
    done, plain = completed(policy_of(), GREEDY, ()), plain_model()
    for b, prompt in enumerate(prompts()):
        with torch.no_grad():
            logits = plain(input_ids=torch.tensor([prompt + said(done, b)])).logits[0, len(prompt) - 1 : -1]
        torch.testing.assert_close(
            done.rollout.log_probs[b, 0, 0], logits.log_softmax(-1).amax(-1), rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(
            done.entropies[b, 0, 0], torch.distributions.Categorical(logits=logits).entropy(), rtol=1e-5, atol=1e-5
        )
    assert torch.equal(done.rollout.tokens[:, :1].expand(-1, N, -1, -1), done.rollout.tokens)


def assert_same(done: Completions, expected: Completions) -> None:
    for found, wanted in (
        (done.rollout.tokens, expected.rollout.tokens),
        (done.rollout.valid, expected.rollout.valid),
        (done.truncated, expected.truncated),
    ):
        assert torch.equal(found, wanted)
    torch.testing.assert_close(done.rollout.log_probs, expected.rollout.log_probs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(done.entropies, expected.entropies, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("share", "look_every"), [(0.0, 1), (1 / 8, 1), (0.5, 1), (0.0, 4), (2.0, 1)])
def test_branches_that_leave_change_nothing(monkeypatch: pytest.MonkeyPatch, share: float, look_every: int) -> None:
    monkeypatch.setattr(completions, "LEAVING_SHARE", share)
    monkeypatch.setitem(completions.LOOK_EVERY_STEPS, "cpu", look_every)
    policy = policy_of()
    free = completed(policy, WARM, ())
    stop = common_token(free)
    done = completed(policy, WARM, (stop,))
    longest = done.rollout.tokens.shape[-1]
    for b in range(len(LENGTHS)):
        for n in range(N):
            tokens = free.rollout.tokens[b, n, 0].tolist()
            length = tokens.index(stop) + 1 if stop in tokens else G
            assert done.rollout.tokens[b, n, 0].tolist() == (tokens[:length] + [stop] * G)[:longest]
            assert done.rollout.valid[b, n, 0].tolist() == [step < length for step in range(longest)]
            for some, whole in ((done.rollout.log_probs, free.rollout.log_probs), (done.entropies, free.entropies)):
                torch.testing.assert_close(some[b, n, 0, :length], whole[b, n, 0, :length], rtol=1e-5, atol=1e-5)
                assert not some[b, n, 0, length:].any()
    assert torch.equal(done.truncated, (free.rollout.tokens != stop).all(-1))
    assert len(lengths(done).unique()) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("most_seats", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_seats_of_a_table_change_nothing(monkeypatch: pytest.MonkeyPatch, family: str, most_seats: int) -> None:
    """Each completion in a copy of its row, as on CUDA; two tables a row, of which one has a free seat; one for all.
    They leave at different steps, some tables before others."""
    monkeypatch.setattr(completions, "LEAVING_SHARE", 0.0)
    policy = policy_of(family)
    stop = common_token(completed(policy, WARM, ()))
    expected = completed(policy, WARM, (stop,))
    monkeypatch.setitem(attention.SEATS, "cpu", most_seats)
    assert_same(completed(policy, WARM, (stop,)), expected)
    assert len(lengths(expected).unique()) >= 3


def test_a_branch_that_has_stopped_is_not_forwarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A completion of m tokens costs m - 1 forwards behind its prompt: nothing is predicted from its last one."""
    monkeypatch.setattr(completions, "LEAVING_SHARE", 0.0)
    policy = policy_of()
    stop = common_token(completed(policy, WARM, ()))
    before = policy.decoder.tokens_forwarded
    done = completed(policy, WARM, (stop,))
    padded_prompts = len(LENGTHS) * max(LENGTHS)
    assert policy.decoder.tokens_forwarded - before == padded_prompts + int((lengths(done) - 1).sum())


def test_completions_end_with_the_longest() -> None:
    """A row whose completions all stop early; by default nothing is computed for the steps that are left."""
    policy = policy_of()
    free = completed(policy, WARM, (), rows=[0], n_samples=1)
    stop = said(free, 0)[4]
    length = said(free, 0).index(stop) + 1
    done = completed(policy, WARM, (stop,), rows=[0], n_samples=1, max_new_tokens=G)
    assert done.rollout.tokens.shape == done.entropies.shape == (1, 1, 1, length)
    assert not done.truncated.any()
    assert free.truncated.all()


@pytest.mark.parametrize("rows", [[3, 0, 4, 2, 1], [2, 1], [1]])
def test_a_row_says_the_same_in_any_company(rows: list[int]) -> None:
    policy = policy_of()
    stop = common_token(completed(policy, WARM, ()))
    together, apart = completed(policy, WARM, (stop,)), completed(policy, WARM, (stop,), rows=rows)
    for place, row in enumerate(rows):
        for n in range(N):
            assert said(apart, place, n) == said(together, row, n)
            here, there = (done.rollout.log_probs[b, n, 0] for done, b in ((apart, place), (together, row)))
            length = len(said(together, row, n))
            torch.testing.assert_close(here[:length], there[:length], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_what_is_decoded_together_is_what_is_decoded_apart() -> None:
    """Greedy, warm and from a nucleus, in different numbers, with an end that they reach at different steps."""
    policy = policy_of()
    stop = common_token(completed(policy, WARM, ()))
    wanted = [
        Wanted(1, GREEDY, "7/greedy"),
        Wanted(N, WARM, "7/eval"),
        Wanted(2, Decoding(0.7, 0.9), "7/pass"),
    ]
    batch, blocks = prompts_batch(prompts(), ROW_IDS)
    before = policy.decoder.tokens_forwarded
    together = complete_together(policy, batch, blocks, G, wanted, (stop,))
    forwarded = policy.decoder.tokens_forwarded - before
    for each, done in zip(wanted, together, strict=True):
        assert_same(done, completed(policy, each.decoding, (stop,), n_samples=each.n_samples, key=each.key))
    assert forwarded < policy.decoder.tokens_forwarded - before - forwarded  # prompts are forwarded once


@pytest.mark.parametrize("masked", [False, True])
def test_text_behind_an_anchor_is_not_seen(masked: bool) -> None:
    """A row of training data holds the reference answer behind its prompt."""
    policy = policy_of()
    batch, blocks = prompts_batch(prompts(), ROW_IDS)
    answers = torch.randint(VOCABULARY, (len(LENGTHS), 5), generator=torch.Generator().manual_seed(6))
    tokens = torch.where(batch.document_ids < 0, answers[:, :1], batch.tokens)
    everywhere = torch.zeros(len(LENGTHS), max(LENGTHS) + 5, dtype=torch.long)
    full = Batch(torch.cat([tokens, answers], dim=1), everywhere, everywhere > 0, everywhere > 0, batch.row_ids, masked)
    assert_same(complete(policy, full, blocks, N, G, WARM, "7/eval", (5,)), completed(policy, WARM, (5,)))


def test_a_single_new_token_needs_no_further_forward() -> None:
    policy = policy_of()
    done, longer = completed(policy, WARM, (), max_new_tokens=1), completed(policy, GREEDY, ())
    assert done.rollout.tokens.shape == (len(LENGTHS), N, 1, 1)
    greedy = completed(policy, GREEDY, (), max_new_tokens=1)
    assert torch.equal(greedy.rollout.tokens, longer.rollout.tokens[..., :1])
    forwarded = policy.decoder.tokens_forwarded
    completed(policy, WARM, (), max_new_tokens=1)
    assert policy.decoder.tokens_forwarded - forwarded == len(LENGTHS) * max(LENGTHS)


class Fixed(LanguageModel):
    """A policy with the same next-token distribution everywhere."""

    distribution: Tensor

    def logits(self, hidden: Tensor) -> Tensor:
        return self.distribution.log().expand(*hidden.shape[:-1], -1)


def fixed(probabilities: list[float]) -> Fixed:
    policy = Fixed(plain_model(), "fp32")
    policy.distribution = torch.tensor(probabilities)
    return policy


@pytest.mark.parametrize(
    ("top_p", "nucleus"), [(0.4, [3]), (0.6, [1, 3]), (0.74, [1, 3]), (0.76, [1, 2, 3]), (1.0, [0, 1, 2, 3])]
)
def test_the_nucleus_by_hand(top_p: float, nucleus: list[int]) -> None:
    """Likeliest first: token 3 holds 1/2, token 1 a quarter more; log-probs stay those of the whole distribution."""
    policy = fixed([0.1, 0.25, 0.15, 0.5])
    done = completed(policy, Decoding(1.0, top_p), (), rows=[0], n_samples=101)
    assert done.rollout.tokens.unique().tolist() == nucleus
    torch.testing.assert_close(done.rollout.log_probs, policy.distribution.log()[done.rollout.tokens])
    share = (done.rollout.tokens == 3).float().mean().item()
    assert share == pytest.approx(0.5 / sum(policy.distribution[nucleus].tolist()), abs=0.05)


@pytest.mark.parametrize(
    "decoding", [GREEDY, PLAIN, WARM, Decoding(1.0, 0.3)], ids=["greedy", "plain", "warm", "nucleus"]
)
def test_entropy_is_the_models_however_tokens_are_chosen(decoding: Decoding) -> None:
    """Two tokens of probability 1/4, one of 1/2 and one of 0: 3/2 log 2."""
    done = completed(fixed([0.25, 0.0, 0.5, 0.25]), decoding, ())
    torch.testing.assert_close(done.entropies, torch.full_like(done.entropies, 1.5 * math.log(2)))


def test_bfloat16_completions_are_near_the_training_forward() -> None:
    policy = policy_of(dtype="bf16", initializer_range=0.1)
    rollout = completed(policy, WARM, (3,)).rollout
    batch, blocks = prompts_batch(prompts(), ROW_IDS)
    branches = make_branches(blocks, rollout.tokens[..., :-1])
    with torch.no_grad():
        (flat,) = policy.log_probs(policy.flat_hidden(batch, branches), branch_labels(batch, rollout, branches, 0.7))
    assert rollout.log_probs.dtype == torch.float32
    assert (rollout.like_tokens(flat) - rollout.log_probs)[rollout.valid].abs().max() < 0.2


def test_a_tick_may_stop_the_decoding() -> None:
    policy, ticks = policy_of(), []

    def tick() -> None:
        ticks.append(policy.decoder.tokens_forwarded)
        if len(ticks) == 3:
            raise KeyboardInterrupt

    policy.model.train()
    with pytest.raises(KeyboardInterrupt):
        completed(policy, GREEDY, (), tick=tick)
    assert ticks[2] - ticks[1] == len(LENGTHS) * N
    assert policy.model.training
