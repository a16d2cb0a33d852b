"""Comparisons over seeds and held-out rows, from run folders that kept scores by row."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pandas
import pytest
from scipy import stats

from ebft.comparison import compare, text, write
from ebft.comparison.columns import Figure
from ebft.comparison.sentences import sentences
from ebft.comparison.tables import Compared
from ebft.config.schema import UserError
from tests.comparison.helpers import BASE, cross_entropy, keep_rows, run
from tests.sweep.helpers import grid

METRIC = "eval/cross_entropy"
BEFORE = [1.0, 2.0, 3.0, 2.0]
# by seed: the method's rows before training minus those after it
SFT = [[0.5, 0.5, 1.5, 1.5], [1.0, 1.0, 2.0, 2.0]]


def pilots(folder: Path, changes: list[list[float]], method: str, documents: str = "", **settings: object) -> None:
    """Runs of one method, one a seed, with these falls of the cross-entropy by row."""
    for seed, falls in enumerate(changes):
        after = [before - fall for before, fall in zip(BEFORE, falls, strict=True)]
        made = run(
            folder / f"{method}{seed}", cross_entropy(sum(after) / 4), seed=seed, method__name=method, **settings
        )
        keep_rows(made, {METRIC: after}, {METRIC: BEFORE}, documents)


def figures(compared: Compared) -> dict[str, Figure]:
    return {row.name: row.figures[METRIC] for row in compared.tables[0].rows}


def one(**settings: object) -> object:
    return grid(metrics=[METRIC], **settings)


def test_a_difference_over_seeds_and_rows_by_hand(tmp_path: Path) -> None:
    """Changes -.5 -.5 -1.5 -1.5 and -1 -1 -2 -2: means of seeds -1 and -1.5, of rows -.75 twice and -1.75 twice, of all
    -1.25. A = 4 (1/16 + 1/16) = 1/2, B = 2 (4 / 4) / 3 = 2/3, E = 0: the variance is (1/2 + 2/3) / 8 = 7/48."""
    pilots(tmp_path, SFT, "sft")
    gap = figures(compare(tmp_path, one(), None))["runs"].difference
    assert gap is not None
    assert (gap.n, gap.rows, gap.documents, gap.mean, gap.covers) == (2, 4, 4, -1.25, "seeds and rows")
    assert gap.error == pytest.approx(math.sqrt(7 / 48))
    assert (gap.seeds_error, gap.rows_error) == (pytest.approx(1 / 4), pytest.approx(math.sqrt(1 / 12)))
    assert gap.degrees is not None
    assert gap.half_width == pytest.approx(stats.t.ppf(0.975, gap.degrees) * math.sqrt(7 / 48))
    assert gap.p_value == pytest.approx(2 * stats.t.sf(1.25 / math.sqrt(7 / 48), gap.degrees))


def test_rows_of_one_module_count_together(tmp_path: Path) -> None:
    """Modules {a, b} and {c, d}: as far apart as their rows, but two and not four: B = 1."""
    pilots(tmp_path, SFT, "sft", documents="xxyy")
    gap = figures(compare(tmp_path, one(), None))["runs"].difference
    assert gap is not None
    assert (gap.rows, gap.documents) == (4, 2)
    assert gap.rows_error == pytest.approx(1 / 2)  # B / (S C) = 2 (1/4 + 1/4) / 1 / 4


def test_rows_that_differ_take_the_mark_from_what_seeds_alone_would_say(tmp_path: Path) -> None:
    """Five seeds that agree to 0.01 on four rows of which one moved the other way."""
    falls = [[0.4, 0.3, 0.5, -0.6 + seed / 100] for seed in range(5)]
    pilots(tmp_path, falls, "sft")
    figure = figures(compare(tmp_path, one(), None))["runs"]
    assert figure.difference is not None
    assert stats.ttest_1samp([sum(each) / 4 for each in falls], 0).pvalue < 1e-4
    assert not figure.difference.excludes_zero
    assert (figure.is_best, figure.is_told_apart) == (False, False)


def test_one_seed_covers_rows_says_so_and_is_never_marked(tmp_path: Path) -> None:
    pilots(tmp_path, [[1.0, 1.01, 1.02, 1.03]], "sft")
    compared = compare(tmp_path, one(), None)
    figure = figures(compared)["runs"]
    assert figure.difference is not None
    assert (figure.difference.covers, figure.difference.excludes_zero) == ("rows only", True)
    assert (figure.is_best, figure.is_told_apart) == (False, False)
    assert "one seed x 4 rows, other seeds not covered" in text(compared)
    assert "-1.0150 ± 0.0205 [rows only]" in text(compared)


def test_runs_of_an_older_version_are_read_and_their_intervals_cover_seeds(tmp_path: Path) -> None:
    pilots(tmp_path, SFT, "sft")
    for seed, value in enumerate((1.0, 1.25)):
        run(tmp_path / f"ebft{seed}", cross_entropy(value), base={**BASE, **cross_entropy(2.0)}, seed=seed)
    found = figures(compare(tmp_path, one(reference="sft"), None))
    assert {name: figure.difference and figure.difference.covers for name, figure in found.items()} == {
        "base": "seeds and rows",
        "ebft": "seeds only",
        "sft": None,
    }
    assert "[seeds only]" in text(compare(tmp_path, one(reference="sft"), None))
    for folder in tmp_path.glob("*/rows"):
        for path in folder.iterdir():
            path.unlink()
    shown = text(compare(tmp_path, one(), None))
    assert "Intervals cover seeds only: these runs kept no scores by row" in shown
    assert "[seeds only]" not in shown, "said once"


def test_runs_are_compared_on_the_rows_that_they_share_and_that_is_said(tmp_path: Path) -> None:
    pilots(tmp_path, SFT, "sft")
    after = {METRIC: [0.0, 1.0, 2.0]}
    for seed in range(2):
        keep_rows(run(tmp_path / f"ebft{seed}", cross_entropy(1.0), seed=seed), after, {METRIC: BEFORE[:3]})
    compared = compare(tmp_path, one(reference="sft"), None)
    gap = figures(compared)["ebft"].difference
    assert gap is not None
    assert (gap.rows, gap.mean) == (3, pytest.approx(1 / 12))  # sft's means on a, b, c: 7/6 and 2/3, ours 1
    assert "cross_entropy: ebft and sft are compared on the 3 of 4 rows that they share." in compared.tables[0].notes


def test_runs_without_a_common_row_are_not_compared(tmp_path: Path) -> None:
    pilots(tmp_path, SFT, "sft")
    made = run(tmp_path / "ebft0", cross_entropy(1.0))
    keep_rows(made, {METRIC: BEFORE}, {METRIC: BEFORE})
    path = made / "rows" / "latest.parquet"
    table = pandas.read_parquet(path)
    table["row"] = table["row"].astype(str) + "?"
    table.to_parquet(path)
    compared = compare(tmp_path, one(reference="sft"), None)
    assert figures(compared)["ebft"].difference is None
    (note,) = (note for note in compared.tables[0].notes if "ebft and sft" in note)
    assert note.endswith("are not compared, because they were evaluated on no common row.")


def test_a_file_of_something_else_among_the_rows_is_named(tmp_path: Path) -> None:
    pilots(tmp_path, SFT, "sft")
    (tmp_path / "sft0" / "rows" / "latest.parquet").write_bytes(b"?")
    with pytest.raises(UserError, match=r"sft0/rows/latest\.parquet does not hold the scores of held-out rows"):
        compare(tmp_path, one(), None)


@pytest.mark.slow
def test_many_cells_need_more_than_an_interval_beside_zero(tmp_path: Path) -> None:
    """Eight cells that do nothing and one whose interval alone excludes 0: after Holm's correction it is not marked."""
    noise = [[0.3, -0.3, 0.1, -0.1], [-0.1, 0.1, -0.3, 0.3], [0.2, -0.2, -0.2, 0.2]]
    for place in range(8):
        pilots(tmp_path / str(place), noise, "sft", optimizer__lr=place)
    falls = [[0.2, 0.3, 0.2, 0.3], [0.3, 0.4, 0.3, 0.4], [0.1, 0.2, 0.1, 0.2]]
    pilots(tmp_path / "8", falls, "sft", optimizer__lr=8)
    compared = compare(tmp_path, one(), None)
    figure = figures(compared)["optimizer.lr=8"]
    assert figure.difference is not None
    assert figure.difference.excludes_zero
    assert figure.p_value is not None
    assert figure.p_value == pytest.approx(9 * figure.difference.p_value)  # type: ignore[operator]
    assert (figure.is_best, figure.is_told_apart) == (False, False)
    assert sentences(compared.tables[0])[0].startswith("cross_entropy: optimizer.lr=8 leads but is not told apart from")


