"""`ebft-train` in this process, with a stand-in for the loop."""

import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ebft.cli import train as cli
from ebft.config.schema import TrainConfig
from ebft.parallel.world import SINGLE_PROCESS, World


@dataclass
class AttemptResult:
    code: int
    out: str
    err: str


class Launcher:
    """Runs the command line in an empty folder; `jobs` are the calls that reached the loop, `loop` is what they do."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.monkeypatch, self.capsys = folder, monkeypatch, capsys
        self.jobs: list[tuple[TrainConfig, Path]] = []
        self.loop: Callable[[TrainConfig, Path], None] = lambda config, run_dir: None
        module: Any = ModuleType("ebft.train.loop")
        module.train = self._train
        monkeypatch.setitem(sys.modules, "ebft.train.loop", module)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # main sets it; monkeypatch puts it back
        monkeypatch.chdir(folder)

    def _train(self, config: TrainConfig, run_dir: Path, world: World = SINGLE_PROCESS) -> str:
        self.jobs.append((config, run_dir))
        return self.loop(config, run_dir) or "completed"

    def __call__(self, *arguments: str) -> AttemptResult:
        self.monkeypatch.setattr(sys, "argv", ["ebft-train", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        return AttemptResult(code, *self.capsys.readouterr())

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*"))


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Launcher]:
    """The logging that a command sets up writes to this test's streams, and ends with it."""
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    yield Launcher(tmp_path, monkeypatch, capsys)
    root.handlers[:] = handlers
    root.setLevel(level)
