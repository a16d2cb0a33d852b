"""From run folders to figures, each worked out by hand."""

import json
from pathlib import Path

import pytest

from ebft.comparison import compare
from ebft.comparison.layout import spread
from ebft.comparison.tables import Compared, TableRow
from ebft.config.schema import UserError
from tests.comparison.helpers import BASE, cross_entropy, planned, run
from tests.sweep.helpers import grid

LOSS = "eval/feature_matching_loss@2"
SPREAD = 0.125 / 3**0.5  # of two values and a third one 0.125 apart: mean square (1 + 1 + 4) / 9 * 0.125^2 / 2


def rows(compared: Compared, table: int = 0) -> dict[str, TableRow]:
    return {row.name: row for row in compared.tables[table].rows}


def three_seeds(folder: Path) -> None:
    """sft 1, 1.125, 1.25 and ebft 0.75, 0.875, 0.875: pairs 0.25, 0.25 and 0.375 apart."""
    for seed in range(3):
        run(folder / f"s{seed}", cross_entropy(1.0 + seed / 8), tokens=100, seed=seed, method__name="sft")
        run(folder / f"e{seed}", cross_entropy([0.75, 0.875, 0.875][seed]), tokens=400 + seed, seed=seed)


def test_cells_have_mean_deviation_interval_and_paired_differences(tmp_path: Path) -> None:
    three_seeds(tmp_path)
    compared = compare(tmp_path, grid(reference="sft"), None)
    found = rows(compared)
    assert list(found) == ["base", "ebft", "sft"]
    figure = found["ebft"].figures["eval/cross_entropy"]
    assert figure.estimate is not None
    assert (figure.estimate.n, figure.estimate.mean, figure.estimate.sd) == (
        3,
        pytest.approx(2.5 / 3),
        pytest.approx(SPREAD),
    )
    assert figure.estimate.half_width == pytest.approx(4.302653 * SPREAD / 3**0.5, rel=1e-6)
    assert figure.difference is not None
    assert (figure.difference.n, figure.difference.mean, figure.difference.sd) == (
        3,
        pytest.approx(-0.875 / 3),
        pytest.approx(SPREAD),
    )
    assert figure.is_best
    assert found["sft"].figures["eval/cross_entropy"].difference is None
    assert found["base"].figures["eval/cross_entropy"].estimate is not None
    assert found["base"].figures["eval/cross_entropy"].estimate.n == 1, "one figure, however often it was measured"
    assert found["base"].figures["eval/cross_entropy"].difference.mean == 0.875  # type: ignore[union-attr]
    assert found["ebft"].tokens is not None
    assert (found["ebft"].tokens.mean, found["ebft"].planned) == (401, 3)


def test_the_reference_is_the_base_where_none_is_named(tmp_path: Path) -> None:
    three_seeds(tmp_path)
    found = rows(compare(tmp_path, grid(), None))
    assert found["sft"].figures["eval/cross_entropy"].difference.mean == -0.875  # type: ignore[union-attr]
    assert found["base"].figures["eval/cross_entropy"].difference is None


def test_nothing_is_marked_where_an_interval_holds_zero(tmp_path: Path) -> None:
    """Means 0.9 and 1.0, pairs +0.2, -0.2 and -0.3."""
    for seed, (ours, theirs) in enumerate([(1.2, 1.0), (0.8, 1.0), (0.7, 1.0)]):
        run(tmp_path / f"e{seed}", cross_entropy(ours), seed=seed)
        run(tmp_path / f"s{seed}", cross_entropy(theirs), seed=seed, method__name="sft")
    assert not any(row.figures["eval/cross_entropy"].is_best for row in rows(compare(tmp_path, grid(), None)).values())


def test_the_base_can_be_best_and_higher_can_be_better(tmp_path: Path) -> None:
    for seed in range(3):
        run(
            tmp_path / f"e{seed}", {"eval/cross_entropy": 3.0 + seed / 100, "eval/greedy": 0.75 + seed / 100}, seed=seed
        )
    found = rows(compare(tmp_path, grid(), None))
    assert {name: row.figures["eval/cross_entropy"].is_best for name, row in found.items()} == {
        "base": True,
        "runs": False,
    }
    assert {name: row.figures["eval/greedy"].is_best for name, row in found.items()} == {"base": False, "runs": True}


