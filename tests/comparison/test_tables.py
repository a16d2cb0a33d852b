"""From run folders to figures, each worked out by hand."""

import json
from pathlib import Path

import pytest

from ebft.comparison import Planned, compare
from ebft.comparison.tables import Compared, Row
from ebft.config import UserError
from tests.comparison.helpers import BASE, cross_entropy, run
from tests.sweep.helpers import grid

LOSS = "eval/feature_matching_loss@2"


def rows(compared: Compared, table: int = 0) -> dict[str, Row]:
    return {row.name: row for row in compared.tables[table].rows}


def three_seeds(folder: Path) -> None:
    """sft 1, 1.125, 1.25 and ebft 0.75, 0.875, 1: both spread by 0.125, every pair 0.25 apart."""
    for seed in range(3):
        run(folder / f"s{seed}", cross_entropy(1.0 + seed / 8), tokens=100, seed=seed, method__name="sft")
        run(folder / f"e{seed}", cross_entropy(0.75 + seed / 8), tokens=400 + seed, seed=seed)


def test_cells_have_mean_deviation_interval_and_paired_differences(tmp_path: Path) -> None:
    three_seeds(tmp_path)
    compared = compare(tmp_path, grid(reference="sft"), None)
    found = rows(compared)
    assert list(found) == ["base", "ebft", "sft"]
    figure = found["ebft"].figures["eval/cross_entropy"]
    assert figure.estimate is not None
    assert (figure.estimate.n, figure.estimate.mean, figure.estimate.sd) == (3, 0.875, 0.125)
    assert figure.estimate.half_width == pytest.approx(4.302653 * 0.125 / 3**0.5, rel=1e-6)
    assert figure.difference is not None
    assert (figure.difference.n, figure.difference.mean, figure.difference.half_width) == (3, -0.25, 0)
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
        run(tmp_path / f"e{seed}", {"eval/cross_entropy": 3.0 + seed / 100, "eval/greedy": 0.75 + seed / 100}, seed=seed)
    found = rows(compare(tmp_path, grid(), None))
    assert {name: row.figures["eval/cross_entropy"].is_best for name, row in found.items()} == {"base": True, "runs": False}
    assert {name: row.figures["eval/greedy"].is_best for name, row in found.items()} == {"base": False, "runs": True}


def test_one_seed_is_no_reason_to_mark(tmp_path: Path) -> None:
    run(tmp_path / "a", cross_entropy(0.1))
    assert not any(row.figures["eval/cross_entropy"].is_best for row in rows(compare(tmp_path, grid(), None)).values())


def test_tables_are_split_and_cells_told_apart_by_what_differs(tmp_path: Path) -> None:
    for source in ("stdlib", "code_qa"):
        for lr in (1e-4, 1e-3):
            run(tmp_path / f"{source}{lr}", data__source=source, optimizer__lr=lr)
        run(tmp_path / f"{source}sft", data__source=source, optimizer__lr=1e-4, method={"name": "sft"}, trainer__micro_batch_size=2)
    compared = compare(tmp_path, grid(split=["data.source"]), None)
    assert [table.title for table in compared.tables] == ["code_qa", "stdlib"]
    assert list(rows(compared)) == ["base", "ebft optimizer.lr=0.0001", "ebft optimizer.lr=0.001", "sft"]
    by = compare(tmp_path, grid(split=["data.source"], by=["optimizer.lr", "method.name"]), None)
    assert list(rows(by)) == ["base", "optimizer.lr=0.0001 ebft", "optimizer.lr=0.001 ebft", "optimizer.lr=0.0001 sft"]


def test_a_plan_names_cells_and_keeps_its_order(tmp_path: Path) -> None:
    planned = []
    for variant in ("sft", "ebft"):
        for seed in (0, 1):
            name = f"{variant}{seed}"
            planned.append(Planned(f"runs/{name}", variant, {"seed": str(seed), "data": "stdlib"}, seed))
            run(tmp_path / "runs" / name, seed=seed, method__name=variant)
    run(tmp_path / "runs" / "foreign", seed=0)
    assert list(rows(compare(tmp_path, grid(), planned))) == ["base", "sft", "ebft"]


def test_missing_runs_are_counted_and_say_why(tmp_path: Path) -> None:
    planned = [Planned(f"runs/{seed}", "", {"seed": str(seed)}, seed, note) for seed, note in enumerate(["", "failed: no disk", "not started"])]
    run(tmp_path / "runs" / "0")
    run(tmp_path / "runs" / "1", seed=1, status="failed")
    compared = compare(tmp_path, grid(), planned)
    (base, row) = rows(compared).values()
    assert (len(row.outcomes), row.planned) == (1, 3)
    assert base.is_base
    assert [(cell, plan.seed, plan.note) for cell, plan in compared.missing] == [("runs", 1, "failed: no disk"), ("runs", 2, "not started")]


