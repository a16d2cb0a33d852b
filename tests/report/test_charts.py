"""One chart in its two forms: a picture, and what a browser makes of the page."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from ebft.report import charts
from ebft.report.charts import Chart, Line, Panel
from ebft.report.html_parts import page, plot

HOSTILE = "</script><b>$x^$"
LINES = [
    Line("sft", [(0, 0.5, 1.75), (40, 0.25, 0.125)], 0),  # two seeds may have an interval of several hundred points
    Line(HOSTILE, [(0, 0.5, None), (40, 0.375, None)], 1, dash=1),
    Line("sft", [(40, 0.25, None)], 0, joined=False),
]
BY_STEP = Chart(
    "greedy", "greedy", [Panel("optimiser steps", LINES), Panel("tokens forwarded", LINES)], is_share=True, wide=True
)
BY_LENGTH = Chart("loss", "loss", [Panel("horizon G", [Line("a", [(0, -1.0, 0.5)], bars=True)], ["1"])], 0.0, 0.0)
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Points at the second step, hides sft, takes a log axis, and goes to the second panel; writes down what is then there.
DRIVE = """
const figure = document.querySelector("figure"), svg = figure.querySelector(":scope > svg"), found = {};
const press = (text) => [...figure.querySelectorAll("button")].find((each) => each.textContent === text).click();
const words = () => [...svg.querySelectorAll("text")].map((each) => each.textContent);
const box = svg.getBoundingClientRect();
svg.dispatchEvent(new PointerEvent("pointermove", { clientX: box.right - 20, clientY: box.top + 50 }));
found.tip = [...figure.querySelector(".tip").children].map((each) => each.textContent);
found.words = words();
found.lines = svg.querySelectorAll("polyline").length;
press("sft");
found.left = svg.querySelectorAll("polyline").length;
press("log");
press("tokens forwarded");
found.place = words().at(-2);
found.fits = document.documentElement.scrollWidth <= window.innerWidth;
document.body.textContent = JSON.stringify(found);
"""


def whole_page(*drawn: Chart) -> str:
    nothing = dict.fromkeys(("title", "status", "facts", "contents", "tables", "missing", "legend", "meanings"), "")
    figures = "".join(plot(each.title, charts.as_json(each), "a caption") for each in drawn)
    return page("comparison.html", **{**nothing, "tables": figures})


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_a_browser_shows_values_at_the_pointer_and_hides_lines(tmp_path: Path) -> None:
    assert BROWSER is not None
    path = tmp_path / "page.html"
    path.write_text(whole_page(BY_STEP, BY_LENGTH).replace("</body>", f"<script>{DRIVE}</script></body>"))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900", "--dump-dom"]
    done = subprocess.run(
        [*command, f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = json.loads(
        done.stdout.partition("<body>")[2].partition("</body>")[0].replace("&lt;", "<").replace("&gt;", ">")
    )
    assert found["tip"] == ["optimiser steps: 40", "sft: 25.00 % ± 12.50 %", f"{HOSTILE}: 37.50 %", "sft: 25.00 %"]
    assert {"20 %", "40 %", "0", "40", "optimiser steps", "greedy"} <= set(found["words"])
    assert not {"120 %", "150 %", "200 %"} & set(found["words"])
    assert (found["lines"], found["left"], found["place"], found["fits"]) == (2, 1, "tokens forwarded", True)


def test_what_stands_in_a_page_cannot_end_its_script() -> None:
    text = whole_page(BY_STEP)
    assert "</script><b>" not in text
    (content,) = (part.partition("</script>")[0] for part in text.split('<script type="application/json">')[1:])
    assert json.loads(content)["panels"][0]["lines"][1]["label"] == HOSTILE


@pytest.mark.slow
@pytest.mark.parametrize(("chart", "size"), [(BY_STEP, (1248, 456)), (BY_LENGTH, (768, 432))], ids=["wide", "narrow"])
def test_pictures_are_drawn_and_leave_matplotlib_as_it_was(
    rendered: None, tmp_path: Path, chart: Chart, size: tuple[int, int]
) -> None:
    import matplotlib

    before = {name: matplotlib.rcParams[name] for name in charts.STYLE}
    charts.picture(chart, tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as image:
        assert image.size == size
        assert image.convert("L").getextrema() != (255, 255)
    assert (tmp_path / "chart.png").stat().st_size < 100_000
    assert {name: matplotlib.rcParams[name] for name in charts.STYLE} == before


def test_the_interval_of_a_share_ends_where_shares_do() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    charts._draw(axes, BY_STEP.panels[0], BY_STEP)
    low, high = axes.get_ylim()
    assert -0.1 < low < 0
    assert 1 < high < 1.1


def test_many_lines_differ_in_colour_or_dash_and_stand_beside_each_other() -> None:
    looks = [tuple(charts.many(number).values()) for number in range(20)]
    assert len({(colour % len(charts.COLOURS), dash) for colour, dash in looks}) == 20
    assert [charts.beside(3, number, 3) for number in range(3)] == pytest.approx([2.88, 3, 3.12])
    assert charts.beside(3, 10, 11) == pytest.approx(3.25)
