"""A comparison written down: plain text, Markdown, CSV, LaTeX, JSON, plots and a page."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ebft.comparison import figures, layout
from ebft.comparison.html import html
from ebft.comparison.layout import Entry, Grid
from ebft.comparison.sentences import sentences
from ebft.comparison.tables import Compared, Table
from ebft.output.console import aligned
from ebft.output.files import atomic_write_text, make_folder
from ebft.output.visible import markdown as inline
from ebft.output.visible import spreadsheet, visible

LATEX = {letter: f"\\{letter}" for letter in "_%#&${}"} | {
    "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "–": "--",
}  # fmt: skip


def write(compared: Compared, directory: Path) -> list[Path]:
    """comparison.md, .csv, .tex, .json and, last, the page; plots in `plots/`."""
    make_folder(directory / "plots")
    several = len(compared.tables) > 1
    plots = [
        figures.draw(directory / "plots", table, f"{number}_{_slug(table.title)}_" if several else "")
        for number, table in enumerate(compared.tables)
    ]
    texts = {
        "comparison.md": markdown(compared),
        "comparison.csv": comma_separated(compared),
        "comparison.tex": latex(compared),
        "comparison.json": json.dumps(as_json(compared), indent=1, allow_nan=False) + "\n",
        "comparison.html": html(compared, plots, directory),
    }
    for name, text in texts.items():
        atomic_write_text(directory / name, text)
    return [directory / name for name in texts]


def _slug(title: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in title)


def text(compared: Compared) -> str:
    """The comparison as text for a terminal."""
    parts = []
    for table in compared.tables:
        parts.append("\n".join([_heading(compared, table), *sentences(table)]))
        parts.append("\n".join([*_plain(layout.measured(table)), *layout.notes(table)]))
        if (gaps := layout.differences(table)).rows:
            seen = layout.detectable(table)
            head = f"Difference to {table.reference}, * told apart from 0 after Holm's correction"
            parts.append("\n".join([head, *_plain(gaps), *([seen] if seen else [])]))
    lost = layout.missing(compared)
    return "\n\n".join([*parts, *(["\n".join(["Not done:", *(f"  {line}" for line in lost)])] if lost else [])])


def _heading(compared: Compared, table: Table) -> str:
    return f"{compared.name}: {table.title}" if table.title else compared.name


def _plain(grid: Grid) -> list[str]:
    return aligned(
        [
            list(grid.header),
            *([entry.whole + ("*" if entry.kind else "") for entry in row] for row in grid.rows),
        ]
    )


def markdown(compared: Compared) -> str:
    parts = [f"# {inline(compared.name)}", layout.LEGEND.replace("Marked as best", "**Bold**")]
    for table in compared.tables:
        parts += [
            f"## {inline(table.title or compared.name)}",
            *(["\n".join(f"- {inline(line)}" for line in found)] if (found := sentences(table)) else []),
            _markdown(layout.measured(table)),
            *map(inline, layout.notes(table)),
        ]
        if (gaps := layout.differences(table)).rows:
            parts += [
                f"Difference to {inline(table.reference)}, in pairs of one seed and row; **bold** where it is told "
                "apart from 0 after Holm's correction over the cells:",
                _markdown(gaps),
                *([seen] if (seen := layout.detectable(table)) else []),
            ]
        if (equal := layout.equal_points(table)).rows:
            parts += [f"{inline(layout.equal_point_title(table))}:", _markdown(equal)]
    if compared.reported_source:
        parts.append(f"Reported figures, which were not measured here: {inline(compared.reported_source)}")
    if lost := layout.missing(compared):
        parts += ["## Not done", "\n".join(f"- {inline(line)}" for line in lost)]
    return "\n\n".join(parts) + "\n"


def _markdown(grid: Grid) -> str:
    lines = [
        list(grid.header),
        ["---"] * len(grid.header),
        *([_bold(entry, "**{}**") for entry in row] for row in grid.rows),
    ]
    return "\n".join(f"| {' | '.join(map(inline, line))} |" for line in lines)


def _bold(entry: Entry, form: str) -> str:
    return form.format(entry.whole) if entry.kind else entry.whole


def latex(compared: Compared) -> str:
    """Tabulars for \\input, with the rest as comments; they need the package booktabs."""
    parts = [_comment(f"{compared.name}: {layout.LEGEND}")]
    for table in compared.tables:
        parts += [
            _comment(table.title),
            *map(_comment, sentences(table)),
            _latex(layout.measured(table)),
            *map(_comment, layout.notes(table)),
        ]
        if (gaps := layout.differences(table)).rows:
            parts += [_comment(f"{table.title}: difference to {table.reference}"), _latex(gaps)]
    if compared.reported_source:
        parts.append(_comment(f"Reported: {compared.reported_source}"))
    return "\n".join([*parts, *(_comment(f"Not done: {line}") for line in layout.missing(compared))]) + "\n"


def _comment(plain: str) -> str:
    return f"% {' '.join(visible(plain).split())}"


def _latex(grid: Grid) -> str:
    from pandas import DataFrame

    rows = [[_bold(Entry(_escaped(entry.whole), entry.kind), r"\textbf{{{}}}") for entry in row] for row in grid.rows]
    table = DataFrame(rows, columns=[_escaped(name) for name in grid.header])
    return table.to_latex(index=False, escape=False, column_format="l" + "r" * (len(grid.header) - 1)).strip()


def _escaped(plain: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in visible(plain))


def comma_separated(compared: Compared) -> str:
    """One row for every cell and metric, with full precision."""
    from pandas import DataFrame

    rows = [
        {name: spreadsheet(value) if isinstance(value, str) else value for name, value in row.items()}
        for row in layout.long_rows(compared)
    ]
    table = DataFrame(rows, columns=layout.COLUMNS, dtype=object)  # whole numbers stay whole
    return table.to_csv(index=False, lineterminator="\n")


def summary_rows(compared: Compared) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows of a table for a tracker, with None for what a row lacks."""
    rows = [{name: row.get(name) for name in layout.COLUMNS} for row in layout.long_rows(compared)]
    return list(layout.COLUMNS), rows


def as_json(compared: Compared) -> dict[str, Any]:
    """Everything, with the figures of each run."""
    tables = []
    for table in compared.tables:
        rows = []
        for row in table.rows:
            runs = [
                {
                    "folder": outcome.plan.folder,
                    "seed": outcome.seed,
                    "tokens_forwarded": outcome.tokens,
                    "train_seconds": outcome.seconds,
                    "final": {metric: outcome.final[metric] for metric in table.metrics if metric in outcome.final},
                }
                for outcome in row.outcomes
            ]
            cell = {
                "cell": row.name,
                "planned": row.planned,
                "figures": {metric: asdict(figure) for metric, figure in row.figures.items()},
            }
            rows.append({**cell, "tokens": _or_none(row.tokens), "seconds": _or_none(row.seconds), "runs": runs})
        tables.append(
            {
                "title": table.title,
                "metrics": list(table.metrics),
                "reference": table.reference,
                "verdicts": sentences(table),
                "notes": layout.notes(table),
                "rows": rows,
            }
        )
    lost = [
        {"cell": cell, "seed": plan.seed, "folder": plan.folder, "note": plan.note} for cell, plan in compared.missing
    ]
    return {"name": compared.name, "tables": tables, "missing": lost, "reported_source": compared.reported_source}


def _or_none(estimate: Any) -> dict[str, Any] | None:
    return None if estimate is None else asdict(estimate)