def test_cells_that_are_equal_have_no_leader(tmp_path: Path) -> None:
    """As greedy answers of models that get none right; the first of equals was said to lead."""
    for method in ("sft", "ebft"):
        pilots(tmp_path, [[0.0] * 4, [0.0] * 4], method)
    (sentence,) = sentences(compare(tmp_path, one(), None).tables[0])
    assert sentence == "cross_entropy: every cell has the same figure in every pair, 2 seeds (weak) x 4 rows."


def test_what_has_the_figures_of_another_metric_is_told_to(tmp_path: Path) -> None:
    """Right answers were exact matches, and the same long sentence stood there twice."""
    for method in ("sft", "ebft"):
        pilots(tmp_path, [[0.5, 0.6, 0.5, 0.6], [0.6, 0.7, 0.6, 0.7]], method)
    table, one_metric, other = compare(tmp_path, one(), None).tables[0], "eval/cross_entropy", "eval/reward"
    rows = [replace(row, figures={**row.figures, other: row.figures[one_metric]}) for row in table.rows]
    standings = dict.fromkeys((one_metric, other), table.standings[one_metric])
    both = replace(table, metrics=[one_metric, other], rows=rows, standings=standings)
    assert sentences(both) == [*sentences(table), "reward has the figures of cross_entropy."]


