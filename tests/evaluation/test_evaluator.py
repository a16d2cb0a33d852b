"""One evaluation, the same whatever the batches, whoever asks and however often."""

from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from ebft import evaluation
from ebft.config.schema import EvalConfig
from ebft.data.tokenization import Tokenization
from ebft.evaluation import Evaluation, Evaluator
from ebft.evaluation.names import names_of
from ebft.models.policy import LanguageModel
from ebft.rollout.sampler import sample
from ebft.types import Batch, Blocks, Rollout
from tests.helpers import LAYOUTS, VOCABULARY, T, geometry, phi_of, policy_of, random_batch

ROWS = [LAYOUTS["plain"][0]] * 3 + LAYOUTS["documents"]  # five rows, each with another number of blocks
CONFIG = EvalConfig(
    every_steps=1,
    on_interrupt=False,
    num_documents=5,
    long_documents=5,
    n_samples=3,
    stride=5,
    long_stride=5,
    context_length=2,
    horizons=[1, 2, 4, 7],
    micro_batch_size=5,
    seed=17,
    num_questions=0,
    max_new_tokens=7,
    num_completions=0,
    pass_at=[1],
    temperature=0.7,
    top_p=1.0,
    sets={},
)


def batches(size: int) -> list[Batch]:
    whole = replace(random_batch(ROWS), row_ids=torch.tensor([11, 3, 7, 2, 5]))
    return [whole.rows(start, start + size) for start in range(0, len(whole), size)]


def evaluator(size: int = 5, stop_tokens: tuple[int, ...] = (), **changes: object) -> Evaluator:
    return Evaluator(
        replace(CONFIG, **changes),
        geometry(generate_length=3),
        batches(size),
        batches(size),
        phi_of(seed=1),
        stop_tokens,
    )


def quiet() -> None:
    """No signal came."""


def test_horizons_are_those_that_fit_behind_the_first_context_and_the_sampler_s_own() -> None:
    assert evaluator().horizons == [1, 2, 3, 4, 7]
    assert evaluator(horizons=[21, 22, 1]).horizons == [1, 3, 21]
    assert evaluator(context_length=T - 3, horizons=[1, 64]).horizons == [1, 3]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 3])
def test_figures_do_not_depend_on_the_size_of_its_batches(size: int) -> None:
    whole, parts = evaluator()(policy_of(), quiet), evaluator(size)(policy_of(), quiet)
    assert parts.scores.keys() == whole.scores.keys()
    for name, score in whole.scores.items():
        assert torch.equal(parts.scores[name].counts, score.counts)
        torch.testing.assert_close(parts.scores[name].sums, score.sums, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.slow
def test_figures_and_samples_are_the_same_when_asked_again() -> None:
    examiner, policy = evaluator(2), policy_of()
    first, second = examiner(policy, quiet), examiner(policy, quiet)
    assert first.metrics() == second.metrics()
    assert first.samples == second.samples
    assert set(first.change(second).values()) == {0.0}


@pytest.mark.slow
def test_another_seed_draws_other_rollouts_over_the_same_text() -> None:
    one, other = (evaluator(seed=seed)(policy_of(), quiet).metrics() for seed in (17, 18))
    assert one["eval/cross_entropy"] == other["eval/cross_entropy"]
    assert one["eval/feature_matching_loss@4"] != other["eval/feature_matching_loss@4"]


@pytest.mark.slow
def test_rollouts_are_at_temperature_one_and_every_row_has_draws_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the training's temperature, here 0.7; and the same draws in whatever batch the row comes."""
    calls: list[tuple[torch.Tensor, float]] = []

    def spy(
        policy: LanguageModel,
        batch: Batch,
        blocks: Blocks,
        draws: torch.Tensor,
        temperature: float,
        stop_tokens: tuple[int, ...],
        reuse: bool,
    ) -> tuple[Rollout, torch.Tensor]:
        calls.append((draws, temperature))
        return sample(policy, batch, blocks, draws, temperature, stop_tokens, reuse)

    monkeypatch.setattr(evaluation, "sample", spy)
    for size in (5, 1):
        evaluator(size)(policy_of(), quiet)
    assert {temperature for _, temperature in calls} == {1.0}
    for length in (3, 7):  # rollouts of the training length, and to the longest horizon
        whole, *rows = [draws for draws, _ in calls if draws.shape[3] == length]
        assert len(rows) == 5
        for b, row in enumerate(rows):
            assert torch.equal(row[0], whole[b, :, : row.shape[2]])
    assert len({tuple(draws.flatten().tolist()) for draws in whole}) == 5


def test_it_leaves_the_random_state_the_gradients_and_the_training_mode_alone() -> None:
    policy = policy_of()
    policy.model.train()
    torch.manual_seed(4)
    before = torch.get_rng_state()
    evaluator()(policy, quiet)
    assert torch.equal(torch.get_rng_state(), before)
    assert policy.model.training
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in policy.model.parameters())


@pytest.mark.slow
def test_dropout_is_off_during_an_evaluation() -> None:
    policy = policy_of("gpt_neox", hidden_dropout=0.5)
    policy.model.train()
    assert evaluator()(policy, quiet).metrics() == evaluator()(policy_of("gpt_neox"), quiet).metrics()


@pytest.mark.slow
def test_a_tick_after_every_batch_can_stop_it_and_the_policy_trains_on() -> None:
    ticks = []

    def stop_at_two() -> None:
        ticks.append(1)
        if len(ticks) == 2:
            raise InterruptedError

    policy = policy_of()
    policy.model.train()
    with pytest.raises(InterruptedError):
        evaluator(1)(policy, stop_at_two)
    assert len(ticks) == 2
    assert policy.model.training
    ticks.append(1)
    evaluator(1)(policy, stop_at_two)
    assert len(ticks) == 3 + 10


