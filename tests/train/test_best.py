"""Which evaluation a run keeps as its best, and when it stops waiting for a better one."""

from dataclasses import replace

import pytest

from ebft.config.rules import check
from ebft.config.schema import RunFailure, TrainConfig, UserError
from ebft.sweep.jobs import name_of, settings_of
from ebft.train.best import Best
from tests.debug_run import COMPOSER


def config(*overrides: str) -> TrainConfig:
    return COMPOSER.config(["method=sft", "trainer.device=cpu", *overrides])


def best(*overrides: str, directions: dict[str, str] | None = None) -> Best:
    found = Best.of(config(*overrides), directions or {})
    assert found is not None
    return found


def test_the_first_of_equal_evaluations_is_best_and_the_wait_begins_anew_with_a_better_one() -> None:
    kept = best("trainer.keep_best=eval/greedy", "trainer.stop_after=2")
    seen = []
    for step, value in enumerate([0.5, 0.5, 0.75, 0.25, None, 1.0]):
        kept.saw(step, {} if value is None else {"eval/greedy": value})
        seen.append((kept.step, kept.waited, kept.is_over))
    assert seen == [(0, 0, False), (0, 1, False), (2, 0, False), (2, 1, False), (2, 2, True), (5, 0, False)]


def test_lower_is_better_where_it_is_and_without_stop_after_nothing_ends() -> None:
    kept = best("trainer.keep_best=eval/cross_entropy")
    for step, value in enumerate([2.0, 3.0, 1.0, 4.0]):
        kept.saw(step, {"eval/cross_entropy": value, "eval/greedy": 0.5})
    assert kept.summary() == {
        "metric": "eval/cross_entropy",
        "value": 1.0,
        "step": 2,
        "figures": {"eval/cross_entropy": 1.0, "eval/greedy": 0.5},
    }
    assert not kept.is_over
    other = best("trainer.keep_best=eval/cross_entropy")
    other.restore(kept.state())
    assert other == kept


def test_a_user_s_task_says_which_way_its_metrics_are_better() -> None:
    assert best("trainer.keep_best=eval/humour", directions={"humour": "higher"}).lower is False
    with pytest.raises(UserError, match=r"trainer.keep_best=eval/length is better neither high nor low; choose one"):
        best("trainer.keep_best=eval/length", directions={"length": "neither"})


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        ("eval/gredy", r"trainer.keep_best: eval/gredy is not a metric of an evaluation; did you mean eval/greedy\?"),
        ("eval/pass@4", r"trainer.keep_best=eval/pass@4 is not measured by this run; it measures eval/answer_tokens"),
        ("eval/old/greedy", r"trainer.keep_best=eval/old/greedy is not measured by this run"),
        ("eval/entropy@1", r"trainer.keep_best=eval/entropy@1 is better neither high nor low"),
    ],
)
def test_a_metric_that_cannot_choose_is_refused(metric: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        best(f"trainer.keep_best={metric}")


@pytest.mark.slow
def test_a_further_set_may_choose() -> None:
    sets = ["+data@eval.sets.old=translation", "trainer.keep_best=eval/old/bleu"]
    assert best(*sets).lower is False


def test_a_first_evaluation_without_the_metric_ends_the_run() -> None:
    with pytest.raises(RunFailure, match=r"trainer.keep_best=eval/greedy could not be measured at step 0; choose"):
        best("trainer.keep_best=eval/greedy").saw(0, {})


def test_stop_after_needs_a_metric() -> None:
    plain = config()
    with pytest.raises(UserError, match=r"trainer.stop_after=3 waits for a better evaluation, so it needs a metric in"):
        check(replace(plain, trainer=replace(plain.trainer, stop_after=3)))


def test_a_sweep_s_run_has_another_name_where_it_may_stop_early_and_its_old_one_where_not() -> None:
    """Sweeps that older versions began go on in their folders."""
    plain = settings_of(config(), "tiny")
    older = {key: value for key, value in plain.items() if key not in ("trainer.keep_best", "trainer.stop_after")}
    stopping = settings_of(config("trainer.keep_best=eval/greedy", "trainer.stop_after=2"), "tiny")
    assert name_of(plain) == name_of(older) != name_of(stopping)
