"""Optuna's search of a grid: its space, its trials as jobs, and a search that goes on where it was left."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ebft.cli import searching
from ebft.cli.planning import Planner
from ebft.cli.searching import SearchPlan
from ebft.comparison import Planned, check_comparable
from ebft.config.schema import UserError
from ebft.sweep import state as states
from ebft.sweep.jobs import Job, folder
from ebft.sweep.search import Search
from tests.sweep.helpers import grid

AXES = (
    "method=sft 'optimizer.lr=tag(log,interval(1e-5,1e-3))' 'trainer.max_steps=interval(3,9)' "
    "optimizer.schedule=cosine,linear seed=0,1"
)


def plan(command_line: str = AXES, **settings: object) -> SearchPlan:
    return searching.plan(Planner(Path("out"), grid(search="optuna", **settings)), shlex.split(command_line))[0]


@pytest.mark.slow
def test_axes_become_distributions_and_seeds_do_not() -> None:
    assert plan().space == {
        "optimizer.lr": FloatDistribution(1e-5, 1e-3, log=True),
        "trainer.max_steps": IntDistribution(3, 9),
        "optimizer.schedule": CategoricalDistribution(["cosine", "linear"]),
    }
    assert plan().fixed == ("method=sft", "seed=0,1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("axis", "distribution"),
    [
        ("optimizer.weight_decay=interval(0,1)", FloatDistribution(0, 1)),  # as 0 to 1 of a number is meant
        ("data.max_train_documents=tag(log,interval(8,64))", IntDistribution(8, 64, log=True)),
        ("sampler.n_samples=int(interval(2,7))", IntDistribution(2, 7)),
        ("model.config_overrides.num_hidden_layers=interval(2,5)", IntDistribution(2, 5)),
        ("+model.config_overrides.rms_norm_eps=interval(0.5,1)", FloatDistribution(0.5, 1)),
    ],
)
def test_an_interval_is_of_whole_numbers_where_its_key_is_one(axis: str, distribution: object) -> None:
    assert list(plan(f"method=ebft model=debug '{axis}'").space.values()) == [distribution]


@pytest.mark.slow
def test_a_key_that_is_added_keeps_its_plus() -> None:
    (job,) = plan("method=sft model=debug '+model.config_overrides.rms_norm_eps=interval(0.25,1)'").jobs(
        0, {"model.config_overrides.rms_norm_eps": 0.5}
    )
    assert job.config is not None
    assert job.config.model.config_overrides["rms_norm_eps"] == 0.5
    assert job.keys == {"model.config_overrides.rms_norm_eps": "0.5"}


@pytest.mark.slow
def test_a_trial_has_a_job_for_every_seed() -> None:
    first, second = plan().jobs(7, {"optimizer.lr": 0.00025, "trainer.max_steps": 4, "optimizer.schedule": "linear"})
    keys = {"optimizer.lr": "0.00025", "trainer.max_steps": "4", "optimizer.schedule": "linear"}
    assert (first.keys, first.trial, second.seed) == (keys | {"seed": "0"}, 7, 1)
    assert first.config is not None
    assert (first.config.optimizer.lr, first.config.trainer.max_steps) == (0.00025, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command_line", "settings", "sentence"),
    [
        ("method=sft seed=0,1", {}, "sweep.search=optuna has nothing to search; give a key several values"),
        (
            "method=sft",
            {"variants": {"a": []}},
            "sweep.search=optuna searches one grid; set sweep.variants={} or choose another sweep.",
        ),
        ("'optimizer.lr=interval(2,1)'", {}, "optimizer.lr=interval(2,1) is no interval to search: "),
        (
            "'trainer.max_steps=interval(1.5,3)'",
            {},
            "trainer.max_steps=interval(1.5,3) has ends that are no whole numbers, and trainer.max_steps is",
        ),
        ("'optimizer.lr=interval(-1.0,1.0)'", {}, "optimizer.lr=-1.0 cannot run: optimizer.lr=-1.0 must be above 0."),
    ],
)
def test_what_cannot_be_searched(command_line: str, settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        plan(command_line, **settings)
    assert str(refused.value).startswith(sentence)


class Landscape:
    """Ends jobs at once, with a cross-entropy that is least at optimizer.lr = 1e-4, plus the seed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.jobs: list[Job] = []

    def end(self, search: Search, job: Job, kind: str = states.DONE) -> None:
        import math

        self.jobs.append(job)
        run = folder(self.directory, job.name)
        run.mkdir(parents=True, exist_ok=True)
        value = abs(math.log10(float(job.keys["optimizer.lr"])) + 4) + job.seed
        (run / "summary.json").write_text(json.dumps({"final": {"eval/cross_entropy": value}}))
        search.ended(job, states.State(kind))


def search(directory: Path, earlier: list[Job], num_trials: int, **settings: object) -> Search:
    found, _ = searching.plan(
        Planner(directory, grid(search="optuna")),
        shlex.split("method=sft 'optimizer.lr=tag(log,interval(1e-6,1e-2))' seed=0,1"),
    )
    return Search(directory, grid(num_trials=num_trials, **settings), found.space, found.jobs, earlier, True, 1)