def test_one_seed_is_no_reason_to_mark(tmp_path: Path) -> None:
    run(tmp_path / "a", cross_entropy(0.1))
    assert not any(row.figures["eval/cross_entropy"].is_best for row in rows(compare(tmp_path, grid(), None)).values())


def test_tables_are_split_and_cells_told_apart_by_what_differs(tmp_path: Path) -> None:
    for source in ("stdlib", "code_qa"):
        for lr in (1e-4, 1e-3):
            run(tmp_path / f"{source}{lr}", data__source=source, optimizer__lr=lr)
        run(
            tmp_path / f"{source}sft",
            data__source=source,
            optimizer__lr=1e-4,
            method={"name": "sft"},
            trainer__micro_batch_size=2,
        )
    compared = compare(tmp_path, grid(split=["data.source"]), None)
    assert [table.title for table in compared.tables] == ["code_qa", "stdlib"]
    assert list(rows(compared)) == ["base", "ebft optimizer.lr=0.0001", "ebft optimizer.lr=0.001", "sft"]
    by = compare(tmp_path, grid(split=["data.source"], by=["optimizer.lr", "method.name"]), None)
    assert list(rows(by)) == ["base", "optimizer.lr=0.0001 ebft", "optimizer.lr=0.001 ebft", "optimizer.lr=0.0001 sft"]


def test_a_plan_names_cells_and_keeps_its_order(tmp_path: Path) -> None:
    plans = []
    for variant in ("sft", "ebft"):
        for seed in (0, 1):
            name = f"{variant}{seed}"
            plans.append(
                planned(f"runs/{name}", variant, {"seed": str(seed), "data": "stdlib"}, seed=seed, method__name=variant)
            )
            run(tmp_path / "runs" / name, seed=seed, method__name=variant)
    run(tmp_path / "runs" / "foreign", seed=0)
    assert list(rows(compare(tmp_path, grid(), plans))) == ["base", "sft", "ebft"]


def test_missing_runs_are_counted_and_say_why(tmp_path: Path) -> None:
    notes = ["", "failed: no disk", "not started"]
    plans = [planned(f"runs/{seed}", "", {"seed": str(seed)}, note, seed=seed) for seed, note in enumerate(notes)]
    run(tmp_path / "runs" / "0")
    run(tmp_path / "runs" / "1", seed=1, status="failed")
    compared = compare(tmp_path, grid(), plans)
    (base, row) = rows(compared).values()
    assert (len(row.outcomes), row.planned) == (1, 3)
    assert base.is_base
    assert [(cell, plan.seed, plan.note) for cell, plan in compared.missing] == [
        ("runs", 1, "failed: no disk"),
        ("runs", 2, "not started"),
    ]


def test_a_plan_of_which_nothing_is_done_still_names_its_cells(tmp_path: Path) -> None:
    compared = compare(tmp_path, grid(metrics=["eval/greedy"]), [planned("runs/0", "sft", note="failed: no disk")])
    (row,) = rows(compared).values()
    assert (row.name, row.outcomes, row.planned, row.figures["eval/greedy"].estimate) == ("sft", [], 1, None)
    assert [(cell, plan.note) for cell, plan in compared.missing] == [("sft", "failed: no disk")]


