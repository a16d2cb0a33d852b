import pytest

from ebft.comparison.known_metrics import evaluation_settings, expected, feature_settings
from ebft.config.identity import flat
from ebft.config.schema import UserError
from ebft.output.metric_names import check_known, family, lower_is_better
from tests.comparison.helpers import config


@pytest.mark.parametrize(
    ("metric", "kind", "lower"),
    [
        ("eval/cross_entropy", "eval/cross_entropy", True),
        ("eval/feature_matching_loss@8", "eval/feature_matching_loss@", True),
        ("eval/pass@16", "eval/pass@", False),
        ("eval/bleu_en_de", "eval/bleu", False),
        ("eval/chrf_xx_en", "eval/chrf", False),
        ("eval/exact_match", "eval/exact_match", False),
        ("eval/entropy@4", "eval/entropy@", None),
    ],
)
def test_a_metric_has_a_kind_and_a_direction(metric: str, kind: str, lower: bool | None) -> None:
    check_known(metric)
    assert (family(metric), lower_is_better(metric)) == (kind, lower)


@pytest.mark.parametrize(
    ("metric", "advice"),
    [
        ("eval/crossentropy", "did you mean eval/cross_entropy?"),
        ("greedy", "did you mean eval/greedy?"),
        ("zzz", "there are"),
    ],
)
def test_an_unknown_metric_is_refused(metric: str, advice: str) -> None:
    with pytest.raises(UserError, match="is not a metric of an evaluation") as refusal:
        check_known(metric)
    assert advice in str(refusal.value)


def test_a_configuration_tells_what_will_be_measured() -> None:
    names = expected(flat(config(eval__horizons=[1, 4], data__task="chrf", eval__num_completions=3, eval__pass_at=[2])))
    assert {name for name in names if "matching" in name} == {
        f"eval/feature_matching_loss@{horizon}" for horizon in (1, 2, 4)
    }
    assert {"eval/cross_entropy", "eval/greedy", "eval/bleu", "eval/chrf", "eval/pass@2", "eval/entropy@64"} <= names
    assert not {"eval/greedy", "eval/parse_rate"} & expected(flat(config(eval__num_questions=0)))


def test_settings_of_the_evaluation_leave_out_what_only_times_it() -> None:
    settings = evaluation_settings(flat(config()), split=["data.source"])
    assert {"data.sequence_length", "eval.num_documents", "sandbox.seconds"} <= settings.keys()
    assert (
        not {"data.source", "data.max_train_documents", "eval.every_steps", "optimizer.lr", "sampler.n_samples"}
        & settings.keys()
    )


def test_feature_matching_sees_through_the_runs_own_features() -> None:
    loss, here = "eval/feature_matching_loss@2", flat(config())
    assert feature_settings("eval/cross_entropy", here) == {}
    for changes, differs in [
        ({"features__embed_method": "mean_pooling"}, True),
        ({"sampler__generate_length": 3}, True),
        ({"model__path": "other"}, True),
        ({"features__whitening": "paper"}, False),
        ({"sampler__n_samples": 5}, False),
    ]:
        assert (feature_settings(loss, flat(config(**changes))) != feature_settings(loss, here)) == differs, changes
    assert feature_settings("eval/reward", flat(config(features__whitening="paper"))) != feature_settings(
        "eval/reward", here
    )
    fixed = {"features__network": "checkpoint", "features__path": "phi"}
    assert feature_settings(loss, flat(config(**fixed))) == feature_settings(
        loss, flat(config(**fixed, model__path="other"))
    )


@pytest.mark.parametrize(
    ("metric", "kind", "lower"),
    [
        ("eval/wmt22/cross_entropy", "eval/cross_entropy", True),
        ("eval/wmt22/bleu_en_de", "eval/bleu", False),
        ("eval/other-task/pass@4", "eval/pass@", False),
    ],
)
def test_a_figure_on_a_further_set_is_of_the_same_kind(metric: str, kind: str, lower: bool) -> None:
    check_known(metric)
    assert (family(metric), lower_is_better(metric)) == (kind, lower)


def test_a_standard_error_is_no_direction_of_translation() -> None:
    """Once chrf_stderr was chrf in the direction stderr, and a column of every comparison with a verdict of its own."""
    assert family("eval/chrf_stderr") == "eval/chrf_stderr"
    assert lower_is_better("eval/wmt22/bleu_stderr") is None


def test_a_configuration_tells_what_is_measured_on_further_sets_and_that_they_may_differ() -> None:
    sets = {"wmt22": {"source": "alma", "task": "bleu"}, "text": {"source": "jsonl", "task": None}}
    here, without = flat(config(eval__sets=sets)), flat(config())
    found = expected(here) - expected(without)
    assert {"eval/wmt22/cross_entropy", "eval/wmt22/bleu", "eval/wmt22/greedy", "eval/text/cross_entropy"} <= found
    assert "eval/text/greedy" not in found
    assert evaluation_settings(here, split=[]) == evaluation_settings(without, split=[])