@pytest.mark.slow
def test_a_search_finds_the_best_and_goes_on_where_it_was_left(tmp_path: Path) -> None:
    landscape, first = Landscape(tmp_path), search(tmp_path, [], 6)
    while jobs := first.next():
        for job in jobs:
            landscape.end(first, job)
    assert [job.trial for job in landscape.jobs] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    values = [trial.value for trial in first.study.trials]
    assert first.best() == (first.study.best_params, min(values))
    earlier, landscape.jobs = landscape.jobs, []
    second = search(tmp_path, earlier, 25)
    while jobs := second.next():
        for job in jobs:
            landscape.end(second, job)
    assert [job.name for job in landscape.jobs[:12]] == [job.name for job in earlier]
    assert [trial.value for trial in second.study.trials[:6]] == values
    assert len({job.name for job in landscape.jobs}) == 50
    best = second.best()
    assert best is not None
    assert best[1] == pytest.approx(0.5, abs=0.1)  # the mean over two seeds of 0 and 1 at 1e-4


@pytest.mark.slow
def test_a_trial_with_a_failed_run_has_no_value(tmp_path: Path) -> None:
    landscape, found = Landscape(tmp_path), search(tmp_path, [], 1)
    first, second = found.next()
    landscape.end(found, first)
    landscape.end(found, second, states.FAILED)
    assert list(found.next()) == []
    assert found.best() is None


@pytest.mark.slow
def test_a_metric_that_no_run_has(tmp_path: Path) -> None:
    landscape, found = Landscape(tmp_path), search(tmp_path, [], 1, metric="eval/greedy")
    first, second = found.next()
    landscape.end(found, first)
    with pytest.raises(
        UserError, match=r"sweep\.metric=eval/greedy is not measured by sft-code_qa-\w+; it has eval/cross_entropy\."
    ):
        landscape.end(found, second)


@pytest.mark.slow
def test_a_choice_made_twice_runs_once_and_counts_twice(tmp_path: Path) -> None:
    """Optuna draws choices with replacement; once the second trial took the first one's run for another sweep's."""
    found, _ = searching.plan(Planner(tmp_path, grid(search="optuna")), ["method=sft", "optimizer.lr=1e-4,1e-3"])
    landscape, source = Landscape(tmp_path), Search(tmp_path, grid(num_trials=7), found.space, found.jobs, [], True, 1)
    while jobs := source.next():
        for job in jobs:
            landscape.end(source, job)
    assert sorted(job.keys["optimizer.lr"] for job in landscape.jobs) == ["0.0001", "0.001"]
    assert [trial.value for trial in source.study.trials].count(0.0) + [
        trial.value for trial in source.study.trials
    ].count(1.0) == 7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("axis", "sentence"),
    [
        ("data=code_qa,stdlib", "data.source shapes the evaluation"),
        ("data.sequence_length=96,128", "data.sequence_length shapes the evaluation and is 96 in "),
        (
            "features.embed_method=last_token,mean_pooling",
            "features.embed_method shapes eval/feature_matching_loss@4, which sweep.metric names, and is",
        ),
        (
            "'sampler.generate_length=interval(2,4)'",
            "sampler.generate_length shapes eval/feature_matching_loss@4, which sweep.metric names, and is 2 in",
        ),
    ],
)
def test_a_search_over_what_shapes_its_own_metric_is_refused(axis: str, sentence: str) -> None:
    """It would find the easiest measurement."""
    settings = grid(search="optuna", metric="eval/feature_matching_loss@4")
    _, examples = searching.plan(Planner(Path("out"), settings), shlex.split(f"method=ebft eval.horizons=[4] {axis}"))
    with pytest.raises(UserError) as refused:
        check_comparable([Planned(job.name, "", job.keys, job.settings) for job in examples], settings)
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("optimizer.lr", "1"),
        ("optimizer.lr", "[1e-4]"),
        ("optimizer.lr", "NaN"),
        ("optimizer.lr", "${oc.env:HF_TOKEN}"),
        ("optimizer.lr", None),
        ("optimizer.schedule", "linear,${oc.env:HF_TOKEN}"),
        ("trainer.max_steps", "4.5"),
    ],
)
def test_a_trial_that_no_search_has_chosen_is_refused(key: str, text: str | None) -> None:
    """Its parameters become overrides, and sweep.json may be anybody's."""
    space = {
        "optimizer.lr": FloatDistribution(1e-5, 1e-3, log=True),
        "trainer.max_steps": IntDistribution(3, 9),
        "optimizer.schedule": CategoricalDistribution(["cosine", "linear"]),
    }
    keys = {"optimizer.lr": "1e-05", "trainer.max_steps": "9", "optimizer.schedule": "linear"}
    changed = {name: value for name, value in {**keys, key: text}.items() if value is not None}
    sentence = (
        rf"^out/sweep\.json has {key}=.* in trial 3, which this search cannot have chosen; choose another sweep\.dir\.$"
    )
    job = Job("sft-a", "", changed, 0, (), trial=3)
    with pytest.raises(UserError, match=sentence):
        Search(Path("out"), grid(search="optuna"), space, lambda number, parameters: [], [job], True, 1)
    Search(Path("out"), grid(search="optuna"), space, lambda number, parameters: [], [replace(job, keys=keys)], True, 1)
