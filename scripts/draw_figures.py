"""The two pictures of the README and of the pages, as SVG that is legible on light and dark screens.

python scripts/draw_figures.py      # comparison.svg (from docs/results/laptop) and geometry.svg in docs/figures
"""

import csv
from collections.abc import Iterator
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
RESULTS = ROOT / "docs" / "results" / "laptop" / "code_qa" / "comparison.csv"
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .back { fill: #ffffff; stroke: #d0d7de } .line { stroke: #8c959f } .quiet { fill: #57606a } .head { font-weight: 600 }
  .a { fill: #2a7fba; stroke: #2a7fba } .b { fill: #d55e00; stroke: #d55e00 } .free { fill: none; stroke: #2a7fba }
  .token { fill: #eaeef2; stroke: #8c959f } .window { fill: none; stroke: #d55e00; stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .back { fill: #161b22; stroke: #30363d } .quiet { fill: #9ea7b3 } .token { fill: #30363d }
    .a { fill: #58a6ff; stroke: #58a6ff } .b { fill: #f0883e; stroke: #f0883e } .free { stroke: #58a6ff }
    .window { stroke: #f0883e }
  }
"""

CELLS = ("base", "sft", "sft_matched", "rlvr", "ebft", "ebft_whitened")
PANELS = (  # metric, title, factor, digits of its axis
    ("eval/cross_entropy", "cross-entropy ↓", 1, 2),
    ("eval/feature_matching_loss@4", "feature-matching loss at 4 ↓", 1, 2),
    ("eval/greedy", "right answers, % ↑", 100, 0),
)
LEFT, TOP, ROW, PANEL_WIDTH, GAP = 130, 64, 28, 230, 32

TOKENS, CONTEXT, STRIDE, LENGTH = 16, 3, 4, 3  # T, c0, s, G of the picture
FREE = ((1, 0), (3, 1), (0, 2))  # of each block's two rollouts, how many of their tokens are the row's
BOX, PITCH = 36, 44


def main() -> None:
    FIGURES.mkdir(exist_ok=True)
    for name, text in figures().items():
        (FIGURES / name).write_text(text, encoding="utf-8")


def figures() -> dict[str, str]:
    """File name -> SVG."""
    return {"comparison.svg": comparison(), "geometry.svg": geometry()}


def comparison() -> str:
    """Means over five seeds with their 95 % intervals, a panel for each metric."""
    with RESULTS.open(encoding="utf-8", newline="") as file:
        found = {(row["cell"], row["metric"]): row for row in csv.DictReader(file)}
    width, height = LEFT + len(PANELS) * (PANEL_WIDTH + GAP), TOP + len(CELLS) * ROW + 46
    parts = [_text(LEFT - 12, TOP + ROW * (place + 0.5) + 4, cell, "", "end") for place, cell in enumerate(CELLS)]
    parts.append(_text(16, 28, "Questions about code, held out: three methods on one loop, five seeds", "head"))
    for number, panel in enumerate(PANELS):
        parts += _panel(found, LEFT + number * (PANEL_WIDTH + GAP), *panel)
    return _svg(width, height, "Three methods compared on held-out questions about code", parts)


def _panel(
    found: dict[tuple[str, str], dict[str, str]], left: int, metric: str, title: str, factor: int, digits: int
) -> Iterator[str]:
    rows = [found[cell, metric] for cell in CELLS]
    numbers = [factor * float(row[name]) for row in rows for name in ("low", "mean", "high") if row[name]]
    least, most = min(numbers), max(numbers)
    bottom = TOP + len(CELLS) * ROW

    def x(value: float) -> float:
        return left + 8 + (PANEL_WIDTH - 16) * (value - least) / (most - least)

    yield _text(left + PANEL_WIDTH / 2, TOP - 10, title, "", "middle")
    yield _line(left, bottom, left + PANEL_WIDTH, bottom, "line")
    for value, anchor, place in ((least, "start", left), (most, "end", left + PANEL_WIDTH)):
        yield _text(place, bottom + 18, f"{value:.{digits}f}", "quiet", anchor)
    for number, (cell, row) in enumerate(zip(CELLS, rows, strict=True)):
        y, colour = TOP + ROW * (number + 0.5), "b" if cell.startswith("ebft") else "a"
        if row["low"]:
            yield _line(x(factor * float(row["low"])), y, x(factor * float(row["high"])), y, colour, 3)
        yield f'<circle cx="{x(factor * float(row["mean"])):.1f}" cy="{y}" r="5" class="{colour}"/>'


def geometry() -> str:
    """A row, its anchors, and two rollouts at each; what a rollout shares with its row is drawn empty."""
    anchors = range(CONTEXT, TOKENS - LENGTH + 1, STRIDE)
    left, top = 96, 70
    parts = [
        _text(16, 28, f"T = {TOKENS}, c0 = {CONTEXT}, s = {STRIDE}, G = {LENGTH}, N = 2, so K = {len(anchors)}", "head")
    ]
    parts += [_box(left + place * PITCH, top, f"y{place}", "token") for place in range(TOKENS)]
    parts.append(_text(left - 12, top + 23, "row", "", "end"))
    for block, anchor in enumerate(anchors):
        x = left + anchor * PITCH
        parts.append(
            f'<rect x="{x - 8}" y="{top - 6}" width="{LENGTH * PITCH}" height="{BOX + 12}" rx="6" class="window"/>'
        )
        parts.append(_text(x + BOX / 2, top - 14, f"a{block} = {anchor}", "quiet", "middle"))
        parts += _branches(block, x, top)
    legend = top + BOX + 2 * (BOX + 16) + 34
    words = (
        "orange: the reference continuation",
        "empty: the row has it already",
        "filled: the rollout's own tokens",
    )
    parts += [_text(left + number * 250, legend + 24, word, "quiet") for number, word in enumerate(words)]
    return _svg(left + TOKENS * PITCH + 16, legend + 44, "A row, its anchors, and rollouts branching off", parts)


def _branches(block: int, x: float, top: float) -> Iterator[str]:
    """The rollouts of one block below the row, each hanging off the token before the anchor."""
    stem = x - PITCH + BOX / 2
    for number, free in enumerate(FREE[block]):
        y = top + BOX + 26 + number * (BOX + 14)
        yield _line(stem, top + BOX, stem, y + BOX / 2, "line")
        yield _line(stem, y + BOX / 2, x, y + BOX / 2, "line")
        for step in range(LENGTH):
            yield _box(x + step * PITCH, y, "", "free" if step < free else "a")


def _box(x: float, y: float, label: str, kind: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{BOX - 8}" height="{BOX}" rx="4" class="{kind}"/>' + (
        _text(x + BOX / 2 - 4, y + 23, label, "", "middle") if label else ""
    )


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" class="{kind}">{escape(words)}</text>'


def _line(x: float, y: float, to_x: float, to_y: float, kind: str, width: int = 1) -> str:
    return f'<line x1="{x:.1f}" y1="{y:g}" x2="{to_x:.1f}" y2="{to_y:g}" class="{kind}" stroke-width="{width}"/>'


def _svg(width: float, height: float, title: str, parts: list[str]) -> str:
    body = "\n".join(parts)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">
<title>{escape(title)}</title>
<style>{STYLE}</style>
<rect x="0.5" y="0.5" width="{width - 1:g}" height="{height - 1:g}" rx="8" class="back"/>
{body}
</svg>
"""


if __name__ == "__main__":
    main()
