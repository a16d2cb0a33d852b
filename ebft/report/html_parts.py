"""Pages that need nothing else: a template and a style of `assets/`, and how text, numbers and plots are written into
them."""

import html
from importlib import resources
from string import Template

from ebft.output.visible import visible


def page(template: str, **values: str) -> str:
    """`assets/TEMPLATE` with those values, which are HTML, and the style of all pages."""
    assets = resources.files("ebft").joinpath("assets")
    return Template(assets.joinpath(template).read_text(encoding="utf-8")).substitute(
        values, style=assets.joinpath("page.css").read_text(encoding="utf-8")
    )


def escape(text: str) -> str:
    return html.escape(visible(text))


def plot(name: str, svg: str) -> str:
    return f'<figure class="plot" role="img" aria-label="{escape(name)}">{svg}</figure>'


def facts(values: dict[str, str]) -> str:
    """A name and a value each, in a row of boxes."""
    return "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in values.items())


def number(value: float | None, sign: str = "") -> str:
    """Four places, or three digits where those would show nothing. A dash stands for what was not measured."""
    if value is None:
        return "–"
    return f"{value:{sign}.4f}" if value == 0 or 5e-5 <= abs(value) < 1e5 else f"{value:{sign}.3g}"


def count(amount: float) -> str:
    """Three digits and a unit: 1234567 -> 1.23 M."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if amount >= size:
            return f"{amount / size:.3g} {unit}"
    return f"{amount:.0f}"
