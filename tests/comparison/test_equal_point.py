"""Figures at one cross-entropy, on courses worked out by hand."""

from pathlib import Path

import pytest

from ebft.comparison import compare, write
from ebft.comparison.equal_point import at
from ebft.comparison.layout import equal_points
from tests.comparison.helpers import BASE, run
from tests.sweep.helpers import grid

OTHER = "eval/wmt22/cross_entropy"
START = {**BASE, "eval/cross_entropy": 2.0, OTHER: 3.0}
SETS = {"wmt22": {"source": "alma", "task": None}}


def course(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{"eval/cross_entropy": own, OTHER: other} for own, other in pairs]


def test_a_figure_is_interpolated_where_the_point_is_first_reached() -> None:
    """From 2 to 1 the point 1.25 lies at three quarters: 3 + 3/4 (5 - 3). Later crossings do not count."""
    assert at(course((2.0, 3.0), (1.0, 5.0), (1.5, 9.0), (1.0, 9.0)), 1.25, OTHER) == 4.5
    assert at(course((2.0, 3.0), (1.0, 5.0)), 1.0, OTHER) == 5.0
    assert at(course((2.0, 3.0), (1.0, 5.0)), 0.9, OTHER) is None


def runs(folder: Path) -> None:
    """Courses from (2, 3): sft over (1.5, 3.5) to (1, 4), ebft over (1.75, 3) to (1.5, 3), rlvr up to 2.5."""
    for seed in range(2):
        for method, own, other in (("sft", 1.0, 4.0 + seed), ("ebft", 1.5, 3.0), ("rlvr", 2.5, 3.0)):
            run(
                folder / f"{method}{seed}",
                {"eval/cross_entropy": own, OTHER: other},
                base=START,
                seed=seed,
                method__name=method,
                eval__sets=SETS,
            )


def test_cells_are_compared_at_the_lowest_cross_entropy_that_all_reach(tmp_path: Path) -> None:
    """All but rlvr reach 1.5, sft half-way at its second evaluation: 3.5 and, with seed 1, 4."""
    runs(tmp_path)
    table = compare(tmp_path, grid(metrics=["eval/cross_entropy", OTHER]), None).tables[0]
    found = table.equal_point
    assert found is not None
    assert (found.place, found.never) == (1.5, ["rlvr"])
    values = {name: figures[OTHER] for name, figures in found.figures.items()}
    assert {name: value and (value.n, value.mean) for name, value in values.items()} == {
        "ebft": (2, 3.0),
        "sft": (2, 3.75),
    }
    grid_of = equal_points(table)
    assert [entry.text for entry in grid_of.rows[1]][:2] == ["sft", "3.7500 ± 3.1766"]


def test_two_cells_must_fall_below_the_base(tmp_path: Path) -> None:
    runs(tmp_path)
    metrics = ["eval/cross_entropy", OTHER]
    assert compare(tmp_path, grid(metrics=metrics[:1]), None).tables[0].equal_point is None
    for seed in range(2):
        (tmp_path / f"ebft{seed}" / "summary.json").unlink()
    assert compare(tmp_path, grid(metrics=metrics), None).tables[0].equal_point is None


@pytest.mark.slow
def test_the_page_has_the_table_and_a_plot(tmp_path: Path) -> None:
    runs(tmp_path)
    write(compare(tmp_path, grid(metrics=["eval/cross_entropy", OTHER]), None), tmp_path)
    for name in ("comparison.md", "comparison.html"):
        page = (tmp_path / name).read_text()
        assert "At equal cross_entropy, 1.5000" in page
        assert "rlvr" in page.split("At equal cross_entropy")[1]
    assert (tmp_path / "plots" / "elsewhere_wmt22_cross_entropy.png").is_file()
