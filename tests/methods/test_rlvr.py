"""RLVR as one piece: verdicts to rewards, weights and denominators by hand, micro-batches, what counts and what does
not."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ebft.config.methods import RLVRConfig
from ebft.methods import differentiate
from ebft.methods.rlvr import RLVR, RLVRExperience
from ebft.objective.advantages import outcome_advantages
from ebft.tasks.base import Question, Verdict
from ebft.tasks.grader import Grader
from tests.helpers import T, figures, geometry, optimiser_step, plain_model, policy_of, random_batch

CONFIG = RLVRConfig(
    name="rlvr",
    advantage="rloo",
    max_new_tokens=7,
    truncated="zero",
    ce_coef=0.0,
    kl_coef=0.0,
    kl_estimator="k3",
    reward=None,
)
STOP = 1
LENGTHS = [(3, 9), (5, 7), (2, 13), (11, 8)]  # prompt and answer of four rows
IDS = [[0] * (prompt + answer) + [-1] * (T - prompt - answer) for prompt, answer in LENGTHS]
FOUR = random_batch(IDS, [[prompt <= t < prompt + answer for t in range(T)] for prompt, answer in LENGTHS])
FOUR = replace(FOUR, row_ids=torch.tensor([2, 0, 3, 1]))
QUESTIONS = [Question(key=str(row), prompt="", answer="", origin=f"row {row}") for row in range(4)]


class Parity:
    """Scores a text by its tokens: the share of odd ones; the machinery fails on texts that begin with one of
    `broken`."""

    def __init__(self, broken: Sequence[int] = ()) -> None:
        self.broken = broken
        self.asked: list[str] = []

    def verify(self, text: str, question: Question) -> Verdict:
        numbers = [int(word) for word in text.split()]
        if numbers and numbers[0] in self.broken:
            return Verdict(None, passed=False, kind="no process")
        score = sum(number % 2 for number in numbers) / max(1, len(numbers))
        return Verdict(score, passed=score == 1, kind="odd")

    def verify_all(self, texts: Sequence[str], questions: Sequence[Question]) -> list[Verdict]:
        self.asked += [question.origin for question in questions]
        return [self.verify(text, question) for text, question in zip(texts, questions, strict=True)]

    def metrics(self, texts: Sequence[str], questions: Sequence[Question]) -> dict[str, float]:
        return {}


def words(tokens: list[int]) -> str:
    return " ".join(map(str, tokens))


def said(question: int, completions: list[list[int]]) -> list[str]:
    return [words(tokens) for tokens in completions]


def method_of(verifier: Parity | None = None, reuse: bool = False, temperature: float = 0.7, **changes: object) -> RLVR:
    config = replace(CONFIG, **changes)
    reference = policy_of(seed=4) if config.kl_coef else None
    grader = Grader(verifier or Parity(), QUESTIONS, said, (STOP,))
    return RLVR(
        config, geometry(n_samples=3, temperature=temperature, reuse=reuse), policy_of(), reference, grader, seed=6
    )


def step_of(
    method: RLVR, size: int = 4, max_tokens: int | None = None
) -> tuple[list[RLVRExperience], dict[str, Tensor], dict[str, Tensor]]:
    return optimiser_step(method, FOUR, size, max_tokens)


def completions_of(experience: RLVRExperience) -> list[list[list[int]]]:
    """Up to the stop token and with it, from the tokens alone."""
    rows = experience.rollout.tokens[:, :, 0].tolist()
    return [[tokens[: tokens.index(STOP) + 1] if STOP in tokens else tokens for tokens in row] for row in rows]


def test_rewards_are_the_verdicts_on_what_was_said_before_the_stop_token() -> None:
    verifier = Parity()
    (experience,), _, _ = step_of(method_of(verifier))
    assert verifier.asked == [f"row {row}" for row in (2, 2, 2, 0, 0, 0, 3, 3, 3, 1, 1, 1)]
    said = completions_of(experience)
    assert any(STOP in tokens for row in said for tokens in row)
    assert any(STOP not in tokens for row in said for tokens in row)
    for row, completions in enumerate(said):
        for sample, tokens in enumerate(completions):
            truncated = STOP not in tokens
            expected = 0.0 if truncated else Parity().verify(words(tokens[:-1]), QUESTIONS[0]).score
            assert experience.rewards[row, sample].item() == pytest.approx(expected)
            assert experience.truncated[row, sample].item() is truncated


@pytest.mark.parametrize("kind", ["none", "rloo", "grpo", "dr_grpo"])
def test_the_loss_by_hand_token_by_token(kind: str) -> None:
    """Every completion forwarded alone through plain transformers, its advantage times the weight that its method gives
    a token."""
    (experience,), values, gradients = step_of(method_of(advantage=kind))
    model, loss = plain_model(), torch.zeros(())
    advantage = outcome_advantages(experience.rewards, torch.ones(4, 3, dtype=torch.bool), kind)
    assert advantage.abs().max() > 0.1
    for row, completions in enumerate(completions_of(experience)):
        prompt = FOUR.tokens[row, : LENGTHS[row][0]]
        for sample, tokens in enumerate(completions):
            ids = torch.cat([prompt, torch.tensor(tokens)])
            log_probs = (model(input_ids=ids[None]).logits[0, len(prompt) - 1 : -1] / 0.7).log_softmax(-1)
            chosen = log_probs.gather(1, torch.tensor(tokens)[:, None]).sum()
            weight = {"grpo": 1 / len(tokens), "dr_grpo": 1 / 7}.get(kind, 1.0)
            loss = loss - advantage[row, sample] * weight * chosen / 12
    assert values["loss"].item() == pytest.approx(loss.item(), rel=1e-4)
    loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            gradients[name], parameter.grad, rtol=1e-3, atol=1e-4 * float(parameter.grad.abs().max()), msg=name
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ce_coef": 0.3, "kl_coef": 0.2, "kl_estimator": "k2"},
        {"kl_coef": 0.2, "kl_estimator": "k1", "truncated": "masked"},
    ],
)
def test_micro_batches_change_neither_loss_nor_gradient(changes: dict[str, object]) -> None:
    """Rows of a micro-batch are cut behind its longest prompt, and rollouts end with its longest completion."""
    _, values, gradients = step_of(method_of(**changes))
    for size in (1, 2):
        _, others, other_gradients = step_of(method_of(**changes), size)
        assert {name: value.item() for name, value in others.items()} == pytest.approx(
            {name: value.item() for name, value in values.items()}, rel=1e-4, abs=1e-6
        )
        for name, gradient in gradients.items():
            torch.testing.assert_close(
                other_gradients[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()), msg=name
            )


def test_masked_completions_leave_the_loss_and_the_denominators() -> None:
    (zero,), _, _ = step_of(method_of(truncated="zero"))
    method = method_of(truncated="masked")
    (masked,), _, _ = step_of(method)
    assert 0 < zero.truncated.sum() < 12
    assert zero.counted.all()
    assert torch.equal(masked.counted, ~zero.truncated)
    assert method.counts(masked)["completions"] == 12 - zero.truncated.sum()
    assert not masked.rollout.valid[masked.truncated].any()
    assert (masked.advantages[masked.truncated] == 0).all()


def test_a_verifier_that_fails_is_masked_and_counted_never_a_zero() -> None:
    """The completions on which it failed move neither loss nor baseline nor the mean reward."""
    whole = method_of().prepare(FOUR, 3, is_only_microbatch=False)
    first = int(whole.rollout.tokens[0, 0, 0, 0])
    method = method_of(Parity(broken=[first]))
    (experience,), _, _ = step_of(method)
    failed = whole.rollout.tokens[:, :, 0, 0] == first
    assert 0 < failed.sum() < 12
    assert torch.equal(experience.judged, ~failed)
    assert torch.equal(experience.counted, ~failed)
    torch.testing.assert_close(experience.advantages, outcome_advantages(whole.rewards, ~failed, "rloo"))
    values = figures(method.metrics([experience]))
    assert values["verifier_error_share"] == pytest.approx(failed.float().mean().item())
    assert values["reward"] == pytest.approx(whole.rewards[~failed].mean().item())


def test_without_any_verdict_there_is_no_reward_to_report_and_no_gradient() -> None:
    method = method_of(Parity(broken=range(31)))
    (experience,), values, gradients = step_of(method)
    silent = [row == [STOP] for rows in completions_of(experience) for row in rows]
    assert not any(silent)
    assert values["loss"] == 0
    assert all((gradient == 0).all() for gradient in gradients.values())
    assert "reward" not in figures(method.metrics([experience]))


def test_k1_lowers_the_reward_by_the_log_ratio_of_the_whole_completion() -> None:
    plain, method = method_of().prepare(FOUR, 3, is_only_microbatch=False), method_of(kl_coef=0.2, kl_estimator="k1")
    (experience,), values, _ = step_of(method)
    assert experience.reference is not None
    ratio = (experience.rollout.log_probs - experience.reference).masked_fill(~experience.rollout.valid, 0).sum((2, 3))
    assert torch.equal(experience.rewards, plain.rewards)  # what is reported stays the verdict
    penalised = outcome_advantages(plain.rewards - 0.2 * ratio, torch.ones(4, 3, dtype=torch.bool), "rloo")
    torch.testing.assert_close(experience.advantages, penalised)
    assert "kl_penalty" not in values
    valid = experience.rollout.valid
    assert figures(method.metrics([experience]))["kl"] == pytest.approx(
        (experience.rollout.log_probs - experience.reference)[valid].mean().item()
    )


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_k2_and_k3_are_means_over_tokens_in_the_loss(estimator: str) -> None:
    (experience,), values, _ = step_of(method_of(kl_coef=0.2, kl_estimator=estimator))
    assert experience.reference is not None
    ratio = (experience.rollout.log_probs - experience.reference)[experience.rollout.valid]
    expected = (ratio.square() / 2 if estimator == "k2" else torch.exp(-ratio) - 1 + ratio).mean()
    assert values["kl_penalty"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert values["loss"].item() == pytest.approx((values["policy_gradient"] + 0.2 * expected).item(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"advantage": "grpo", "kl_coef": 0.2, "kl_estimator": "k3"}, {"ce_coef": 0.3}], ids=["kl", "text"]
)
def test_completions_in_groups_give_the_same_losses_and_gradients(changes: dict[str, object]) -> None:
    """Rows of T tokens with one completion at a time, and with two."""
    (_, values, gradients), *others = [
        step_of(method_of(**changes), 1, max_tokens) for max_tokens in (None, T + 5, T + 11)
    ]
    for _, parted, found in others:
        assert {name: value.item() for name, value in parted.items()} == pytest.approx(
            {name: value.item() for name, value in values.items()}, rel=1e-5, abs=1e-6
        )
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.02},  # at which completions are often equal
        {"ce_coef": 0.3},
        {"kl_coef": 0.2, "kl_estimator": "k1", "truncated": "masked"},
        {"kl_coef": 0.2, "kl_estimator": "k3"},
    ],
    ids=["equal", "text", "k1", "k3"],
)
def test_an_update_forwards_equal_completions_once_and_nothing_behind_an_end(changes: dict[str, Any]) -> None:
    plain, reusing = method_of(**changes), method_of(reuse=True, **changes)
    experiences, values, gradients = step_of(plain, 1)
    _, others, found = step_of(reusing, 1)
    assert {name: value.item() for name, value in others.items()} == pytest.approx(
        {name: value.item() for name, value in values.items()}, rel=1e-5, abs=1e-6
    )
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-5 * largest, msg=name)
    if "kl_coef" in changes or "ce_coef" in changes:
        assert reusing.tokens_forwarded < plain.tokens_forwarded
        return
    said = [row for experience in experiences for row in completions_of(experience)]
    assert any(len({*map(tuple, row)}) < 3 for row in said)
    saved = [3 * (max(map(len, row)) - 1) - sum(len(tokens) - 1 for tokens in {*map(tuple, row)}) for row in said]
    assert plain.tokens_forwarded - reusing.tokens_forwarded == 3 * sum(saved)  # a backward counts as two


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"ce_coef": 0.3, "kl_coef": 0.2, "kl_estimator": "k3"}], ids=["plain", "all"])
def test_prompts_of_the_only_micro_batch_are_forwarded_once(changes: dict[str, Any]) -> None:
    """Otherwise once to sample and once to update; completions, rewards and gradients are the same."""
    results = []
    for is_only in (False, True):
        method = method_of(reuse=True, **changes)
        experience = method.prepare(FOUR, 3, is_only)
        figures = differentiate(method, experience, method.counts(experience), None)
        gradients = {name: parameter.grad for name, parameter in method.policy.model.named_parameters()}
        results.append((experience, figures, gradients, method.tokens_forwarded))
    (apart, values, gradients, tokens), (kept, others, found, fewer) = results
    assert tokens - fewer == apart.batch.tokens.numel()
    assert torch.equal(kept.rollout.tokens, apart.rollout.tokens)
    assert torch.equal(kept.advantages, apart.advantages)
    assert {name: value.item() for name, value in others.items()} == pytest.approx(
        {name: value.item() for name, value in values.items()}, rel=1e-6
    )
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6 * largest, msg=name)


def test_figures_of_an_optimiser_batch() -> None:
    method = method_of()
    prepared, _, _ = step_of(method, 2)
    values = figures(method.metrics(prepared))
    (whole,), _, _ = step_of(method_of())
    assert values == pytest.approx(figures(method.metrics([whole])), abs=1e-6)
    assert set(values) == {
        "verifier_error_share",
        "truncated_share",
        "zero_advantage_share",
        "completion_tokens",
        "reward",
        "passed_share",
    }
    lengths = [len(tokens) for row in completions_of(whole) for tokens in row]
    assert values["completion_tokens"] == pytest.approx(sum(lengths) / 12)
    same = [len({round(value, 5) for value in row}) == 1 for row in whole.rewards.tolist()]
    assert values["zero_advantage_share"] == pytest.approx(sum(same) / 4)


def test_only_prompts_are_forwarded_and_only_as_far_as_completions_go() -> None:
    method = method_of()
    experience = method.prepare(FOUR, 3, is_only_microbatch=False)
    longest = experience.rollout.tokens.shape[-1]
    assert experience.batch.tokens.shape[1] == 11
    assert method.tokens_forwarded <= 4 * 11 + 4 * 3 * (longest - 1)
