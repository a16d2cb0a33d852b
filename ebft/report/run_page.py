"""`report.html`: a run on one page that needs nothing else, from the run folder and its summary."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ebft.output.console import clock
from ebft.output.files import atomic_write_text, make_folder, read_rows
from ebft.report import last_table, plots
from ebft.report.html_parts import count, escape, facts, number, page, plot

COMPARISON_HEADER = ("metric", "base", "final", "change", "its standard error")
NUM_ANSWERS = 12  # questions shown of the first and of the last step with answers
NUM_SAMPLES = 6  # contexts shown of the first and of the last step with samples
CONTEXT_CHARACTERS, CONTEXT_LINES = 400, 10  # the end of a context is what a rollout continues


def write(directory: Path, summary: Mapping[str, Any], plan: Mapping[str, str]) -> Path:
    """Writes `plots/` and `report.html` from config.yaml, metrics.jsonl, samples.jsonl and the fields of summary.json;
    returns the page's path."""
    config_text = (directory / "config.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(config_text)
    rows = sorted(read_rows(directory / "metrics.jsonl"), key=lambda row: row["step"])
    figures = plots.write(
        make_folder(directory / "plots"), rows, summary["base"], summary["final"], config["sampler"]["generate_length"]
    )
    text = page(
        "report.html",
        title=escape(f"{config['method']['name']} on {config['data']['source']}, from {config['model']['path']}"),
        folder=escape(directory.absolute().name),
        status=escape(summary["status"]),
        facts=_facts(summary),
        comparison=_comparison_table(summary),
        figures="\n".join(plot(name, svg) for name, svg in figures.items()),
        samples=_samples(read_rows(directory / "samples.jsonl")),
        answers=_answers(read_rows(directory / "answers.jsonl")),
        plan=_named_values(plan.items()),
        config=escape(config_text),
    )
    atomic_write_text(directory / "report.html", text)
    return directory / "report.html"


def comparison(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of COMPARISON_HEADER from the summary's base, final and change. A dash stands for what was not measured."""
    base, final, change = summary["base"], summary["final"], summary["change"]
    names = [name for name in {**base, **final} if not name.endswith("_stderr")]
    return [
        (
            name.removeprefix("eval/"),
            number(base.get(name)),
            number(final.get(name)),
            number(change.get(name), "+"),
            number(change.get(f"{name}_stderr")),
        )
        for name in names
    ]


def _facts(summary: Mapping[str, Any]) -> str:
    return facts(
        {
            "steps": f"{summary['steps']:,}{last_table.evaluated(summary)}",
            "wall time": clock(summary["wall_seconds"]),
            "tokens forwarded": count(summary["tokens_forwarded"]),
            "peak memory": f"{summary['peak_memory_bytes'] / 2**30:.2f} GiB",
        }
    )


def _comparison_table(summary: Mapping[str, Any]) -> str:
    rows = comparison(summary)
    if not rows:
        return "<p>Nothing was evaluated.</p>"
    header, rows = last_table.shown(COMPARISON_HEADER, summary, rows)
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table class="figures"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _named_values(pairs: Iterable[tuple[str, str]]) -> str:
    return (
        '<table class="plan">'
        + "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in pairs)
        + "</table>"
    )


def _samples(rows: Sequence[Mapping[str, Any]]) -> str:
    """The samples of the first and of the last step that has any."""
    if not rows:
        return "<p>This run has no samples.</p>"
    parts = []
    for step in sorted({rows[0]["step"], rows[-1]["step"]}):
        shown = [row for row in rows if row["step"] == step][:NUM_SAMPLES]
        parts.append(
            f"<h3>Step {step}</h3>"
            '<table class="samples"><thead><tr><th>context (its end)</th><th>reference</th>'
            "<th>rollouts and their rewards</th></tr></thead>"
            f"<tbody>{''.join(map(_sample, shown))}</tbody></table>"
        )
    return "".join(parts)


def _answers(rows: Sequence[Mapping[str, Any]]) -> str:
    """Questions answered at the first and at the last step that has any; nothing for a run without questions."""
    if not rows:
        return ""
    parts = ["<h2>Answers</h2>"]
    head = "".join(f"<th>{name}</th>" for name in ("prompt (its end)", "reference", "greedy answer", "verdict"))
    for step in sorted({rows[0]["step"], rows[-1]["step"]}):
        shown = [row for row in rows if row["step"] == step][:NUM_ANSWERS]
        body = "".join(f"<tr>{''.join(map(_cell, _answer_cells(row)))}</tr>" for row in shown)
        parts.append(
            f'<h3>Step {step}</h3><div class="scroll"><table class="samples">'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )
    return "".join(parts)


def _answer_cells(row: Mapping[str, Any]) -> list[str]:
    score = "" if row["score"] is None else f" ({number(row['score'])})"
    return [row["prompt"][-CONTEXT_CHARACTERS:], row["reference"], row["answer"], f"{row['verdict']}{score}"]


def _cell(text: str) -> str:
    return f"<td><code>{escape(text)}</code></td>"


def _sample(row: Mapping[str, Any]) -> str:
    context = row["context"]
    shown = "\n".join(context[-CONTEXT_CHARACTERS:].split("\n")[-CONTEXT_LINES:])
    cut = "…" if len(shown) < len(context) else ""
    rollouts = "".join(
        f'<div class="rollout"><span class="reward">{rollout["reward"]:z.4f}</span>'
        f"<code>{escape(rollout['text'])}</code></div>"
        for rollout in row["rollouts"]
    )
    reference = escape(row["reference"])
    return f"<tr><td><code>{cut}{escape(shown)}</code></td><td><code>{reference}</code></td><td>{rollouts}</td></tr>"
