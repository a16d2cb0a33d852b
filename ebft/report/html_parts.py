"""Pages that need nothing else: a template and a style of `assets/`, and how text, numbers and plots are written into
them."""

import html
import json
from importlib import resources
from string import Template
from typing import Any

from ebft.output.metric_names import is_share
from ebft.output.visible import visible


def page(template: str, **values: str) -> str:
    """`assets/TEMPLATE` with those values, which are HTML, and the style and the script of all pages."""
    return Template(_asset(template)).substitute(values, style=_asset("page.css"), script=_asset("chart.js"))


def _asset(name: str) -> str:
    return resources.files("ebft").joinpath("assets", name).read_text(encoding="utf-8")


def escape(text: str) -> str:
    return html.escape(visible(text))


def plot(name: str, chart: dict[str, Any], caption: str = "") -> str:
    """A chart that chart.js draws from its JSON, in which no `<` may end the script."""
    content = json.dumps(chart, separators=(",", ":")).replace("<", r"\u003c")
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure class="chart" aria-label="{escape(name)}"><script type="application/json">{content}</script>'
        f"<noscript>Charts need JavaScript; plots/ has this one as a picture.</noscript>{below}</figure>"
    )


def facts(values: dict[str, str]) -> str:
    """A name and a value each, in a row of boxes."""
    return "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in values.items())


def number(value: float | None, sign: str = "") -> str:
    """Four places, or three digits where those would show nothing. A dash stands for what was not measured."""
    if value is None:
        return "–"
    return f"{value:{sign}.4f}" if value == 0 or 5e-5 <= abs(value) < 1e5 else f"{value:{sign}.3g}"


def figure(metric: str, value: float | None, sign: str = "") -> str:
    """A metric's value without its unit: a share in per cent, everything else as a number."""
    return number(value, sign) if value is None or not is_share(metric) else f"{100 * value:{sign}.2f}"


def unit(metric: str, sign: str = "") -> str:
    """Of a share: per cent, and percentage points where a sign as for `format` is given, as differences have one."""
    return "" if not is_share(metric) else " pp" if sign else " %"


def quantity(metric: str, value: float | None, half: float | None = None, sign: str = "") -> str:
    """A metric's value, with its error where there is one, and its unit. A dash stands for what was not measured. An
    error of 0 is none: values that are all equal do not tell their spread."""
    if value is None:
        return number(None)
    error = "" if not half else f" ± {figure(metric, half)}"
    return f"{figure(metric, value, sign)}{error}{unit(metric, sign)}"


def count(amount: float) -> str:
    """Three digits and a unit: 1234567 -> 1.23 M."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if amount >= size:
            return f"{amount / size:.3g} {unit}"
    return f"{amount:.0f}"
