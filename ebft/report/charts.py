"""A chart as data, and its two forms: a picture for papers (matplotlib), and JSON that `assets/chart.js` draws on a
page, where it answers to the pointer."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebft.output.files import atomic_file
from ebft.output.visible import visible
from ebft.report.html_parts import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#24292f"
# after Okabe and Ito, then brown and grey; the first four are told apart with any colour vision
COLOURS = ("#2a7fba", "#d55e00", "#009e73", "#b8659a", "#e69f00", "#56b4e9", "#8c564b", "#7f7f7f")
BLUE, VERMILION, GREEN, PURPLE = range(4)
DASHES = ("-", "--", ":")
PICTURE_LETTERS = 130  # of labels side by side above a picture of full width
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}

Point = tuple[float, float, float | None]  # place, value, half of its interval where there is one


@dataclass(frozen=True)
class Line:
    """Points of one label; lines of one label are shown and hidden together."""

    label: str
    points: Sequence[Point]
    colour: int | None = None  # of COLOURS, counted on without end; None: the ink of the page
    dash: int = 0  # of DASHES
    joined: bool = True
    marked: bool = True  # each point by a dot
    bars: bool = False  # intervals as bars; otherwise as a band

    @property
    def rgb(self) -> str:
        return INK if self.colour is None else COLOURS[self.colour % len(COLOURS)]


@dataclass(frozen=True)
class Panel:
    """Lines over one kind of place."""

    place: str
    lines: Sequence[Line]
    names: Sequence[str] = ()  # of the places 0, 1, 2, ...; none: places are numbers


@dataclass(frozen=True)
class Chart:
    title: str
    value: str  # what is drawn, with its unit
    panels: Sequence[Panel]
    level: float | None = None  # a dotted line across
    place: float | None = None  # a dotted line up
    is_share: bool = False  # values in per cent
    wide: bool = False


def many(number: int) -> dict[str, Any]:
    """Colour and dash of the number-th of many lines."""
    return {"colour": number, "dash": number // len(COLOURS) % len(DASHES)}


def beside(place: int, number: int, total: int) -> float:
    """A place a little to the side, so that `total` lines with bars at it are told apart."""
    step = min(0.12, 0.5 / max(1, total - 1))
    return place + step * (number - (total - 1) / 2)


def as_json(chart: Chart) -> dict[str, Any]:
    """What chart.js reads. Labels come from anybody's folder."""
    panels = [
        asdict(panel)
        | {
            "lines": [
                asdict(line) | {"label": visible(line.label), "colour": None if line.colour is None else line.rgb}
                for line in panel.lines
            ]
        }
        for panel in chart.panels
    ]
    return asdict(chart) | {"panels": panels}


def picture(chart: Chart, path: Path) -> None:
    """The chart as PNG, its panels side by side."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 3.8) if chart.wide else (6.4, 3.6), layout="constrained")
        panels = figure.subplots(1, len(chart.panels), sharey=True, squeeze=False)[0]
        for axes, panel in zip(panels, chart.panels, strict=True):
            _draw(axes, panel, chart)
        panels[0].set_ylabel(chart.value)
        handles, labels = panels[0].get_legend_handles_labels()
        letters = PICTURE_LETTERS if chart.wide else PICTURE_LETTERS // 2
        columns = max(1, min(len(labels), letters // (max(map(len, labels), default=0) + 6)))
        if labels:
            figure.legend(handles, labels, loc="outside upper left", ncols=columns, fontsize=9)
        if not chart.wide:
            figure.suptitle(chart.title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        with atomic_file(path) as file:
            figure.savefig(file, format="png", dpi=120, facecolor="white")


def _draw(axes: "Axes", panel: Panel, chart: Chart) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    seen: set[str] = set()
    for line in panel.lines:
        _draw_line(axes, line, None if line.label in seen else line.label, chart.is_share)
        seen.add(line.label)
    dotted: dict[str, Any] = {"color": INK, "linewidth": 0.8, "linestyle": ":", "zorder": 0}
    if chart.level is not None:
        axes.axhline(chart.level, **dotted)
    if chart.place is not None:
        axes.axvline(chart.place, **dotted)
    axes.set_xlabel(panel.place)
    if panel.names:
        axes.set_xticks(range(len(panel.names)), list(panel.names))
    else:
        places = [point[0] for line in panel.lines for point in line.points]
        are_whole = all(float(place).is_integer() for place in places)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=are_whole))
        if max(places, default=0) >= 10_000:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
    if chart.is_share:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))


def _draw_line(axes: "Axes", line: Line, label: str | None, is_share: bool) -> None:
    """An interval of a share is drawn no further than a share goes."""
    if not line.points:
        return
    places, values, _ = zip(*line.points, strict=True)
    marker = "o" if line.marked or len(places) == 1 else None
    axes.plot(
        places,
        values,
        color=line.rgb,
        linestyle=DASHES[line.dash] if line.joined else "",
        linewidth=1.5 if line.marked else 1.0,
        marker=marker,
        markersize=3.5,
        alpha=1 if line.joined else 0.45,
        # matplotlib leaves out labels that begin with _, and takes what is between dollars for mathematics
        label=None if label is None else visible(label).replace("$", r"\$").removeprefix("_"),
    )
    known = [(place, value, half) for place, value, half in line.points if half is not None]
    if not known:
        return
    least, most = (0.0, 1.0) if is_share else (float("-inf"), float("inf"))
    at = [place for place, _, _ in known]
    low = [max(least, value - half) for _, value, half in known]
    high = [min(most, value + half) for _, value, half in known]
    if line.bars:
        axes.vlines(at, low, high, color=line.rgb, linewidth=1.2)
        return
    axes.fill_between(at, low, high, color=line.rgb, alpha=0.14, linewidth=0)
