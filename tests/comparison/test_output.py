"""What is written: one comparison in every form, with hostile names."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from ebft.comparison import compare, summary_rows, text, write
from ebft.comparison.figures import MAX_CELLS, course, leading
from tests.comparison.helpers import BASE, cross_entropy, planned, run
from tests.comparison.test_tables import SPREAD, three_seeds
from tests.sweep.helpers import grid

METRICS = ["eval/cross_entropy", "eval/greedy"]
HOSTILE = "_<b>a|b_&%$x^$</b>"


class Links(HTMLParser):
    """Links and anchors of a page; fails on unbalanced tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [value for name, value in attrs if name in ("href", "src") and value and tag != "use"]
        self.ids += [values["id"]] if values.get("id") else []
        if tag not in ("meta", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    three_seeds(tmp_path)
    (tmp_path / "e1" / "report.html").write_text("a report")
    write(compare(tmp_path, grid(metrics=METRICS, reference="sft"), None), tmp_path)
    return tmp_path


@pytest.mark.slow
def test_markdown_has_intervals_deviations_and_marks(folder: Path) -> None:
    page = (folder / "comparison.md").read_text()
    assert "| cell | n | cross_entropy ↓ | greedy ↑ | tokens | seconds |" in page
    assert "| base |  | 2.0000 | 50.00 % |  |  |" in page
    assert "| ebft | 3 | **0.8333 ± 0.1793 (0.0722)** | 50.00 % (0.00) | 401 | 7 |" in page
    assert "Difference to sft, in pairs of one seed" in page
    assert "| ebft | 3 | **-0.2917 ± 0.1793** | +0.00 pp |" in page


@pytest.mark.slow
def test_latex_is_escaped_and_marked(folder: Path) -> None:
    page = (folder / "comparison.tex").read_text()
    assert r"ebft & 3 & \textbf{0.8333 $\pm$ 0.1793 (0.0722)} & 50.00 \% (0.00) & 401 & 7 \\" in page
    assert r"cross\_entropy $\downarrow$" in page
    assert page.count(r"\begin{tabular}{lrrrrr}") == page.count(r"\toprule") - 1 == 1


@pytest.mark.slow
def test_csv_has_a_row_for_every_cell_and_metric_in_full_precision(folder: Path) -> None:
    rows = list(csv.DictReader((folder / "comparison.csv").read_text().splitlines()))
    assert len(rows) == 3 * len(METRICS) + 2 * 2
    (ours,) = (row for row in rows if (row["cell"], row["metric"]) == ("ebft", "eval/cross_entropy"))
    assert (ours["n"], ours["better"], ours["best"], ours["pairs"], ours["reference"]) == (
        "3",
        "lower",
        "True",
        "3",
        "sft",
    )
    assert float(ours["high"]) - float(ours["low"]) == pytest.approx(2 * 4.302653 * SPREAD / 3**0.5, rel=1e-6)
    assert float(ours["difference"]) == pytest.approx(-0.875 / 3)
    (cost,) = (row for row in rows if (row["cell"], row["metric"]) == ("ebft", "cost/tokens_forwarded"))
    assert float(cost["mean"]) == 401


@pytest.mark.slow
def test_json_has_the_figures_of_each_run(folder: Path) -> None:
    content = json.loads((folder / "comparison.json").read_text())
    (row,) = (row for row in content["tables"][0]["rows"] if row["cell"] == "sft")
    assert [(run["folder"], run["seed"], run["final"]["eval/cross_entropy"]) for run in row["runs"]] == [
        ("s0", 0, 1.0),
        ("s1", 1, 1.125),
        ("s2", 2, 1.25),
    ]
    assert content["missing"] == []


@pytest.mark.slow
def test_the_page_stands_alone_and_its_links_lead_somewhere(folder: Path) -> None:
    text_of_page = (folder / "comparison.html").read_text()
    page = Links(text_of_page)
    assert len(page.ids) == len(set(page.ids))
    targets = [link for link in page.links if not link.startswith("#")]
    assert targets == ["e1/report.html"], "a run without a report has no link"
    assert "seed 0, " in text_of_page
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text_of_page))
    assert used <= set(page.ids)


