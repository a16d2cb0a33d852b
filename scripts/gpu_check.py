"""Everything of this program that runs on a GPU, tried and measured in one go.

    python scripts/gpu_check.py --minutes 8 --out outputs/gpu            # stages in order of worth, as far as they fit
    python scripts/gpu_check.py --stages tests,step --out outputs/gpu    # these alone
    python scripts/gpu_check.py --device cpu --out outputs/gpu           # a rehearsal in small shapes
    python scripts/gpu_check.py --tables outputs/gpu                     # the tables of what was found, in Markdown

Every stage is a process of its own with a limit of time. It writes what it finds to OUT/STAGE.json as it finds it and
what it says to OUT/STAGE.log; one that fails or is cut off stops no other, and its decisive lines are printed. Exit
status 1 if any failed. docs/gpu.md says what the stages are, and how to bring this to a machine without a network.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parent
# in order of worth, with the seconds that each may take on a GPU
STAGES = {
    "machine": 40,
    "tests": 120,
    "parity": 90,
    "step": 150,
    "steady": 75,
    "held": 90,
    "real": 150,
    "pieces": 100,
    "lengths": 120,
    "shapes": 90,
}
LEAST_SECONDS = 15  # a stage that has less left is not begun
DECISIVE = re.compile(r"Error|error:|FAILED|assert|exit status|refused|out of memory", re.IGNORECASE)
SHOWN = 25  # lines of a stage that failed


def main() -> None:
    arguments = parse()
    if arguments.run is not None:
        run_here(arguments)
    elif arguments.tables is not None:
        from gpu_tables import tables

        print(tables(found_in(arguments.tables)), end="")
    else:
        sys.exit(run_all(arguments))


def run_all(arguments: argparse.Namespace) -> int:
    """The exit status."""
    out, started, failed = arguments.out.resolve(), time.monotonic(), []
    out.mkdir(parents=True, exist_ok=True)
    print(
        f"Stages {', '.join(arguments.stages)} in at most {arguments.minutes:g} minutes; results in {out}", flush=True
    )
    for stage in arguments.stages:
        left = 60 * arguments.minutes - (time.monotonic() - started)
        if left < LEAST_SECONDS:
            print(f"{stage:8}  skipped: {max(left, 0):.0f} s are left", flush=True)
            continue
        seconds = min(left, STAGES[stage]) if arguments.device == "cuda" else left
        before = time.monotonic()
        outcome = run_one(stage, arguments.device, seconds, out, arguments.only)
        print(f"{stage:8}  {outcome}, {time.monotonic() - before:.0f} s", flush=True)
        if outcome != "done":
            failed.append(stage)
            print(decisive(out / f"{stage}.log"), flush=True)
    print(f"Failed: {', '.join(failed)}" if failed else "Every stage that ran is done.", flush=True)
    return 1 if failed else 0


def run_one(stage: str, device: str, seconds: float, out: Path, only: str) -> str:
    """How it went: done, failed, or cut off with all the processes that it started."""
    with open(out / f"{stage}.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command_of(stage, device, out, only), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"cut off after {seconds:.0f} s"
    return "done" if status == 0 else f"failed with exit status {status}"


def command_of(stage: str, device: str, out: Path, only: str) -> list[str]:
    return [sys.executable, __file__, "--run", stage, "--device", device, "--out", str(out), "--only", only]


def decisive(log: Path) -> str:
    """The lines that say what went wrong, and the last ones."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    telling = [line for line in lines[:-8] if DECISIVE.search(line)]
    return "\n".join(f"    {line[:300]}" for line in [*telling[-SHOWN:], *lines[-8:]])


def run_here(arguments: argparse.Namespace) -> None:
    """One stage, in this process."""
    root = str(SCRIPTS.parent)
    if root not in sys.path:  # tests share their models and geometries
        sys.path.insert(0, root)
    from gpu_stages import STAGES as FUNCTIONS
    from gpu_stages import Place, Record

    FUNCTIONS[arguments.run](
        Record(arguments.out / f"{arguments.run}.json"),
        Place(arguments.device, small=arguments.device == "cpu", only=arguments.only),
    )


def found_in(folder: Path) -> dict[str, Any]:
    """What every stage recorded."""
    return {
        stage: json.loads(file.read_text(encoding="utf-8"))
        for stage in STAGES
        if (file := folder / f"{stage}.json").exists()
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", default=",".join(STAGES), metavar="A,B", help=f"of {', '.join(STAGES)}")
    parser.add_argument("--minutes", type=float, default=20.0, help="that all stages may take together")
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"), help="the folder for what is found")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal in small shapes")
    parser.add_argument("--only", default="", metavar="EXPR", help="of the tests, those that match, as pytest's -k")
    parser.add_argument("--tables", type=Path, metavar="DIR", help="print the tables of what was found there")
    parser.add_argument("--run", choices=list(STAGES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.stages = [stage for stage in arguments.stages.split(",") if stage]
    unknown = [stage for stage in arguments.stages if stage not in STAGES]
    if unknown:
        parser.error(f"--stages {unknown[0]} is not known; choose from {', '.join(STAGES)}.")
    if arguments.minutes <= 0:
        parser.error(f"--minutes {arguments.minutes:g} must be above 0.")
    if arguments.tables is not None and not found_in(arguments.tables):
        parser.error(f"--tables {arguments.tables} holds no results; name the --out folder of a run.")
    return arguments


if __name__ == "__main__":
    main()