def test_metrics_name_every_score_with_its_standard_error() -> None:
    result = evaluator()(policy_of(), quiet)
    losses = [f"feature_matching_loss@{horizon}" for horizon in (1, 2, 3, 4, 7)]
    assert set(result.scores) == {"cross_entropy", "reward", "whitened_feature_reward", *losses}
    metrics = result.metrics()
    assert metrics["eval/cross_entropy"] == result.scores["cross_entropy"].value
    assert metrics["eval/feature_matching_loss@4_stderr"] == result.scores["feature_matching_loss@4"].stderr
    assert len(metrics) == 2 * len(result.scores)


def test_a_horizon_that_no_continuation_reaches_is_left_out() -> None:
    """Rows of 23 tokens have room for 11 behind 2, their documents of 8 tokens have not."""
    config = replace(CONFIG, horizons=[1, 6, 11])
    short_rows = [random_batch([[0] * 8 + [-1] * 15] * 2)]
    short = Evaluator(config, geometry(generate_length=3), short_rows, short_rows, phi_of(seed=1), ())
    assert short.horizons == [1, 3, 6, 11]
    scores = short(policy_of(), quiet).scores
    assert "feature_matching_loss@6" in scores
    assert "feature_matching_loss@11" not in scores


@pytest.mark.slow
def test_long_rollouts_are_scored_on_their_own_rows_and_change_nothing_else() -> None:
    """The first two batches of two rows for horizons 4 and 7, all three batches for the rest."""
    rows, phi, policy = batches(2), phi_of(seed=1), policy_of()
    few = Evaluator(CONFIG, geometry(generate_length=3), rows, rows[:2], phi, ())
    ticks: list[None] = []
    scores, whole = few(policy, lambda: ticks.append(None)).scores, evaluator(2)(policy, quiet).scores
    assert (len(ticks), few.num_ticks) == (5, 5)
    for name, score in whole.items():
        seen = 4 if name.endswith(("@4", "@7")) else 5
        assert torch.equal(scores[name].sums, score.sums[:seen]), name


def test_without_long_horizons_there_are_no_long_batches() -> None:
    assert evaluator(2, horizons=[1, 2]).num_ticks == 3
    assert evaluator(2, horizons=[1, 4]).num_ticks == 6


def test_samples_show_real_context_reference_and_rollouts() -> None:
    """The middle one of a row's five blocks at 2, 7, 12, 17 and 22 stands at 12."""
    result = evaluator()(policy_of(), quiet)
    sample, batch = result.samples[0], batches(5)[0]
    assert sample.context == batch.tokens[0, :12].tolist()
    assert sample.reference == batch.tokens[0, 12:15].tolist()
    assert [len(rollout) for rollout in sample.rollouts] == [3, 3, 3]
    numbers = Tokenizer(models.WordLevel({str(number): number for number in range(VOCABULARY)}))
    fast = PreTrainedTokenizerFast(tokenizer_object=numbers)
    row = sample.as_row(Tokenization(fast, None, (0,)))
    assert row["context"].split() == [*map(str, sample.context)]
    assert row["reference"].split() == [*map(str, sample.reference)]
    assert [rollout["reward"] for rollout in row["rollouts"]] == sample.rewards


def test_state_brings_every_score_back() -> None:
    result = evaluator()(policy_of(), quiet)
    again = Evaluation.from_state(result.state())
    assert again.metrics() == result.metrics()
    assert again.change(result) == dict.fromkeys(result.metrics(), 0.0)


def test_a_better_policy_is_told_from_a_worse_one_in_pairs() -> None:
    """Two policies that differ by a hair share their draws, so the error of the change is far below that of either
    figure."""
    policy: LanguageModel = policy_of()
    base = evaluator()(policy, quiet)
    with torch.no_grad():
        policy.head.weight.mul_(1.001)
    final = evaluator()(policy, quiet)
    name = "eval/cross_entropy"
    assert final.change(base)[name] == pytest.approx(final.metrics()[name] - base.metrics()[name], abs=1e-12)
    assert 0 < final.change(base)[f"{name}_stderr"] < base.metrics()[f"{name}_stderr"] / 20


@pytest.mark.slow
def test_rows_have_the_same_names_whatever_the_batches_and_other_tokens_have_others() -> None:
    whole, parts = evaluator()(policy_of(), quiet), evaluator(2)(policy_of(), quiet)
    names = whole.scores["cross_entropy"].names
    assert names is not None
    assert len(set(names.rows)) == 5
    for scores in (parts.scores["cross_entropy"], parts.scores["feature_matching_loss@7"]):
        assert scores.names == names
    other = names_of(replace(batches(5)[0], tokens=batches(5)[0].tokens + 1), None)
    assert not set(other.rows) & set(names.rows)


@pytest.mark.slow
def test_every_score_is_kept_by_row_and_document() -> None:
    documents = ["module"] * 12
    result = Evaluator(
        CONFIG, geometry(generate_length=3), batches(5), batches(5), phi_of(seed=1), (), documents=documents
    )(policy_of(), quiet)
    assert {score.metric for score in result.rows()} == {f"eval/{name}" for name in result.scores}
    for score in result.rows():
        assert len(score.rows) == 5
        assert len(set(score.documents)) == 1
        assert sum(score.sums) / sum(score.counts) == pytest.approx(result.metrics()[score.metric])
    assert not any(name.endswith("_stderr") for name in result.metrics()), "one document tells nothing of its spread"
    again = Evaluation.from_state(result.state())
    assert [score.rows for score in again.rows()] == [score.rows for score in result.rows()]