@pytest.mark.slow
def test_every_plot_is_drawn(folder: Path) -> None:
    names = {path.stem for path in (folder / "plots").glob("*.png")}
    assert names == {"cross_entropy", "greedy", "feature_matching_by_horizon", "losses", "calibration"}
    for path in (folder / "plots").iterdir():
        assert Image.open(path).convert("L").getextrema() != (255, 255), path.name
    page = (folder / "comparison.html").read_text()
    assert page.count('<figure class="chart"') == len(names)
    for label in (
        "optimiser steps",
        "tokens forwarded in training",
        "seconds of training",
        "horizon G (tokens)",
        "token of the answer",
    ):
        assert label in page


@pytest.mark.slow
def test_names_are_escaped_everywhere(tmp_path: Path) -> None:
    run(tmp_path / "runs" / "0")
    plans = [planned("runs/0", HOSTILE), planned("runs/1", HOSTILE, note=f"failed: {HOSTILE}", seed=1)]
    compared = compare(tmp_path, grid(reported_source="a\nb"), plans)
    *_, page = write(compared, tmp_path)
    assert "<b>a" not in page.read_text()
    assert r"_&lt;b>a\|b_&%$x^$&lt;/b> | 1 of 2 |" in (tmp_path / "comparison.md").read_text()
    assert "<b>" not in (tmp_path / "comparison.md").read_text()
    assert (
        r"\_\textless{}b\textgreater{}a|b\_\&\%\$x\textasciicircum{}\$\textless{}/b"
        in (tmp_path / "comparison.tex").read_text()
    )
    assert "\n% Reported: a b\n" in (tmp_path / "comparison.tex").read_text()
    assert f"seed 1 (runs/1): failed: {HOSTILE}" in text(compared)
    assert "incomplete" in page.read_text()


def test_the_terminal_gets_a_table(tmp_path: Path) -> None:
    three_seeds(tmp_path)
    lines = text(compare(tmp_path, grid(metrics=METRICS, reference="sft"), None)).splitlines()
    assert lines[1].startswith("ebft has the lowest cross_entropy, lower than sft, the nearest, by 0.2917 (0.1124 to ")
    assert lines[2].startswith("greedy: ")
    assert lines[5].split() == ["base", "2.0000", "50.00", "%"]
    assert next(line for line in lines if line.startswith("  ebft")).split()[:6] == [
        "ebft",
        "3",
        "0.8333",
        "±",
        "0.1793",
        "(0.0722)*",
    ]


def test_a_tracker_gets_the_rows_of_the_csv(tmp_path: Path) -> None:
    three_seeds(tmp_path)
    columns, rows = summary_rows(compare(tmp_path, grid(metrics=METRICS), None))
    assert all(list(row) == columns for row in rows)
    base = rows[0]
    assert (base["cell"], base["mean"], base["sd"], base["difference"]) == ("base", 2.0, None, None)


def test_a_course_ends_where_the_runs_of_a_cell_agree(tmp_path: Path) -> None:
    run(tmp_path / "a", cross_entropy(1.0), tokens=100)
    run(tmp_path / "b", cross_entropy(0.5), tokens=300, seed=1)
    lines = (tmp_path / "b" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "b" / "metrics.jsonl").write_text("".join(line for line in lines if '"step": 5' not in line))
    row = compare(tmp_path, grid(), None).tables[0].cells[0]
    points = course(row.outcomes, "eval/cross_entropy", "cost/tokens_forwarded")
    assert [(point.place, point.value.mean) for point in points] == [(0.0, 2.0), (200.0, 0.75)]


