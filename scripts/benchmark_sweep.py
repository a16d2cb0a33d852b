"""What ebft-sweep costs beside its runs: planning many, comparing many, and one more process for each.

    python scripts/benchmark_sweep.py                  # 1,000 runs; seconds of whole processes, their start included

The folders that are compared are copies of one real run with other seeds and rates; the runs beside which a sweep is
timed are those of `+experiment=smoke`, three alone and three in a sweep.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from ebft.comparison.runs import CONFIG, METRICS, SUMMARY

SEEDS = 10  # of a cell
SMOKE = ("+experiment=smoke", "method=sft")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help=f"a multiple of {SEEDS}")
    number = parser.parse_args().runs
    if number < SEEDS or number % SEEDS:
        parser.error(f"--runs must be a multiple of {SEEDS}.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        single = (
            sum(seconds("train", *SMOKE, f"seed={seed}", f"hydra.run.dir={folder}/single{seed}") for seed in range(3))
            / 3
        )
        swept = seconds("sweep", *SMOKE, "seed=0,1,2", f"sweep.dir={folder}/swept") / 3
        copy(folder / "alone0", folder / "many", number)
        rates = ",".join(str(place + 1) for place in range(number // SEEDS))
        planning = (
            "method=sft",
            f"optimizer.lr={rates}",
            f"seed=range({SEEDS})",
            "mode=plan",
            f"sweep.dir={folder}/planned",
        )
        print(f"import torch           {timed([sys.executable, '-c', 'import torch']):6.2f} s")
        print(f"a run alone            {single:6.2f} s")
        print(f"a run of a sweep of 3  {swept:6.2f} s, {swept - single:.2f} s beside itself")
        print(f"planning {number:5,}         {seconds('sweep', *planning):6.2f} s")
        print(f"comparing {number:5,}        {seconds('sweep', 'mode=collect', f'sweep.dir={folder}/many'):6.2f} s")


def seconds(command: str, *arguments: str) -> float:
    return timed([sys.executable, "-m", f"ebft.cli.{command}", *arguments])


def timed(command: list[str]) -> float:
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - started


def copy(run: Path, target: Path, number: int) -> None:
    config, summary = yaml.safe_load((run / CONFIG).read_text()), json.loads((run / SUMMARY).read_text())
    for place in range(number):
        folder = target / f"{place:05d}"
        folder.mkdir(parents=True)
        config["seed"], config["optimizer"]["lr"] = place % SEEDS, 1.0 + place // SEEDS
        summary["final"]["eval/cross_entropy"] += 1e-4
        (folder / CONFIG).write_text(yaml.safe_dump(config))
        (folder / SUMMARY).write_text(json.dumps(summary))
        (folder / METRICS).write_bytes((run / METRICS).read_bytes())


if __name__ == "__main__":
    main()
