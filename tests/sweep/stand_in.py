"""Stands in for `ebft-train` where a test is about the sweep: counts steps, saves each, obeys signals, and keeps a
diary of what it did.

    python -m tests.sweep.stand_in KEY=VALUE ... hydra.run.dir="FOLDER"

The overrides are `steps`, `seconds` (of one), `start` and `slope` (of what is evaluated after each), and `fail`: how
many attempts fail at first. Where they must be ones of ebft-train, the environment variable FAILING names the override
whose runs fail once.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from ebft.cli.job import end_with_parent


def main() -> None:
    values = dict(argument.split("=", 1) for argument in sys.argv[1:])
    folder = Path(values["hydra.run.dir"].strip('"'))
    folder.mkdir(parents=True, exist_ok=True)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    saved = folder / "saved"
    step = int(saved.read_text()) if saved.exists() else 0
    note(folder, f"start {step}")
    if attempts(folder) <= int(values.get("fail", os.environ.get("FAILING") in sys.argv)):
        print("optimizer.lr=-1 must be above 0.", file=sys.stderr)
        sys.exit(2)
    while step < int(values.get("steps", 4)) and not stopped:
        time.sleep(float(values.get("seconds", 0.05)))
        step += 1
        evaluate(folder, step, float(values.get("start", 0)) + step * float(values.get("slope", 0)))
        partial = saved.with_suffix(".partial")
        partial.write_text(str(step))
        partial.rename(saved)
    status = "completed" if step == int(values.get("steps", 4)) else "interrupted"
    note(folder, status)
    (folder / "summary.json").write_text(
        json.dumps({"status": status, "steps": step, "final": {"eval/cross_entropy": float(values.get("start", 0))}})
    )
    if status == "interrupted":
        sys.exit(130)


def note(folder: Path, text: str) -> None:
    """Appends are atomic, so the processes of a sweep can share a diary."""
    with (folder.parents[1] / "diary").open("a") as diary:
        diary.write(f"{folder.name} {os.getpid()} {text}\n")


def attempts(folder: Path) -> int:
    return sum(
        line.split()[0] == folder.name and "start" in line
        for line in (folder.parents[1] / "diary").read_text().splitlines()
    )


def evaluate(folder: Path, step: int, value: float) -> None:
    rows = [row for row in read(folder) if row["step"] < step]
    text = "".join(json.dumps(row) + "\n" for row in [*rows, {"step": step, "eval/cross_entropy": value}])
    partial = folder / "metrics.partial"
    partial.write_text(text)
    partial.rename(folder / "metrics.jsonl")


def read(folder: Path) -> list[dict[str, float]]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    end_with_parent()
    main()
