"""Questions answered to the end: what is asked, what counts, and figures against counts made by hand."""

from dataclasses import replace
from math import prod

import pytest
import torch

from ebft.config.schema import EvalConfig
from ebft.evaluation import Evaluator
from ebft.evaluation.answers import Examiner, pass_at_k
from ebft.rollout.completions import Decoding, complete, prompts_batch
from ebft.tasks.base import Question, Verdict
from ebft.tasks.grader import Grader
from ebft.types import Batch
from tests.evaluation.test_evaluator import CONFIG as EVAL
from tests.evaluation.test_evaluator import batches, quiet
from tests.helpers import geometry, phi_of, plain_model, policy_of
from tests.methods.test_rlvr import FOUR, LENGTHS, QUESTIONS, STOP, Parity, said, words

CONFIG = replace(EVAL, num_questions=4, max_new_tokens=7, num_completions=5, pass_at=[1, 2, 5], temperature=0.7)


def examiner(size: int = 4, verifier: Parity | None = None, batch: Batch = FOUR, **changes: object) -> Examiner:
    grader = Grader(verifier or Parity(), QUESTIONS, said, (STOP,))
    config: EvalConfig = replace(CONFIG, **changes)
    return Examiner(config, [batch.rows(start, start + size) for start in range(0, len(batch), size)], grader)


def greedy_by_hand(row: int) -> list[int]:
    """Token by token through plain transformers, up to the stop token and with it."""
    ids = FOUR.tokens[row, : LENGTHS[row][0]].tolist()
    model, said = plain_model(), []
    while len(said) < 7 and (not said or said[-1] != STOP):
        with torch.no_grad():
            said.append(int(model(input_ids=torch.tensor([ids + said])).logits[0, -1].argmax()))
    return said