@pytest.mark.slow
def test_every_form_has_the_verdict_and_what_could_have_been_seen(tmp_path: Path) -> None:
    pilots(tmp_path, [[0.5, 0.6, 0.5, 0.6], [0.6, 0.7, 0.6, 0.7], [0.55, 0.6, 0.5, 0.65]], "sft")
    write(compare(tmp_path, one(), None), tmp_path)
    words = "runs has lower cross_entropy than base by 0.5917 (0.4"
    for name in ("comparison.md", "comparison.html", "comparison.tex", "comparison.json"):
        assert words in (tmp_path / name).read_text(), name
    for name in ("comparison.md", "comparison.html"):
        assert (
            "Would have been seen with a chance of 80 %, from cell to cell: cross_entropy 0."
            in (tmp_path / name).read_text()
        )
    assert "standard errors over seeds / over rows" in (tmp_path / "comparison.html").read_text()
    (row,) = (
        row
        for row in csv.DictReader((tmp_path / "comparison.csv").read_text().splitlines())
        if row["cell"] == "runs" and row["metric"] == METRIC
    )
    assert (row["difference_covers"], row["difference_rows"], row["best"]) == ("seeds and rows", "4", "True")
    assert 0 < float(row["difference_p_holm"]) < 0.05
    assert float(row["detectable"]) > 0


def test_another_number_of_steps_is_a_column(tmp_path: Path) -> None:
    for number, (method, steps) in enumerate((("sft", 246), ("ebft", 40))):
        made = run(tmp_path / str(number), cross_entropy(1.0), method__name=method)
        summary = json.loads((made / "summary.json").read_text())
        (made / "summary.json").write_text(json.dumps({**summary, "steps": steps}))
    lines = text(compare(tmp_path, one(), None)).splitlines()
    (header,) = (line for line in lines if line.split()[:1] == ["cell"] and "seconds" in line)
    assert header.split()[:3] == ["cell", "n", "steps"]
    assert any(line.split()[:3] == ["sft", "1", "246"] for line in lines)
