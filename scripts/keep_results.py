"""Copies what a comparison is made from, to be kept beside a text: configs, environments, summaries, evaluations and
why runs failed, without models and samples.

python scripts/keep_results.py outputs/sweeps/laptop_code_qa docs/results/laptop/code_qa
ebft-sweep mode=collect sweep.dir=docs/results/laptop/code_qa      # the same tables and plots again, from what was kept
"""

import argparse
import json
import shutil
from pathlib import Path

from ebft.comparison.runs import CONFIG, METRICS, SUMMARY
from ebft.output.files import atomic_folder, read_rows
from ebft.run.folder import ENVIRONMENT
from ebft.sweep.jobs import MANIFEST
from ebft.sweep.state import RECORDS

KEPT = (CONFIG, ENVIRONMENT, SUMMARY)
MARK = "KEPT"  # in a folder that this script made and may replace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="a folder of runs")
    parser.add_argument("target", type=Path, help="replaced where an earlier call made it")
    arguments = parser.parse_args()
    runs = sorted(path.parent for path in arguments.sweep.rglob(SUMMARY))
    if not runs:
        parser.error(f"{arguments.sweep} holds no finished run.")
    sweep, kept = arguments.sweep.resolve(), arguments.target.resolve()
    if sweep == kept or sweep in kept.parents or kept in sweep.parents:
        parser.error(f"{arguments.target} and {arguments.sweep} lie in one another; choose another target.")
    if kept.exists() and not (kept / MARK).is_file():
        parser.error(f"{arguments.target} exists and was not made by keep_results.py; choose another target.")
    arguments.target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(arguments.target) as target:
        (target / MARK).write_text(
            "Made by scripts/keep_results.py, which replaces this folder as a whole.\n", encoding="utf-8"
        )
        if (arguments.sweep / MANIFEST).is_file():
            shutil.copy(arguments.sweep / MANIFEST, target)
        if (arguments.sweep / RECORDS).is_dir():
            shutil.copytree(arguments.sweep / RECORDS, target / RECORDS)
        for run in runs:
            keep(run, target / run.relative_to(arguments.sweep))
    print(f"{len(runs)} runs kept in {arguments.target}")


def keep(run: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for name in KEPT:
        if (run / name).is_file():
            shutil.copy(run / name, target)
    evaluations = read_rows(run / METRICS, mentioning='"eval/')
    (target / METRICS).write_text("".join(json.dumps(row) + "\n" for row in evaluations), encoding="utf-8")


if __name__ == "__main__":
    main()
