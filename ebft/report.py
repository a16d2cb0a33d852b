"""`report.html`: a run on one page that needs nothing else, from the run folder and its summary."""

import html
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import yaml

from ebft import plots
from ebft.console import clock
from ebft.files import atomic_write_text, read_rows

COMPARISON_HEADER = ("metric", "base", "final", "change", "its standard error")
NUM_ANSWERS = 12  # questions shown of the first and of the last step with answers
NUM_SAMPLES = 6  # contexts shown of the first and of the last step with samples
CONTEXT_CHARACTERS, CONTEXT_LINES = 400, 10  # the end of a context is what a rollout continues
_VISIBLE_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}  # HTML cannot hold control characters


def write(directory: Path, summary: Mapping[str, Any], plan: Mapping[str, str]) -> Path:
    """Writes `plots/` and `report.html` from config.yaml, metrics.jsonl, samples.jsonl and the fields of summary.json; returns the page's path."""
    config_text = (directory / "config.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(config_text)
    rows = sorted(read_rows(directory / "metrics.jsonl"), key=lambda row: row["step"])
    (directory / "plots").mkdir(exist_ok=True)
    figures = plots.write(directory / "plots", rows, summary["base"], summary["final"], config["sampler"]["generate_length"])
    page = _page().substitute(
        title=_text(f"{config['method']['name']} on {config['data']['source']}, from {config['model']['path']}"),
        folder=_text(directory.absolute().name),
        status=_text(summary["status"]),
        facts=_facts(summary),
        comparison=_comparison_table(summary),
        figures="\n".join(f'<figure class="plot" role="img" aria-label="{_text(name)}">{svg}</figure>' for name, svg in figures.items()),
        samples=_samples(read_rows(directory / "samples.jsonl")),
        answers=_answers(read_rows(directory / "answers.jsonl")),
        plan=_named_values(plan.items()),
        config=_text(config_text),
    )
    atomic_write_text(directory / "report.html", page)
    return directory / "report.html"


def comparison(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of COMPARISON_HEADER from the summary's base, final and change. A dash stands for what was not measured."""
    base, final, change = summary["base"], summary["final"], summary["change"]
    names = [name for name in {**base, **final} if not name.endswith("_stderr")]
    return [
        (
            name.removeprefix("eval/"),
            _figure(base.get(name)),
            _figure(final.get(name)),
            _figure(change.get(name), "+"),
            _figure(change.get(f"{name}_stderr")),
        )
        for name in names
    ]


def _figure(value: float | None, sign: str = "") -> str:
    if value is None:
        return "–"
    return f"{value:{sign}.4f}" if value == 0 or 5e-5 <= abs(value) < 1e5 else f"{value:{sign}.3g}"


def _page() -> Template:
    return Template(resources.files("ebft").joinpath("assets/report.html").read_text(encoding="utf-8"))


def _text(text: str) -> str:
    return html.escape(text.translate(_VISIBLE_CONTROLS))


def _facts(summary: Mapping[str, Any]) -> str:
    facts = {
        "steps": f"{summary['steps']:,}",
        "wall time": clock(summary["wall_seconds"]),
        "tokens forwarded": _count(summary["tokens_forwarded"]),
        "peak memory": f"{summary['peak_memory_bytes'] / 2**30:.2f} GiB",
    }
    return "".join(f"<div><b>{_text(value)}</b><span>{_text(name)}</span></div>" for name, value in facts.items())


def _count(number: int) -> str:
    """Three digits and a unit: 1234567 -> 1.23 M."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _comparison_table(summary: Mapping[str, Any]) -> str:
    rows = comparison(summary)
    if not rows:
        return "<p>Nothing was evaluated.</p>"
    head = "".join(f"<th>{_text(name)}</th>" for name in COMPARISON_HEADER)
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table class="figures"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _named_values(pairs: Iterable[tuple[str, str]]) -> str:
    return '<table class="plan">' + "".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in pairs) + "</table>"


def _samples(rows: Sequence[Mapping[str, Any]]) -> str:
    """The samples of the first and of the last step that has any."""
    if not rows:
        return "<p>This run has no samples.</p>"
    parts = []
    for step in sorted({rows[0]["step"], rows[-1]["step"]}):
        shown = [row for row in rows if row["step"] == step][:NUM_SAMPLES]
        parts.append(
            f"<h3>Step {step}</h3>"
            '<table class="samples"><thead><tr><th>context (its end)</th><th>reference</th><th>rollouts and their rewards</th></tr></thead>'
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
            f'<h3>Step {step}</h3><div class="scroll"><table class="samples"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        )
    return "".join(parts)


def _answer_cells(row: Mapping[str, Any]) -> list[str]:
    score = "" if row["score"] is None else f" ({_figure(row['score'])})"
    return [row["prompt"][-CONTEXT_CHARACTERS:], row["reference"], row["answer"], f"{row['verdict']}{score}"]


def _cell(text: str) -> str:
    return f"<td><code>{_text(text)}</code></td>"


def _sample(row: Mapping[str, Any]) -> str:
    context = row["context"]
    shown = "\n".join(context[-CONTEXT_CHARACTERS:].split("\n")[-CONTEXT_LINES:])
    cut = "…" if len(shown) < len(context) else ""
    rollouts = "".join(
        f'<div class="rollout"><span class="reward">{rollout["reward"]:z.4f}</span><code>{_text(rollout["text"])}</code></div>'
        for rollout in row["rollouts"]
    )
    return f"<tr><td><code>{cut}{_text(shown)}</code></td><td><code>{_text(row['reference'])}</code></td><td>{rollouts}</td></tr>"