def test_a_plan_of_which_nothing_is_done_has_no_table(tmp_path: Path) -> None:
    compared = compare(tmp_path, grid(metrics=["eval/greedy"]), [Planned("runs/0", "sft", {}, 0, "failed: no disk")])
    assert compared.tables == []
    assert [(cell, plan.note) for cell, plan in compared.missing] == [("sft", "failed: no disk")]


def test_a_run_that_starts_from_anothers_model_has_that_ones_base(tmp_path: Path) -> None:
    run(tmp_path / "warm", cross_entropy(1.0), method__name="sft")
    run(tmp_path / "then", cross_entropy(0.5), base={**BASE, **cross_entropy(1.0)}, model__path=str(tmp_path / "warm" / "model"))
    found = rows(compare(tmp_path, grid(), None))
    assert [name for name, row in found.items() if row.is_base] == ["base"]
    assert found["ebft"].figures["eval/cross_entropy"].difference.mean == pytest.approx(-1.5)  # type: ignore[union-attr]


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
    assert table.left_out["eval/feature_matching_loss@"] == "features.embed_method"
    with pytest.raises(UserError, match=r"features\.embed_method shapes eval/feature_matching_loss@2, which sweep\.metrics names"):
        compare(tmp_path, grid(metrics=[LOSS]), None)


def test_usual_metrics_are_those_of_all_runs(tmp_path: Path) -> None:
    run(tmp_path / "a", {"eval/chrf": 50.0})
    run(tmp_path / "b", method__name="sft")
    assert compare(tmp_path, grid(), None).tables[0].metrics == ["eval/cross_entropy", LOSS, "eval/greedy"]


def test_reported_figures_stand_beside_measured_ones(tmp_path: Path) -> None:
    three_seeds(tmp_path)
    table = compare(tmp_path, grid(reported={"base": {"eval/greedy": 0.35}, "sft": {"eval/greedy": 0.483}}), None).tables[0]
    assert [row.figures["eval/greedy"].reported for row in table.rows] == [0.35, None, 0.483]
    assert [metric for metric in table.metrics if table.has_reported(metric)] == ["eval/greedy"]


@pytest.mark.parametrize(
    ("changes", "settings", "sentence"),
    [
        ({"eval__num_documents": 8}, {}, "eval.num_documents shapes the evaluation and is 7 in a, 8 in b; set it to one value for all runs"),
        ({"data__sequence_length": 17}, {}, "data.sequence_length shapes the evaluation and is 13 in a, 17 in b"),
        ({}, {}, "a and b are both seed 0 of cell runs; tell them apart with sweep.by"),
        ({"seed": 1}, {"metrics": ["eval/bleu"]}, "sweep.metrics names eval/bleu, which no run measures"),
        ({"seed": 1}, {"metrics": ["eval/feature_matching_loss@64"]}, "eval/feature_matching_loss@64, which no run measures"),
        ({"seed": 1}, {"metrics": ["eval/parse_rate"]}, "sweep.metrics names eval/parse_rate, which no finished run has"),
        ({"seed": 1}, {"reference": "stf"}, "sweep.reference names the cell stf, which no run belongs to; cells are base, runs."),
        ({"seed": 1}, {"reported": {"stf": {"eval/greedy": 0.5}}}, "sweep.reported names the cell stf"),
        ({"seed": 1}, {"reported": {"base": {"eval/gredy": 0.5}}}, "eval/gredy is not a metric of an evaluation; did you mean eval/greedy?"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, changes: dict[str, object], settings: dict[str, object], sentence: str) -> None:
    run(tmp_path / "a")
    run(tmp_path / "b", **changes)
    with pytest.raises(UserError) as refusal:
        compare(tmp_path, grid(**settings), None)
    assert sentence in str(refusal.value)


def test_a_folder_without_finished_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished run; name a folder of runs"):
        compare(tmp_path, grid(), None)
    run(tmp_path / "a", status="interrupted")
    with pytest.raises(UserError, match="holds no finished run, but 1 begun"):
        compare(tmp_path, grid(), None)


@pytest.mark.parametrize(
    ("name", "content"),
    [("config.yaml", "a: ["), ("config.yaml", "- 1"), ("summary.json", "{"), ("summary.json", json.dumps({"status": "completed"}))],
)
def test_a_file_of_something_else_is_named(tmp_path: Path, name: str, content: str) -> None:
    (run(tmp_path / "a") / name).write_text(content)
    with pytest.raises(UserError, match=rf"a/{name} was not written by this version of ebft-train; take its folder out"):
        compare(tmp_path, grid(), None)
