"""Keeps what a comparison is made from beside a text, in one archive: configs, environments, summaries, evaluations,
scores by held-out row and why runs failed, without models and samples.

python scripts/keep_results.py outputs/sweeps/laptop_code_qa docs/results/laptop/code_qa
ebft-sweep mode=collect sweep.dir=docs/results/laptop/code_qa      # the same tables and plots again, from what was kept
"""

import argparse
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ebft.comparison.kept import ARCHIVE
from ebft.comparison.runs import CONFIG, METRICS, SUMMARY
from ebft.output import row_scores
from ebft.output.files import atomic_folder, read_rows
from ebft.run.admission import ENVIRONMENT
from ebft.sweep.jobs import MANIFEST
from ebft.sweep.state import RECORDS

ROWS = tuple(f"{row_scores.FOLDER}/{name}" for name in (row_scores.BASE, row_scores.LATEST))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="a folder of runs")
    parser.add_argument("target", type=Path, help="a folder, replaced where an earlier call made it")
    arguments = parser.parse_args()
    runs = sorted(path.parent for path in arguments.sweep.rglob(SUMMARY))
    if not runs:
        parser.error(f"{arguments.sweep} holds no finished run.")
    sweep, kept = arguments.sweep.resolve(), arguments.target.resolve()
    if sweep == kept or sweep in kept.parents or kept in sweep.parents:
        parser.error(f"{arguments.target} and {arguments.sweep} lie in one another; choose another target.")
    if kept.exists() and not (kept / ARCHIVE).is_file():
        parser.error(f"{arguments.target} exists and was not made by keep_results.py; choose another target.")
    arguments.target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(arguments.target) as target, zipfile.ZipFile(target / ARCHIVE, "w") as archive:
        for name, content in contents(arguments.sweep, runs):
            member = zipfile.ZipInfo(name)  # of 1980: the same runs give the same archive
            member.external_attr = 0o644 << 16
            archive.writestr(member, content, zipfile.ZIP_DEFLATED, compresslevel=9)
    print(f"{len(runs)} runs kept in {arguments.target / ARCHIVE}")


def contents(sweep: Path, runs: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Names below the sweep's folder and what is kept under them."""
    copied = [sweep / MANIFEST, *sorted((sweep / RECORDS).glob("*.json"))]
    copied += [run / name for run in runs for name in (CONFIG, ENVIRONMENT, SUMMARY, *ROWS)]
    for path in copied:
        if path.is_file():
            yield path.relative_to(sweep).as_posix(), path.read_bytes()
    for run in runs:
        evaluations = read_rows(run / METRICS, mentioning='"eval/')
        lines = "".join(json.dumps(row) + "\n" for row in evaluations)
        yield (run / METRICS).relative_to(sweep).as_posix(), lines.encode()


if __name__ == "__main__":
    main()
