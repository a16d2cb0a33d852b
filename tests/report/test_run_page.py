import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from ebft.report import plots
from ebft.report import run_page as report

CONFIG = {
    "method": {"name": "ebft"},
    "model": {"path": "tiny"},
    "data": {"source": "stdlib"},
    "sampler": {"generate_length": 8},
}
LOSS = "eval/feature_matching_loss@"
BASE = {
    "eval/cross_entropy": 3.5,
    "eval/cross_entropy_stderr": 0.25,
    f"{LOSS}8": 0.75,
    f"{LOSS}8_stderr": 0.5,
    f"{LOSS}16": 0.875,
}
FINAL = {
    "eval/cross_entropy": 3.25,
    "eval/cross_entropy_stderr": 0.25,
    f"{LOSS}8": 0.5,
    f"{LOSS}8_stderr": 0.5,
    f"{LOSS}16": 1.25,
    "eval/new": 2e-6,
}
CHANGE = {"eval/cross_entropy": -0.25, "eval/cross_entropy_stderr": 0.0625, f"{LOSS}8": -0.25, f"{LOSS}16": 0.375}
SUMMARY: dict[str, Any] = {
    "status": "completed",
    "steps": 2,
    "wall_seconds": 83.2,
    "tokens_forwarded": 1_234_567,
    "peak_memory_bytes": 3 * 2**29,
    "base": BASE,
    "final": FINAL,
    "change": CHANGE,
}
TRAIN = {
    "train/cross_entropy": 3.4,
    "train/reward": 0.5,
    "train/alignment": 1.0,
    "train/diversity": 0.5,
    "train/advantage_std": 0.25,
}
ROWS = [{"step": 0, **BASE}, {"step": 1, **TRAIN}, {"step": 2, **TRAIN}, {"step": 2, **FINAL}]
HOSTILE = "\n  <script>alert('1')</script>\t&amp;\x1b[0m"
SAMPLES = [
    {
        "step": step,
        "context": "x" * 1000 + "end of it",
        "reference": HOSTILE,
        "rollouts": [{"text": HOSTILE, "reward": -0.5}],
    }
    for step in (0, 1, 2)
]


def run_folder(folder: Path, rows: list[dict[str, Any]], samples: list[dict[str, Any]]) -> Path:
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    for name, entries in (("metrics.jsonl", rows), ("samples.jsonl", samples)):
        (folder / name).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder


class Page(HTMLParser):
    """What a browser makes of the page: tags, balanced, and text by tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.setdefault(self.open[-1] if self.open else "", []).append(data)


def test_comparison_shows_change_with_its_own_error_and_hides_error_rows() -> None:
    assert report.comparison(SUMMARY) == [
        ("cross_entropy", "3.5000", "3.2500", "-0.2500", "0.0625"),
        ("feature_matching_loss@8", "0.7500", "0.5000", "-0.2500", "–"),
        ("feature_matching_loss@16", "0.8750", "1.2500", "+0.3750", "–"),
        ("new", "–", "2e-06", "–", "–"),
    ]


@pytest.mark.slow
def test_page_needs_nothing_else_and_shows_everything(tmp_path: Path) -> None:
    path = report.write(run_folder(tmp_path, ROWS, SAMPLES), SUMMARY, {"anchors per row": "31 < 37"})
    text = path.read_text()
    page = Page(text)
    assert path == tmp_path / "report.html"
    assert page.open == []
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "img", "iframe"})
    assert set(re.findall(r"https?://[^\"'<\s]+", text)) == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }  # names, not addresses
    assert "prefers-color-scheme: dark" in text
    assert page.text["h1"] == ["ebft on stdlib, from tiny"]
    assert page.text["b"] == ["2", "1:23", "1.23 M", "1.50 GiB"]
    assert "31 < 37" in page.text["td"]
    assert "-0.2500" in page.text["td"]
    assert "generate_length: 8" in "".join(page.text["pre"])
    assert [tag for tag, _ in page.tags].count("svg") == 4
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


@pytest.mark.slow
def test_samples_are_text_with_their_whitespace(tmp_path: Path) -> None:
    page = Page(report.write(run_folder(tmp_path, ROWS, SAMPLES), SUMMARY, {}).read_text())
    visible = HOSTILE.replace("\x1b", r"\x1b")
    assert page.text["h3"] == ["Step 0", "Step 2"]
    assert page.text["code"] == 2 * ["…" + "x" * 391 + "end of it", visible, visible]


@pytest.mark.slow
def test_long_contexts_show_their_last_lines(tmp_path: Path) -> None:
    sample = {"step": 0, "context": "\n".join(map(str, range(13))), "reference": "r", "rollouts": []}
    page = Page(report.write(run_folder(tmp_path, ROWS, [sample]), SUMMARY, {}).read_text())
    assert page.text["code"][0] == "…3\n4\n5\n6\n7\n8\n9\n10\n11\n12"


@pytest.mark.slow
def test_run_without_evaluation_and_samples(tmp_path: Path) -> None:
    summary = SUMMARY | {"status": "interrupted", "evaluated": None, "base": {}, "final": {}, "change": {}}
    page = Page(
        report.write(run_folder(tmp_path, [{"step": 1, "train/cross_entropy": 3.0}], []), summary, {}).read_text()
    )
    assert page.text["p"] == [tmp_path.name, "Nothing was evaluated.", "This run has no samples."]
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["cross_entropy.png"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "base", "expected"),
    [
        (ROWS, BASE, ["cross_entropy", "feature_matching_by_step", "feature_matching_by_horizon", "reward"]),
        ([{"step": 1, "train/cross_entropy": 3.0, "train/loss": 3.0}], {"eval/cross_entropy": 3.0}, ["cross_entropy"]),
        ([], {}, []),
    ],
    ids=["ebft", "sft", "nothing"],
)
def test_figures_without_metrics_are_left_out(
    tmp_path: Path, rows: list[dict[str, Any]], base: dict[str, float], expected: list[str]
) -> None:
    figures = plots.write(tmp_path, rows, base, {}, generate_length=8)
    assert list(figures) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{name}.png" for name in expected)
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            assert image.size == (768, 432)
        assert path.stat().st_size < 100_000


@pytest.mark.slow
def test_figures_follow_the_page_s_colours_and_name_the_training_horizon(tmp_path: Path) -> None:
    figures = plots.write(tmp_path, ROWS, BASE, FINAL, generate_length=8)
    assert all(plots.INK not in svg and "currentColor" in svg for svg in figures.values())
    labels = re.findall(r">(G = [^<]*)<", figures["feature_matching_by_step"])
    assert labels == ["G = 16", "G = 8 (in training)"]


@pytest.mark.slow
def test_figures_leave_matplotlib_as_it_was(tmp_path: Path) -> None:
    import matplotlib

    before = {name: matplotlib.rcParams[name] for name in plots.STYLE}
    plots.write(tmp_path, ROWS, BASE, FINAL, generate_length=8)
    assert {name: matplotlib.rcParams[name] for name in plots.STYLE} == before


def test_horizons_are_read_from_names() -> None:
    assert plots.horizons({f"{LOSS}16": 0.0, f"{LOSS}2": 0.0, f"{LOSS}2_stderr": 0.0, "eval/reward": 0.0}) == [2, 16]