@pytest.mark.slow
def test_plots_show_the_leading_cells_where_there_are_many(tmp_path: Path) -> None:
    for place in range(MAX_CELLS + 2):
        run(tmp_path / f"{place:02d}", cross_entropy(2.0 - place / 100), optimizer__lr=place)
    compared = compare(tmp_path, grid(), None)
    shown = [row.name for row in leading(compared.tables[0])]
    assert shown == [f"optimizer.lr={place}" for place in range(2, MAX_CELLS + 2)]
    *_, page = write(compared, tmp_path)
    assert f"The {MAX_CELLS} of {MAX_CELLS + 2} cells that lead in cross_entropy." in page.read_text()


@pytest.mark.slow
def test_what_was_left_out_and_what_was_reported_is_said(tmp_path: Path) -> None:
    run(tmp_path / "a")
    run(tmp_path / "b", features__embed_method="mean_pooling")
    settings = grid(reported={"base": {"eval/greedy": 0.35}}, reported_source="a paper, second-hand")
    compared = compare(tmp_path, settings, None)
    write(compared, tmp_path)
    note = "Feature matching is not compared, because runs differ in features.embed_method, which shapes it."
    for name in ("comparison.md", "comparison.html"):
        assert note in (tmp_path / name).read_text()
        assert "a paper, second-hand" in (tmp_path / name).read_text()
    assert "| cross_entropy ↓ | greedy ↑ | greedy, reported | tokens" in (tmp_path / "comparison.md").read_text()
    assert "feature_matching_by_horizon.png" not in [path.name for path in (tmp_path / "plots").iterdir()]


@pytest.mark.slow
def test_runs_without_questions_have_no_calibration(tmp_path: Path) -> None:
    base = {name: value for name, value in BASE.items() if "@" not in name}
    run(tmp_path / "a", base=base)
    write(compare(tmp_path, grid(), None), tmp_path)
    assert {path.stem for path in (tmp_path / "plots").iterdir()} == {"cross_entropy", "greedy"}


@pytest.mark.slow
def test_tables_of_one_page_keep_their_plots_and_ids_apart(rendered: None, tmp_path: Path) -> None:
    """Titles that differ in nothing but punctuation once overwrote each other's plots."""
    for number, path in enumerate(("x/a-b", "x/a_b")):
        run(tmp_path / str(number), cross_entropy(1.0 + number), data__path=path)
    *_, page = write(compare(tmp_path, grid(split=["data.path"]), None), tmp_path)
    read = Links(page.read_text())
    assert len(read.ids) == len(set(read.ids))
    anchors = [link for link in read.links if link.startswith("#")]
    assert anchors == ["#table-0", "#table-1"]
    assert {link.removeprefix("#") for link in anchors} <= set(read.ids)
    pictures = [(tmp_path / "plots" / f"{number}_x_a_b_cross_entropy.png").read_bytes() for number in (0, 1)]
    assert pictures[0] != pictures[1]
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', page.read_text()))
    assert used <= set(read.ids)


@pytest.mark.slow
def test_names_of_others_act_nowhere(tmp_path: Path) -> None:
    """A cell is named by a key of a config, which may be a stranger's: a formula, an image, an escape sequence."""
    name = '=HYPERLINK("x")\x1b![i](https://there)'
    for seed in range(2):
        run(tmp_path / f"a{seed}", cross_entropy(1.0 + seed), seed=seed, data__task=None)
        run(tmp_path / f"b{seed}", cross_entropy(2.0 + seed), seed=seed, data__task=None)
    plans = [planned(f"a{seed}", name, seed=seed) for seed in range(2)] + [
        planned(f"b{seed}", "b", seed=seed) for seed in range(2)
    ]
    compared = compare(tmp_path, grid(metrics=["eval/cross_entropy"]), plans)
    write(compared, tmp_path)
    cells = {row["cell"] for row in csv.DictReader((tmp_path / "comparison.csv").read_text().splitlines())}
    assert cells == {"base", "b", '\'=HYPERLINK("x")\\x1b![i](https://there)'}
    assert r'| =HYPERLINK("x")\\x1b![i\](https://there) |' in (tmp_path / "comparison.md").read_text()
    for file in ("comparison.md", "comparison.html", "comparison.tex", "comparison.csv"):
        assert "\x1b" not in (tmp_path / file).read_text(), file
