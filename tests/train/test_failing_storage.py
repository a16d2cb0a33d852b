"""A run on real storage that fails: it names the first file, and goes on identically once that is put right."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train import failing_storage

ROOT = Path(__file__).parents[2]
SAID = {
    "fills": r"^The disk is full: {run}/\S+ could not be written; free some space and run again with resume=auto\.$",
    "turns read-only": r"^{run}/metrics\.jsonl could not be written \(Read-only file system\); put that right and run ",
    "disappears": r"^{run}/metrics\.jsonl could not be written \(No such file or directory\); put that right and run ",
}


@pytest.mark.slow
def test_a_disk_that_fills_turns_read_only_or_disappears(tmp_path: Path) -> None:
    """On a read-only one the lock's file, which could not be removed either, was once what the user heard of."""
    command = [sys.executable, "-m", "tests.train.failing_storage", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=300)
    if done.returncode == failing_storage.NO_MOUNTS:
        pytest.skip("this machine lets nobody mount")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said.keys() == failing_storage.FAULTS.keys()
    for name, pattern in SAID.items():
        assert re.search(pattern.format(run=tmp_path / name.replace(" ", "_") / "run"), said[name]), said[name]
