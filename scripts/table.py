"""Base against final for finished runs, averaged over seeds, as a Markdown table.

    ebft-train --multirun method=sft,ebft seed=0,1,2 hydra.sweep.dir=outputs/defaults
    python scripts/table.py outputs/defaults
    python scripts/table.py outputs/selection --by method.name optimizer.lr
    python scripts/table.py outputs/tasks --by data.source --across method.name

Runs are grouped by the keys of their configuration that `--by` names. `change` is the mean over seeds of final minus base on the same held-out
rows and draws; the first error is the standard deviation of that over seeds, the second the mean of the runs' own standard errors over rows.
With `--across KEY` a row is a metric and every value of the key gets a column: final value, change, and the 95 % interval of the change over seeds
(Student's t over the runs' paired changes).
"""

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

METRICS = ["eval/cross_entropy", *(f"eval/feature_matching_loss@{length}" for length in (1, 4, 8, 32)), "eval/whitened_feature_reward"]
T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}  # Student's t by number of seeds
HEADER = "| runs | metric | base | final | change | over seeds | over rows |\n| --- | --- | --- | --- | --- | --- | --- |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="searched for run folders")
    parser.add_argument("--metrics", nargs="+", default=METRICS)
    parser.add_argument("--by", nargs="+", default=["method.name"], metavar="KEY", help="keys whose values tell one row from another")
    parser.add_argument("--across", metavar="KEY", help="the key whose values get columns, next to the base")
    arguments = parser.parse_args()
    runs = read_runs(arguments.folder, arguments.by if arguments.across is None else [*arguments.by, arguments.across])
    if not runs:
        parser.error(f"{arguments.folder} holds no completed run.")
    if unknown := [metric for metric in arguments.metrics if not any(metric in run["change"] for group in runs.values() for run in group)]:
        parser.error(f"No run has {', '.join(unknown)}; name others with --metrics.")
    if arguments.across is not None:
        print("\n".join(side_by_side(runs, arguments.metrics)))
        return
    print(HEADER)
    for label, summaries in runs.items():
        for metric in measured(arguments.metrics, summaries):
            print(row(label, metric, summaries))


def measured(metrics: list[str], summaries: list[dict[str, Any]]) -> list[str]:
    """Those that every run has."""
    return [metric for metric in metrics if all(metric in summary["change"] for summary in summaries)]


def side_by_side(runs: dict[tuple[str, ...], list[dict[str, Any]]], metrics: list[str]) -> list[str]:
    """The lines of a table with a column for every value of the last key. Exits with a sentence if runs of a row differ in their base."""
    labels, columns = dict.fromkeys(label[:-1] for label in runs), sorted({label[-1] for label in runs})
    lines = [f"| runs | metric | base | {' | '.join(columns)} |", "| --- " * (3 + len(columns)) + "|"]
    for label in labels:
        cells = {column: runs.get((*label, column), []) for column in columns}
        for metric in measured(metrics, [summary for summaries in cells.values() for summary in summaries]):
            bases = sorted({f"{summary['base'][metric]:.4f}" for summaries in cells.values() for summary in summaries})
            if len(bases) > 1:
                raise SystemExit(f"Runs of {' '.join(label)} start from {metric} {', '.join(bases)}; compare runs of one base and one evaluation.")
            lines.append(f"| {' '.join(label)} | `{metric}` | {bases[0]} | {' | '.join(cell(metric, cells[column]) for column in columns)} |")
    return lines


def cell(metric: str, summaries: list[dict[str, Any]]) -> str:
    if not summaries:
        return "-"
    if len(summaries) > max(T_975):
        raise SystemExit(
            f"A cell holds {len(summaries)} runs, above the {max(T_975)} that the table of Student's t goes to; tell them apart with --by."
        )
    final = statistics.mean(summary["final"][metric] for summary in summaries)
    changes = [summary["change"][metric] for summary in summaries]
    interval = f" ± {T_975[len(changes)] * statistics.stdev(changes) / len(changes) ** 0.5:.4f}" if len(changes) > 1 else ""
    return f"{final:.4f} ({statistics.mean(changes):+.4f}{interval})"


def read_runs(folder: Path, keys: list[str]) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """Summaries of completed runs by the values of those keys."""
    runs = defaultdict(list)
    for path in sorted(folder.glob("**/summary.json")):
        summary = json.loads(path.read_text())
        if summary["status"] == "completed":
            config = yaml.safe_load((path.parent / "config.yaml").read_text())
            runs[tuple(value_of(config, key) for key in keys)].append(summary)
    return dict(sorted(runs.items()))


def value_of(config: dict[str, Any], key: str) -> str:
    """As `lr=0.0001`, the name of a method alone; empty where this configuration has no such key."""
    group, name = key.split(".")
    if name not in config[group]:
        return ""
    return str(config[group][name]) if name in ("name", "source") else f"{name}={config[group][name]}"


def row(label: tuple[str, ...], metric: str, summaries: list[dict[str, Any]]) -> str:
    def mean(part: str, name: str) -> float:
        return statistics.mean(summary[part][name] for summary in summaries)

    changes = [summary["change"][metric] for summary in summaries]
    spread = f"{statistics.stdev(changes):.4f}" if len(changes) > 1 else "-"
    return (
        f"| {' '.join(label)} (n = {len(summaries)}) | `{metric}` | {mean('base', metric):.4f} | {mean('final', metric):.4f} "
        f"| {statistics.mean(changes):+.4f} | {spread} | {mean('change', f'{metric}_stderr'):.4f} |"
    )


if __name__ == "__main__":
    main()
