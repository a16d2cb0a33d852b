"""`report.html`: a run on one page that needs nothing else, from the run folder and its summary."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ebft.output.console import clock
from ebft.output.files import atomic_write_text, make_folder, read_rows
from ebft.output.metric_names import meaning, short
from ebft.report import charts, last_table, plots
from ebft.report.html_parts import count, escape, facts, number, page, plot, quantity

COMPARISON_HEADER = ("metric", "base", "final", "change ± standard error")
NUM_ANSWERS = 12  # questions shown of the first and of the last step with answers
NUM_SAMPLES = 6  # contexts shown of the first and of the last step with samples
CONTEXT_CHARACTERS, CONTEXT_LINES = 400, 10  # the end of a context is what a rollout continues


def write(directory: Path, summary: Mapping[str, Any], plan: Mapping[str, str], with_pictures: bool = True) -> Path:
    """Writes `report.html`, and `plots/` unless the run goes on, from config.yaml, metrics.jsonl, samples.jsonl and the
    fields of summary.json; returns the page's path."""
    config_text = (directory / "config.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(config_text)
    rows = sorted(read_rows(directory / "metrics.jsonl"), key=lambda row: row["step"])
    length = config["sampler"]["generate_length"]
    drawn = plots.of_run(rows, summary["base"], summary["final"], length)
    if with_pictures:
        folder = make_folder(directory / "plots")
        for name, chart in drawn.items():
            charts.picture(chart, folder / f"{name}.png")
    text = page(
        "report.html",
        title=escape(f"{config['method']['name']} on {config['data']['source']}, from {config['model']['path']}"),
        folder=escape(directory.absolute().name),
        status=escape(summary["status"]),
        changes=_changes(summary, length),
        facts=_facts(summary),
        comparison=_comparison(summary, length),
        figures="\n".join(plot(name, charts.as_json(chart)) for name, chart in drawn.items()),
        samples=_samples(read_rows(directory / "samples.jsonl")),
        answers=_answers(read_rows(directory / "answers.jsonl")),
        plan=_named_values(plan.items()),
        config=escape(config_text),
    )
    atomic_write_text(directory / "report.html", text)
    return directory / "report.html"


def _changes(summary: Mapping[str, Any], trained_length: int) -> str:
    """Why a run failed, and what `changes` says."""
    failure = [("worse", summary["error"])] if "error" in summary else []
    lines = [*failure, *changes(summary, trained_length)]
    return "".join(f'<li class="{kind}">{escape(line)}</li>' for kind, line in lines)


def changes(summary: Mapping[str, Any], trained_length: int) -> list[tuple[str, str]]:
    """Kind (better, worse or none) and sentence of every main metric that changed beyond noise, better ones first; one
    sentence where none did, or where there is nothing to compare yet."""
    if not summary["change"] or summary["base"] == summary["final"]:
        return [("", "Nothing to compare with the model before training yet.")]
    found: list[tuple[str, str]] = []
    for metric in last_table.chosen(summary, trained_length):
        if not last_table.is_beyond_noise(metric, summary):
            continue
        change, error = (summary["change"][f"{metric}{suffix}"] for suffix in ("", "_stderr"))
        lower = last_table.lower(metric, summary)
        kind = "" if lower is None else "better" if (change < 0) == lower else "worse"
        ends = " to ".join(quantity(metric, summary[side][metric]) for side in ("base", "final"))
        spread = quantity(metric, change, last_table.NOISE * error, "+")
        word = f", {kind}" if kind else ""
        found.append((kind, f"{short(metric)} {'fell' if change < 0 else 'rose'} from {ends} ({spread}{word})"))
    found.sort(key=lambda each: ["better", "worse", ""].index(each[0]))
    return found or [("", "No main figure changed by more than 1.96 standard errors over held-out documents.")]


def comparison(summary: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Metric, base, final, and change with its standard error, from the summary. A dash stands for what was not
    measured."""
    names = [name for name in {**summary["base"], **summary["final"]} if not name.endswith("_stderr")]
    return [_compared(name, summary) for name in names]


def _compared(metric: str, summary: Mapping[str, Any]) -> tuple[str, str, str, str]:
    change, error = (summary["change"].get(f"{metric}{suffix}") for suffix in ("", "_stderr"))
    base, final = (quantity(metric, summary[side].get(metric)) for side in ("base", "final"))
    return metric, base, final, quantity(metric, change, error, "+")


def _facts(summary: Mapping[str, Any]) -> str:
    best = summary.get("best")
    kept = {} if best is None else {f"best {short(best['metric'])}": f"step {best['step']}"}
    return facts(
        {
            "steps": f"{summary['steps']:,}{last_table.evaluated(summary)}",
            "wall time": clock(summary["wall_seconds"]),
            "tokens forwarded": count(summary["tokens_forwarded"]),
            "peak memory": f"{summary['peak_memory_bytes'] / 2**30:.2f} GiB",
            **kept,
        }
    )


def _comparison(summary: Mapping[str, Any], trained_length: int) -> str:
    """The main figures, and all of them to be unfolded."""
    rows = comparison(summary)
    if not rows:
        return "<p>Nothing was evaluated.</p>"
    main = last_table.chosen(summary, trained_length)
    chosen = sorted((row for row in rows if row[0] in main), key=lambda row: main.index(row[0]))
    return (
        f"{_table(chosen, summary)}<details><summary>All {len(rows)} figures</summary>{_table(rows, summary)}</details>"
    )


def _table(rows: Sequence[tuple[str, ...]], summary: Mapping[str, Any]) -> str:
    header, rows = last_table.shown(COMPARISON_HEADER, summary, rows)
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{_metric_cell(row[0], summary)}{''.join(_value_cells(row, summary))}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table class="figures"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _metric_cell(metric: str, summary: Mapping[str, Any]) -> str:
    name = escape(short(metric) + last_table.ARROWS[last_table.lower(metric, summary)]).replace("_", "_<wbr>")
    return f"<td>{name}<small>{escape(meaning(metric))}</small></td>"


def _value_cells(row: tuple[str, ...], summary: Mapping[str, Any]) -> Iterator[str]:
    for place, text in enumerate(row[1:], start=2):
        is_marked = place == len(row) and last_table.is_beyond_noise(row[0], summary)
        yield f"<td{' class=beyond' if is_marked else ''}>{escape(text)}</td>"


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
    head = ("context (its end)", "reference", "rollouts and their rewards")
    return "".join(_texts(step, head, map(_sample, shown[:NUM_SAMPLES])) for step, shown in _first_and_last(rows))


def _answers(rows: Sequence[Mapping[str, Any]]) -> str:
    """Questions answered at the first and at the last step that has any; nothing for a run without questions."""
    if not rows:
        return ""
    head = ("prompt (its end)", "reference", "greedy answer", "verdict")
    shown = [_texts(step, head, map(_answer, own[:NUM_ANSWERS])) for step, own in _first_and_last(rows)]
    return "".join(["<h2>Answers</h2>", *shown])


def _first_and_last(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, list[Mapping[str, Any]]]]:
    for step in sorted({rows[0]["step"], rows[-1]["step"]}):
        yield step, [row for row in rows if row["step"] == step]


def _texts(step: int, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts, of which a narrow screen shows cell below cell, each with its column's name."""
    body = "".join(
        "<tr>" + "".join(f'<td data-name="{name}">{cell}</td>' for name, cell in zip(head, row, strict=True)) + "</tr>"
        for row in rows
    )
    names = "".join(f"<th>{name}</th>" for name in head)
    return (
        f'<h3>Step {step}</h3><div class="scroll"><table class="samples"><thead><tr>{names}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _answer(row: Mapping[str, Any]) -> list[str]:
    score = "" if row["score"] is None else f" ({number(row['score'])})"
    texts = [row["prompt"][-CONTEXT_CHARACTERS:], row["reference"], row["answer"], f"{row['verdict']}{score}"]
    return [_code(text) for text in texts]


def _sample(row: Mapping[str, Any]) -> list[str]:
    context = row["context"]
    shown = "\n".join(context[-CONTEXT_CHARACTERS:].split("\n")[-CONTEXT_LINES:])
    cut = "…" if len(shown) < len(context) else ""
    return [_code(cut + shown), _code(row["reference"]), _rollouts(row["rollouts"], row["reference"])]


def _rollouts(rollouts: Sequence[Mapping[str, Any]], reference: str) -> str:
    """Each with its reward; one line where all of them equal the reference, from which no reward tells them apart."""
    if rollouts and all(rollout["text"] == reference for rollout in rollouts):
        who = "the rollout" if len(rollouts) == 1 else f"each of {len(rollouts)} rollouts"
        return f'<p class="note">{who} follows the reference</p>'
    return "".join(
        f'<div class="rollout"><span class="reward">{rollout["reward"]:z.4f}</span>{_code(rollout["text"])}</div>'
        for rollout in rollouts
    )


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"