def test_tables_of_a_sweep_that_is_half_done_are_those_of_one_that_is_done(tmp_path: Path) -> None:
    """Once a run that was never begun stood in every table, where it gave all cells other names."""
    plans = []
    for source in ("stdlib", "code_qa"):
        for method in ("sft", "ebft"):
            keys = {"data": source, "method": method, "seed": "0"}
            plans.append(
                planned(f"runs/{source}{method}", "", keys, "not started", data__source=source, method__name=method)
            )
    for method in ("sft", "ebft"):
        run(tmp_path / "runs" / f"stdlib{method}", cross_entropy(1.0), data__source="stdlib", method__name=method)
    compared = compare(tmp_path, grid(split=["data.source"], reference="sft"), plans)
    assert [(table.title, [row.name for row in table.rows]) for table in compared.tables] == [
        ("stdlib", ["base", "sft", "ebft"]),
        ("code_qa", ["sft", "ebft"]),
    ]
    assert rows(compared)["ebft"].figures["eval/cross_entropy"].difference.mean == 0  # type: ignore[union-attr]
    assert compared.tables[1].notes == ["No difference to sft: none of its runs is done."]


def warm_start(folder: Path, seed: int) -> None:
    """SFT for 100 tokens from 2.0 to 1.0, then EBFT for 300 from there to 0.5."""
    run(folder / f"warm{seed}", cross_entropy(1.0), tokens=100, method__name="sft", seed=seed)
    path = str(folder / f"warm{seed}" / "model")
    run(
        folder / f"then{seed}",
        cross_entropy(0.5),
        tokens=300,
        base={**BASE, **cross_entropy(1.0)},
        model__path=path,
        seed=seed,
    )


def test_a_run_that_starts_from_anothers_model_has_that_ones_base_and_cost(tmp_path: Path) -> None:
    for seed in (0, 1):
        warm_start(tmp_path, seed)
    found = rows(compare(tmp_path, grid(), None))
    assert list(found) == ["base", "ebft", "sft"]
    assert found["ebft"].figures["eval/cross_entropy"].difference.mean == -1.5  # type: ignore[union-attr]
    assert found["ebft"].tokens.mean == 400  # type: ignore[union-attr]
    assert [row["cost/tokens_forwarded"] for row in found["ebft"].outcomes[0].course] == [100, 250, 400]


@pytest.mark.parametrize("start", ["a/0/model", "a/0"])
def test_only_another_runs_model_is_a_warm_start(tmp_path: Path, start: str) -> None:
    """A folder of the same name elsewhere once counted too, and a run whose own folder it was sent the search for its
    start in circles."""
    run(tmp_path / "a" / "0", cross_entropy(1.0), method__name="sft")
    run(
        tmp_path / "b" / "0",
        cross_entropy(0.5),
        base={**BASE, **cross_entropy(7.0)},
        model__path="/elsewhere/a/0/model",
    )
    run(
        tmp_path / "c" / "0",
        cross_entropy(0.75),
        base={**BASE, **cross_entropy(1.0)},
        model__path=str(tmp_path / start),
        optimizer__lr=3,
    )
    changes = {
        name: row.figures["eval/cross_entropy"].difference
        for name, row in rows(compare(tmp_path, grid(), None)).items()
    }
    assert {name: change.mean for name, change in changes.items() if change} == {
        "ebft model.path=/elsewhere/a/0/model optimizer.lr=0.0001": -6.5,
        "ebft model.path=run optimizer.lr=3": -1.25,
        "sft": -1.0,
    }


def test_every_model_has_its_own_base(tmp_path: Path) -> None:
    run(tmp_path / "a", cross_entropy(1.0))
    run(tmp_path / "b", cross_entropy(2.5), base={**BASE, **cross_entropy(3.0)}, model__path="large")
    found = rows(compare(tmp_path, grid(), None))
    assert list(found) == ["base tiny", "base large", "model.path=tiny", "model.path=large"]
    changes = [row.figures["eval/cross_entropy"].difference for row in found.values()]
    assert [change and change.mean for change in changes] == [None, None, -1.0, -0.5]


def test_what_features_shape_is_left_out_where_they_differ(tmp_path: Path) -> None:
    run(tmp_path / "a")
    run(tmp_path / "b", features__embed_method="mean_pooling")
    table = compare(tmp_path, grid(), None).tables[0]
    assert LOSS not in table.metrics
    assert table.notes == [
        "Feature matching is not compared, because runs differ in features.embed_method, which shapes it."
    ]
    with pytest.raises(
        UserError, match=r"features\.embed_method shapes eval/feature_matching_loss@2, which sweep\.metrics names"
    ):
        compare(tmp_path, grid(metrics=[LOSS]), None)


