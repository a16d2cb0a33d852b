"""`comparison.html`: the comparison on one page that needs nothing else but, for its links, the run folders beside
it."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from ebft.comparison import layout
from ebft.comparison.figures import Plot
from ebft.comparison.layout import Entry, Grid
from ebft.comparison.sentences import sentences
from ebft.comparison.tables import Compared, Table
from ebft.output.metric_names import meaning, short
from ebft.report.charts import as_json
from ebft.report.html_parts import count, escape, facts, page, plot


def html(compared: Compared, plots: Sequence[Sequence[Plot]], directory: Path) -> str:
    runs = [outcome for table in compared.tables for row in table.rows for outcome in row.outcomes]
    cells = sum(not row.is_base for table in compared.tables for row in table.rows)
    return page(
        "comparison.html",
        title=escape(compared.name),
        status="incomplete" if compared.missing else "completed",
        facts=facts(
            {
                "runs": f"{len(runs)} of {len(runs) + len(compared.missing)}",
                "cells": str(cells),
                "tokens forwarded in training": count(sum(run.tokens for run in runs)),
                "hours of training": f"{sum(run.seconds for run in runs) / 3600:.2f}",
            }
        ),
        legend=escape(layout.LEGEND),
        meanings=_meanings(compared.tables),
        contents=_contents(compared.tables),
        tables="\n".join(
            _section(compared, number, table, drawn, directory)
            for number, (table, drawn) in enumerate(zip(compared.tables, plots, strict=True))
        ),
        missing=_missing(compared),
    )


def _contents(tables: Sequence[Table]) -> str:
    if len(tables) < 2:
        return ""
    return (
        "<nav>"
        + "".join(f'<a href="#table-{number}">{escape(table.title)}</a>' for number, table in enumerate(tables))
        + "</nav>"
    )


def _section(compared: Compared, number: int, table: Table, plots: Sequence[Plot], directory: Path) -> str:
    gaps, made_of = layout.differences(table), layout.parts(table)
    parts = [f'<h2 id="table-{number}">{escape(table.title or compared.name)}</h2>', _verdicts(table)]
    parts += [_grid(layout.measured(table)), *(f'<p class="note">{escape(note)}</p>' for note in layout.notes(table))]
    if any(table.has_reported(metric) for metric in table.metrics) and compared.reported_source:
        parts.append(f'<p class="note">Reported figures were not measured here: {escape(compared.reported_source)}</p>')
    if gaps.rows:
        what = f"Difference to {table.reference}, in pairs of one seed and row"
        parts.append(f"<h3>{escape(what)}; bold where told apart from 0 after Holm's correction over the cells</h3>")
        parts.append(_grid(gaps))
        parts += [f'<p class="note">{escape(layout.detectable(table))}</p>']
    if made_of.rows:
        parts.append(
            "<details><summary>What these intervals are made of: standard errors over seeds / over rows</summary>"
            f"{_grid(made_of)}</details>"
        )
    if (equal := layout.equal_points(table)).rows:
        parts += [f"<h3>{escape(layout.equal_point_title(table))}</h3>", _grid(equal)]
    figures = (plot(drawn.name, as_json(drawn.chart), drawn.caption) for drawn in plots)
    return "\n".join([*parts, '<div class="wide-plots">', *figures, "</div>", _runs(table, directory)])


def _meanings(tables: Sequence[Table]) -> str:
    """What the metrics of all tables are, each once."""
    known = {metric: meaning(metric) for table in tables for metric in table.metrics}
    return "".join(f"<dt>{escape(short(metric))}</dt><dd>{escape(what)}</dd>" for metric, what in known.items() if what)


def _verdicts(table: Table) -> str:
    found = sentences(table)
    return f'<ul class="verdicts">{"".join(f"<li>{escape(line)}</li>" for line in found)}</ul>' if found else ""


def _grid(grid: Grid) -> str:
    head = "".join(f"<th>{escape(name).replace(' ', '&nbsp;').replace('_', '_<wbr>')}</th>" for name in grid.header)
    body = "".join(f"<tr>{''.join(map(_entry, row))}</tr>" for row in grid.rows)
    return (
        f'<div class="scroll"><table class="figures"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _entry(entry: Entry) -> str:
    note = f"<small>({escape(entry.note)})</small>" if entry.note else ""
    return f'<td class="{entry.kind}">{escape(entry.text)}{note}</td>'


def _runs(table: Table, directory: Path) -> str:
    """Every cell's runs, with links to those reports that lie here."""
    rows = []
    for row in table.cells:
        links = []
        for outcome in row.outcomes:
            report = f"{outcome.plan.folder}/report.html"
            label = f"seed {outcome.seed}"
            links.append(f'<a href="{quote(report)}">{label}</a>' if (directory / report).is_file() else label)
        rows.append(f"<tr><th>{escape(row.name)}</th><td>{', '.join(links)}</td></tr>")
    return f'<details><summary>Runs</summary><table class="plan">{"".join(rows)}</table></details>'


def _missing(compared: Compared) -> str:
    lines = layout.missing(compared)
    return f"<h2>Not done</h2><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""
