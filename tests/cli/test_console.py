"""A whole run whose console nobody reads, or whose disk is full, goes on to its end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.debug_run import miniature, summary

ROOT = Path(__file__).parents[2]


def command(folder: Path) -> list[str]:
    """A run of one step in FOLDER/run."""
    miniature(folder, "method=sft", "trainer.max_steps=1", "eval.every_steps=1")
    overrides = json.loads((folder / "overrides.json").read_text())
    return [sys.executable, "-m", "ebft.cli.train", *overrides, f"hydra.run.dir={folder / 'run'}"]


@pytest.mark.slow
def test_a_run_goes_on_when_nobody_reads_what_it_says(tmp_path: Path) -> None:
    """As behind `| head -1`: it once died of the second line, with an empty reason."""
    with subprocess.Popen(
        command(tmp_path), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
    assert (process.returncode, summary(tmp_path / "run")["status"]) == (0, "completed")
    assert "Run completed after 1 steps" in (tmp_path / "run" / "train.log").read_text()


@pytest.mark.slow
def test_a_run_goes_on_when_the_disk_behind_its_console_is_full(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command(tmp_path), cwd=ROOT, stdout=full, stderr=full, check=False)
    assert (done.returncode, summary(tmp_path / "run")["status"]) == (0, "completed")