def test_usual_metrics_are_those_of_all_runs(tmp_path: Path) -> None:
    run(tmp_path / "a", {"eval/chrf": 50.0})
    run(tmp_path / "b", method__name="sft")
    table = compare(tmp_path, grid(), None).tables[0]
    assert table.metrics == ["eval/cross_entropy", LOSS, "eval/greedy"]
    assert table.notes == ["chrf: not shown, because b lacks it; sweep.metrics shows it."]


def test_reported_figures_stand_beside_measured_ones(tmp_path: Path) -> None:
    three_seeds(tmp_path)
    table = compare(
        tmp_path, grid(reported={"base": {"eval/greedy": 0.35}, "sft": {"eval/greedy": 0.483}}), None
    ).tables[0]
    assert [row.figures["eval/greedy"].reported for row in table.rows] == [0.35, None, 0.483]
    assert [metric for metric in table.metrics if table.has_reported(metric)] == ["eval/greedy"]


@pytest.mark.parametrize(
    ("changes", "settings", "sentence"),
    [
        (
            {"eval__num_documents": 8},
            {},
            "eval.num_documents shapes the evaluation and is 7 in a, 8 in b; set it to one value for all runs",
        ),
        ({"data__sequence_length": 17}, {}, "data.sequence_length shapes the evaluation and is 13 in a, 17 in b"),
        ({}, {}, "a and b are both seed 0 of cell runs; tell them apart with sweep.by"),
        ({"seed": 1}, {"metrics": ["cross_entropy"]}, "no run measures; did you mean eval/cross_entropy?"),
        ({"seed": 1}, {"metrics": ["eval/bleu"]}, "sweep.metrics names eval/bleu, which no run measures"),
        (
            {"seed": 1},
            {"metrics": ["eval/feature_matching_loss@64"]},
            "eval/feature_matching_loss@64, which no run measures",
        ),
        (
            {"seed": 1},
            {"by": ["optimizer.lrr"]},
            "sweep.by names optimizer.lrr, which is no key of these runs; did you mean optimizer.lr?",
        ),
        ({"seed": 1}, {"split": ["data"]}, "sweep.split names data, which is no key of these runs; "),
        (
            {"seed": 1, "data__source": "code_qa"},
            {"split": ["data.source"], "early_stopping": "median"},
            "sweep.early_stopping=median holds runs against one another, but here are stdlib and code_qa; sweep one "
            "by one.",
        ),
        (
            {"features__normalize": "none"},
            {"early_stopping": "median", "metric": LOSS},
            f"shapes {LOSS}, which sweep.metric names, and is joint",
        ),
        (
            {"seed": 1},
            {"reference": "stf"},
            "sweep.reference names the cell stf, which no run belongs to; cells are base, runs.",
        ),
        ({"seed": 1}, {"reported": {"stf": {"eval/greedy": 0.5}}}, "sweep.reported names the cell stf"),
        (
            {"seed": 1},
            {"reported": {"base": {"eval/gredy": 0.5}}},
            "eval/gredy is not a metric of an evaluation; did you mean eval/greedy?",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, changes: dict[str, object], settings: dict[str, object], sentence: str
) -> None:
    run(tmp_path / "a")
    run(tmp_path / "b", **changes)
    with pytest.raises(UserError) as refusal:
        compare(tmp_path, grid(**settings), None)
    assert sentence in str(refusal.value)


def test_what_no_run_has_in_the_end_is_said(tmp_path: Path) -> None:
    """By then the runs have cost their time, so it is no reason to refuse the rest."""
    run(tmp_path / "a")
    table = compare(tmp_path, grid(metrics=["eval/parse_rate", "eval/greedy"]), None).tables[0]
    assert table.rows[1].figures["eval/parse_rate"].estimate is None
    assert table.notes == ["parse_rate: no finished run has it."]


def test_a_cell_may_not_be_called_base(tmp_path: Path) -> None:
    run(tmp_path / "runs" / "0")
    with pytest.raises(UserError, match="The cell base has the name of the models before training; call it otherwise"):
        compare(tmp_path, grid(), [planned("runs/0", "base")])


def test_a_cell_with_missing_runs_is_never_best(tmp_path: Path) -> None:
    for seed, value in enumerate([1.0, 1.1, 1.2]):
        run(tmp_path / "runs" / str(seed), cross_entropy(value), seed=seed)
    done = [planned(f"runs/{seed}", keys={"seed": str(seed)}, seed=seed) for seed in range(3)]
    for plans, marked in ((done, True), ([*done, planned("runs/3", keys={"seed": "3"}, note="failed", seed=3)], False)):
        assert rows(compare(tmp_path, grid(), plans))["runs"].figures["eval/cross_entropy"].is_best == marked


def test_equal_differences_are_no_evidence(tmp_path: Path) -> None:
    """Two seeds that are both better by one question of 128 once had an interval of no width and a star."""
    for seed in range(2):
        run(tmp_path / f"e{seed}", {"eval/greedy": 0.5 + 1 / 128}, seed=seed)
    figure = rows(compare(tmp_path, grid(), None))["runs"].figures["eval/greedy"]
    assert figure.difference is not None
    assert (figure.difference.half_width, figure.is_best) == (0, False)
    assert spread("eval/greedy", figure.difference, "+", None) == "+0.78 pp"


def test_one_run_of_a_plan_that_was_never_begun_has_no_traceback(tmp_path: Path) -> None:
    assert list(rows(compare(tmp_path, grid(), [planned("runs/0", note="not started")]))) == ["runs"]


def test_a_failed_run_without_evaluations_is_listed(tmp_path: Path) -> None:
    run(tmp_path / "a")
    (run(tmp_path / "b", status="failed", seed=1) / "metrics.jsonl").unlink()
    assert [plan.folder for _, plan in compare(tmp_path, grid(), None).missing] == ["b"]


def test_a_folder_without_finished_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished run; name a folder of runs"):
        compare(tmp_path, grid(), None)
    run(tmp_path / "a", status="interrupted")
    with pytest.raises(UserError, match="holds no finished run, but 1 begun"):
        compare(tmp_path, grid(), None)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", "a: ["),
        ("config.yaml", "- 1"),
        ("summary.json", "{"),
        ("summary.json", json.dumps({"status": "completed"})),
    ],
)
def test_a_file_of_something_else_is_named(tmp_path: Path, name: str, content: str) -> None:
    (run(tmp_path / "a") / name).write_text(content)
    with pytest.raises(
        UserError, match=rf"a/{name} was not written by this version of ebft-train; take its folder out"
    ):
        compare(tmp_path, grid(), None)


def test_runs_are_compared_on_the_sets_that_they_share_and_the_rest_is_said(tmp_path: Path) -> None:
    on_sets = {"eval/wmt22/cross_entropy": 1.5, "eval/wmt22/feature_matching_loss@2": 0.5}
    wmt22 = {"wmt22": {"source": "alma", "task": None}}
    run(tmp_path / "a", on_sets, eval__sets=wmt22)
    run(tmp_path / "b", {**on_sets, "eval/more/cross_entropy": 1.0}, method__name="sft", eval__sets=wmt22)
    table = compare(tmp_path, grid(), None).tables[0]
    assert table.metrics == ["eval/cross_entropy", "eval/wmt22/cross_entropy", LOSS, "eval/greedy"]
    assert table.notes == ["more/cross_entropy: not shown, because a lacks it; sweep.metrics shows it."]


def test_runs_that_start_from_one_another_are_refused(tmp_path: Path) -> None:
    """No run can; a stranger's files once made the comparison follow them for ever."""
    run(tmp_path / "a", model__path=str(tmp_path / "b" / "model"))
    run(tmp_path / "b", model__path=str(tmp_path / "a" / "model"), seed=1)
    with pytest.raises(UserError, match=r"^a starts from its own model; take it out of the comparison\.$"):
        compare(tmp_path, grid(), None)
