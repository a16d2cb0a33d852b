"""A real sweep in miniature through the command line: killed twice, it ends as one that nothing disturbed."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.debug_run import MINIATURE, write_rows
from tests.forked import children
from tests.sweep.helpers import ROOT, is_alive, until

PATIENCE_SECONDS = 300.0  # real runs, perhaps on a busy machine
STEPS = 10  # enough for a busy machine to hit a run before its end
COMMAND = [
    *("method=sft,ebft", "seed=0", "launcher.slots_per_device=1", "launcher.threads=1"),
    *(*MINIATURE, f"trainer.max_steps={STEPS}", f"eval.every_steps={STEPS}", "trainer.checkpoint_every_steps=1"),
]
ROWS = [(0, "eval"), *((step, "train") for step in range(1, STEPS + 1)), (STEPS, "eval")]


def start(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ebft.cli.sweep", f"sweep.dir={folder}", *overrides]
    variables = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=variables
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, out
    return out


def runs(folder: Path) -> dict[str, Path]:
    """Method -> the run's folder."""
    stored = json.loads((folder / "sweep.json").read_text())["runs"]
    return {" ".join(run["keys"].values()): folder / "runs" / run["name"] for run in stored}


def saved(run: Path) -> bool:
    return any((run / "checkpoints").glob("step_*/state.pt"))


def processes(sweep: subprocess.Popen[str]) -> dict[str, int]:
    """Name of a run -> the process that computes it."""
    found: dict[str, int] = {}
    for pid in children(sweep.pid):
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        except FileNotFoundError:  # it has ended since
            continue
        found |= {
            Path(argument.strip('"')).name: pid for argument in arguments if argument.startswith("hydra.run.dir=")
        }
    return found


def rows(run: Path) -> list[tuple[int, str]]:
    """Step and kind of each row of the metrics."""
    parsed = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], "eval" if "eval/cross_entropy" in row else "train") for row in parsed]


def table(folder: Path) -> list[dict[str, str]]:
    """The comparison's figures, but for those of the clock."""
    with (folder / "comparison.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["metric"] != "cost/seconds"]


def timeless(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: timeless(value) for key, value in node.items() if "seconds" not in key}
    return [timeless(item) for item in node] if isinstance(node, list) else node


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_sweep_that_is_killed_and_whose_run_is_killed_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    straight, disturbed = tmp_path / "straight", tmp_path / "disturbed"
    command = [*COMMAND, f"data.path={write_rows(tmp_path / 'rows.jsonl', count=40)}"]
    finish(start(straight, *command))

    sweep = start(disturbed, *command)
    until(
        lambda: (disturbed / "sweep.json").exists() and any(saved(run) for run in runs(disturbed).values()),
        PATIENCE_SECONDS,
    )
    orphans = processes(sweep)
    sweep.send_signal(signal.SIGKILL)
    sweep.communicate()
    assert list(orphans) == [runs(disturbed)["sft"].name]
    last = runs(disturbed)["ebft"]
    assert not last.exists()

    sweep = start(disturbed, *command)
    until(lambda: saved(last) and last.name in processes(sweep), PATIENCE_SECONDS)
    os.kill(processes(sweep)[last.name], signal.SIGKILL)
    out = finish(sweep)
    assert f"again     {last.name}  method=ebft: killed by SIGKILL; going on from its checkpoint" in out
    assert "Resumed at step " in (last / "train.log").read_text()
    assert not any(is_alive(pid) for pid in orphans.values())

    expected, found = runs(straight), runs(disturbed)
    assert list(found) == list(expected) == ["sft", "ebft"]
    assert [run.name for run in found.values()] == [run.name for run in expected.values()]
    assert sorted(path.name for path in (disturbed / "runs").iterdir()) == sorted(run.name for run in expected.values())
    for name, run in found.items():
        assert rows(run) == rows(expected[name]) == ROWS, name
        summary, undisturbed = (json.loads((folder / "summary.json").read_text()) for folder in (run, expected[name]))
        for key in ("status", "steps", "tokens_forwarded", "base", "final", "change"):
            assert summary[key] == undisturbed[key], (name, key)
        assert (summary["status"], summary["steps"]) == ("completed", STEPS)
    assert len({json.dumps(json.loads((run / "summary.json").read_text())["final"]) for run in found.values()}) == 2
    assert table(disturbed) == table(straight)
    assert {row["cell"] for row in table(straight)} == {"base", "sft", "ebft"}
    assert timeless(json.loads((disturbed / "comparison.json").read_text())) == timeless(
        json.loads((straight / "comparison.json").read_text())
    )
    status = finish(start(disturbed, "mode=status"))
    assert status.splitlines()[-1] == f"2 runs in {disturbed}: 2 done"