def test_greedy_answers_and_their_scores_by_hand() -> None:
    result = examiner()(policy_of(), quiet)
    said = [greedy_by_hand(row) for row in range(4)]
    assert [answer.text for answer in result.answers] == [
        words([token for token in tokens if token != STOP]) for tokens in said
    ]
    ended = [tokens[-1] == STOP for tokens in said]
    verdicts = [Parity().verify(words(tokens[:-1]), QUESTIONS[0]) for tokens in said]
    scores = [verdict.score if end else 0.0 for verdict, end in zip(verdicts, ended, strict=True)]
    assert result.scores["score"].sums.tolist() == pytest.approx(scores)
    assert result.scores["greedy"].sums.tolist() == [
        float(end and verdict.passed) for verdict, end in zip(verdicts, ended, strict=True)
    ]
    assert result.scores["answer_tokens"].sums.tolist() == [len(tokens) for tokens in said]
    assert result.scores["truncated_share"].sums.tolist() == [float(not end) for end in ended]
    assert result.scores["verifier_errors"].value == 0
    assert result.answers[0].as_row()["verdict"] == "odd" if ended[0] else "truncated"
    assert result.answers[0].as_row()["read_as"] == "text"  # how the answer was read, for whoever wonders at a verdict


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3])
def test_figures_do_not_depend_on_the_size_of_its_batches(size: int) -> None:
    whole, parts = examiner()(policy_of(), quiet), examiner(size)(policy_of(), quiet)
    assert parts.answers == whole.answers
    assert parts.scores.keys() == whole.scores.keys()
    for name, score in whole.scores.items():
        assert torch.equal(parts.scores[name].counts, score.counts)
        torch.testing.assert_close(parts.scores[name].sums, score.sums, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize(("num", "right", "k"), [(5, 0, 2), (5, 2, 1), (5, 2, 3), (5, 4, 2), (7, 3, 4), (4, 4, 4)])
def test_pass_at_k_is_the_chance_that_k_of_the_samples_hold_a_right_one(num: int, right: int, k: int) -> None:
    missed = prod((num - right - i) / (num - i) for i in range(k))
    assert pass_at_k(num, right, k) == pytest.approx(1 - missed)


def test_pass_at_k_counts_the_samples_that_passed() -> None:
    class Short(Parity):
        def verify(self, text: str, question: Question) -> Verdict:
            return replace(super().verify(text, question), passed=len(text.split()) <= 3)

    result = examiner(verifier=Short())(policy_of(), quiet)
    batch, blocks = prompts_batch(
        [FOUR.tokens[row, :length].tolist() for row, (length, _) in enumerate(LENGTHS)], FOUR.row_ids.tolist()
    )
    done = complete(policy_of(), batch, blocks, 5, 7, Decoding(0.7, 1.0), f"{CONFIG.seed}/eval/pass", (STOP,))
    right = [
        sum(bool(n - 1 <= 3 and not cut) for n, cut in zip(ns, cuts, strict=True))
        for ns, cuts in zip(done.rollout.valid[:, :, 0].sum(-1).tolist(), done.truncated[..., 0].tolist(), strict=True)
    ]
    assert 0 < sum(right) < 20
    for k in (1, 2, 5):
        assert result.scores[f"pass@{k}"].sums.tolist() == pytest.approx([pass_at_k(5, count, k) for count in right])


def test_answers_on_which_the_verifier_failed_count_nowhere_but_as_its_errors() -> None:
    first = greedy_by_hand(0)[0]
    alike = [greedy_by_hand(row)[0] == first for row in range(4)]
    scores = examiner(verifier=Parity(broken=[first]))(policy_of(), quiet).scores
    assert scores["verifier_errors"].sums.tolist() == [float(same) for same in alike]
    if not all(alike):
        assert scores["greedy"].counts.tolist() == [float(not same) for same in alike]
        assert scores["score"].counts.tolist() == scores["greedy"].counts.tolist()


def test_without_completions_there_is_no_pass_at_k() -> None:
    assert not any(name.startswith("pass") for name in examiner(num_completions=0)(policy_of(), quiet).scores)


def test_calibration_sets_entropy_beside_the_loss_on_real_answers_at_the_same_depth() -> None:
    scores = examiner()(policy_of(), quiet).scores
    assert {name for name in scores if "entropy" in name} == {
        f"{kind}@{k}" for kind in ("entropy", "text_cross_entropy") for k in (1, 2, 4)
    }
    model = plain_model()
    for row, (prompt, answer) in enumerate(LENGTHS):
        with torch.no_grad():
            log_probs = model(input_ids=FOUR.tokens[row : row + 1, : prompt + answer]).logits[0].log_softmax(-1)
        entropy = -(log_probs[prompt - 1].exp() * log_probs[prompt - 1]).sum()
        assert scores["entropy@1"].sums[row].item() == pytest.approx(entropy.item(), rel=1e-4)
        for k in (1, 2, 4):
            expected = -log_probs[prompt + k - 2, FOUR.tokens[row, prompt + k - 1]].item()
            assert scores[f"text_cross_entropy@{k}"].sums[row].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_an_evaluation_holds_its_answers_and_survives_a_checkpoint() -> None:
    whole = Evaluator(EVAL, geometry(generate_length=3), batches(5), batches(5), phi_of(seed=1), (), examiner(2))
    ticks: list[None] = []
    result = whole(policy_of(), lambda: ticks.append(None))
    assert len(ticks) == whole.num_ticks == 4
    assert {"eval/greedy", "eval/greedy_stderr", "eval/pass@2", "eval/cross_entropy"} <= set(result.metrics())
    assert type(result).from_state(result.state()).metrics() == result.metrics()
    assert result.change(result)["eval/greedy"] == 0


def test_verdicts_on_single_answers_are_kept_by_question_and_draw() -> None:
    class Sometimes(Parity):
        def verify(self, text: str, question: Question) -> Verdict:
            return replace(super().verify(text, question), passed=len(text.split()) <= 3, ended=True)

    result = examiner(3, verifier=Sometimes())(policy_of(), quiet)
    draws = result.draws["sampled"]
    right = torch.stack([draw.sums for draw in draws]).sum(0)
    assert len(draws) == 5
    assert 0 < right.sum() < 20
    assert result.scores["pass@1"].sums.tolist() == pytest.approx((right / 5).tolist())
    assert all(draw.names == result.scores["greedy"].names for draw in draws)
