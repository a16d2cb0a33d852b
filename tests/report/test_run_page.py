import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

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
        "rollouts": [{"text": f"{HOSTILE}!", "reward": -0.5}],
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
        if tag not in ("meta", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.setdefault(self.open[-1] if self.open else "", []).append(data)


def test_comparison_shows_change_with_its_own_error_and_hides_error_rows() -> None:
    assert report.comparison(SUMMARY) == [
        ("eval/cross_entropy", "3.5000", "3.2500", "-0.2500 ± 0.0625"),
        (f"{LOSS}8", "0.7500", "0.5000", "-0.2500"),
        (f"{LOSS}16", "0.8750", "1.2500", "+0.3750"),
        ("eval/new", "–", "2e-06", "–"),
    ]


def test_the_page_begins_with_what_changed_beyond_noise_better_first() -> None:
    """-0.25 is four standard errors, 12.5 points are 1.95: 1.96 of 0.0641 are 12.56."""
    greedy = {"eval/greedy": 0.5}, {"eval/greedy": 0.375}
    change = CHANGE | {"eval/greedy": -0.125, "eval/greedy_stderr": 0.0641}
    summary = {"base": BASE | greedy[0], "final": FINAL | greedy[1], "change": change}
    better = ("better", "cross_entropy fell from 3.5000 to 3.2500 (-0.2500 ± 0.1225, better)")
    assert report.changes(summary, 8) == [better]
    clearer = summary | {"change": change | {"eval/greedy_stderr": 0.0625}}
    worse = ("worse", "greedy fell from 50.00 % to 37.50 % (-12.50 ± 12.25 pp, worse)")
    assert report.changes(clearer, 8) == [better, worse]
    ((_, none),) = report.changes(summary | {"change": {"eval/cross_entropy": 1.0}}, 8)
    assert none == "No main figure changed by more than 1.96 standard errors over held-out documents."
    ((_, nothing),) = report.changes({"base": BASE, "final": BASE, "change": {"eval/cross_entropy": 0.0}}, 8)
    assert nothing == "Nothing to compare with the model before training yet."


def test_rollouts_that_all_equal_the_reference_are_one_line() -> None:
    def shown(*texts: str) -> str:
        return report._rollouts([{"text": text, "reward": 0.0} for text in texts], "a <b>")

    assert shown("a <b>", "a <b>") == '<p class="note">each of 2 rollouts follows the reference</p>'
    assert shown("a <b>") == '<p class="note">the rollout follows the reference</p>'
    assert shown("a <b>", "c").count("0.0000") == 2
    assert shown() == ""


@pytest.mark.slow
def test_page_needs_nothing_else_and_shows_everything(tmp_path: Path) -> None:
    path = report.write(run_folder(tmp_path, ROWS, SAMPLES), SUMMARY, {"anchors per row": "31 < 37"})
    text = path.read_text()
    page = Page(text)
    assert path == tmp_path / "report.html"
    assert page.open == []
    assert {tag for tag, _ in page.tags}.isdisjoint({"link", "img", "iframe"})
    assert not any({"src", "href"} & attributes.keys() for _, attributes in page.tags)
    assert set(re.findall(r"https?://[^\"'<\s]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, no address
    assert "prefers-color-scheme: dark" in text
    assert page.text["h1"] == ["ebft on stdlib, from tiny"]
    assert page.text["b"] == ["2", "1:23", "1.23 M", "1.50 GiB"]
    assert "31 < 37" in page.text["td"]
    assert "-0.2500 ± 0.0625" in page.text["td"]
    assert "nats per token of the held-out text" in page.text["small"]
    assert "generate_length: 8" in "".join(page.text["pre"])
    assert [tag for tag, _ in page.tags].count("figure") == 4
    charts = [json.loads(text) for text in page.text["script"][:-1]]
    assert charts[0]["panels"][0]["lines"][1]["points"] == [[0, 3.5, 0.25], [2, 3.25, 0.25]]


@pytest.mark.slow
def test_samples_are_text_with_their_whitespace(tmp_path: Path) -> None:
    page = Page(report.write(run_folder(tmp_path, ROWS, SAMPLES), SUMMARY, {}).read_text())
    visible = HOSTILE.replace("\x1b", r"\x1b")
    assert page.text["h3"] == ["Step 0", "Step 2"]
    assert page.text["code"] == 2 * ["…" + "x" * 391 + "end of it", visible, f"{visible}!"]


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
    first, _, *others = page.text["p"]
    assert (first, others) == (tmp_path.name, ["Nothing was evaluated.", "This run has no samples."])
    assert page.text["li"] == ["Nothing to compare with the model before training yet."]
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["cross_entropy.png"]


@pytest.mark.parametrize(
    ("rows", "base", "expected"),
    [
        (ROWS, BASE, ["cross_entropy", "feature_matching_by_step", "feature_matching_by_horizon", "reward"]),
        ([{"step": 1, "train/cross_entropy": 3.0, "train/loss": 3.0}], {"eval/cross_entropy": 3.0}, ["cross_entropy"]),
        ([], {}, []),
    ],
    ids=["ebft", "sft", "nothing"],
)
def test_charts_without_metrics_are_left_out(
    rows: list[dict[str, Any]], base: dict[str, float], expected: list[str]
) -> None:
    assert list(plots.of_run(rows, base, {}, generate_length=8)) == expected


@pytest.mark.slow
def test_a_run_that_goes_on_has_a_page_and_no_pictures(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, ROWS, SAMPLES)
    page = report.write(folder, SUMMARY | {"status": "running"}, {}, with_pictures=False)
    assert '<span class="status running">running</span>' in page.read_text()
    assert not (folder / "plots").exists()


@pytest.mark.slow
def test_a_failed_run_s_page_begins_with_why(tmp_path: Path) -> None:
    summary = SUMMARY | {"status": "failed", "error": "RunFailure: <full>"}
    page = Page(report.write(run_folder(tmp_path, ROWS, []), summary, {}, with_pictures=False).read_text())
    assert page.text["li"][0] == "RunFailure: <full>"


def test_the_training_horizon_is_named_first_and_alone_has_intervals() -> None:
    (panel,) = plots.of_run(ROWS, BASE, FINAL, generate_length=8)["feature_matching_by_step"].panels
    assert [line.label for line in panel.lines] == ["G = 8 (in training)", "G = 16"]
    assert [line.points[0] for line in panel.lines] == [(0, 0.75, 0.5), (0, 0.875, None)]


def test_horizons_are_read_from_names() -> None:
    assert plots.numbers([f"{LOSS}16", f"{LOSS}2", f"{LOSS}2_stderr", "eval/reward"], LOSS) == [2, 16]
