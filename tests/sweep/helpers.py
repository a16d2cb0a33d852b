"""Sweeps of stand-ins."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ebft.config.sweeps import GridConfig

ROOT = Path(__file__).parents[2]
GRID = GridConfig(
    name="test",
    dir="",
    grid=[],
    variants={},
    search="grid",
    num_trials=1,
    metric="eval/cross_entropy",
    early_stopping="none",
    early_stopping_after=1,
    retry_failed=False,
    max_restarts=2,
    reference=None,
    metrics=[],
    split=[],
    by=[],
    difference=None,
    reported={},
    reported_source=None,
)


def grid(**settings: Any) -> GridConfig:
    return replace(GRID, **settings)


PATIENCE_SECONDS = 60.0


def job(name: str, *overrides: str, variant: str = "", seed: int = 0, needs: str | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "variant": variant,
        "keys": {"seed": str(seed)},
        "seed": seed,
        "overrides": list(overrides),
        "needs": needs,
    }


def start(folder: Path, jobs: Sequence[dict[str, Any]], slots: int = 2, **settings: Any) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "tests.sweep.drive",
        str(folder),
        json.dumps({"jobs": list(jobs), "slots": slots, **settings}),
    ]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
    )


def sweep(folder: Path, jobs: Sequence[dict[str, Any]], slots: int = 2, **settings: Any) -> dict[str, tuple[str, str]]:
    """Runs to the end: name -> kind and note."""
    return finish(start(folder, jobs, slots, **settings))


def finish(process: subprocess.Popen[str], code: int = 0) -> dict[str, tuple[str, str]]:
    out, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == code, out
    return {name: (kind, note) for name, (kind, note) in json.loads(out.splitlines()[-1]).items()}


def diary(folder: Path) -> list[list[str]]:
    """Name, process id, and what it did: `start STEP`, `completed` or `interrupted`."""
    path = folder / "diary"
    return [line.split(maxsplit=2) for line in path.read_text().splitlines()] if path.exists() else []


def until(condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether it runs; one that waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def steps(folder: Path, name: str) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()]
