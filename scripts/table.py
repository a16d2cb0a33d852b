"""Base against final for finished runs, averaged over seeds, as a Markdown table.

    ebft-train --multirun method=sft,ebft seed=0,1,2 hydra.sweep.dir=outputs/defaults
    python scripts/table.py outputs/defaults
    python scripts/table.py outputs/selection --by method.name optimizer.lr

Runs are grouped by the keys of their configuration that `--by` names. `change` is the mean over seeds of final minus base on the same held-out
rows and draws; the first error is the standard deviation of that over seeds, the second the mean of the runs' own standard errors over rows.
"""

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

METRICS = ["eval/cross_entropy", *(f"eval/feature_matching_loss@{length}" for length in (1, 2, 8, 32)), "eval/whitened_feature_reward"]
HEADER = "| runs | metric | base | final | change | over seeds | over rows |\n| --- | --- | --- | --- | --- | --- | --- |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="searched for run folders")
    parser.add_argument("--metrics", nargs="+", default=METRICS)
    parser.add_argument("--by", nargs="+", default=["method.name"], metavar="KEY", help="keys whose values tell one row from another")
    arguments = parser.parse_args()
    runs = read_runs(arguments.folder, arguments.by)
    if not runs:
        parser.error(f"{arguments.folder} holds no completed run.")
    print(HEADER)
    for label, summaries in runs.items():
        for metric in arguments.metrics:
            print(row(label, metric, summaries))


def read_runs(folder: Path, keys: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Summaries of completed runs by the values of those keys."""
    runs = defaultdict(list)
    for path in sorted(folder.glob("**/summary.json")):
        summary = json.loads(path.read_text())
        if summary["status"] == "completed":
            config = yaml.safe_load((path.parent / "config.yaml").read_text())
            runs[" ".join(value_of(config, key) for key in keys)].append(summary)
    return dict(sorted(runs.items()))


def value_of(config: dict[str, Any], key: str) -> str:
    """As `lr=0.0001`, the name of a method alone; empty where this configuration has no such key."""
    group, name = key.split(".")
    if name not in config[group]:
        return ""
    return str(config[group][name]) if name == "name" else f"{name}={config[group][name]}"


def row(label: str, metric: str, summaries: list[dict[str, Any]]) -> str:
    def mean(part: str, name: str) -> float:
        return statistics.mean(summary[part][name] for summary in summaries)

    changes = [summary["change"][metric] for summary in summaries]
    spread = f"{statistics.stdev(changes):.4f}" if len(changes) > 1 else "-"
    return (
        f"| {label} (n = {len(summaries)}) | `{metric}` | {mean('base', metric):.4f} | {mean('final', metric):.4f} "
        f"| {statistics.mean(changes):+.4f} | {spread} | {mean('change', f'{metric}_stderr'):.4f} |"
    )


if __name__ == "__main__":
    main()
