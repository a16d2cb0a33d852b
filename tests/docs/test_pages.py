"""Who copies what a page shows gets what it says: files and commands of its fences work, in order, in an empty folder,
and commands of its indented blocks compose."""

import logging
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

from ebft.cli import eval as eval_cli
from ebft.cli import export as export_cli
from ebft.cli import sweep as sweep_cli
from ebft.cli import train as train_cli
from ebft.cli.compose import compose
from ebft.cli.from_file import with_files
from ebft.cli.grid import Composer, cells
from ebft.cli.own import split_searchpath, with_config_dirs
from ebft.cli.planning import Planner
from ebft.cli.sweep_settings import settings
from ebft.config.methods import METHODS
from ebft.config.schema import UserError
from ebft.report import charts
from ebft.sweep import launchers
from ebft.sweep import state as states
from ebft.sweep.attempt import AttemptResult
from ebft.sweep.jobs import Job, folder
from ebft.train.loop import train
from tests.docs.pages import PAGES, ROOT, fences, ids, told

SMALL = [
    *("trainer.max_steps=1", "trainer.batch_size=2", "trainer.micro_batch_size=2", "trainer.device=cpu"),
    *("eval.num_documents=2", "eval.long_documents=2", "eval.n_samples=2", "eval.horizons=[1]"),
    *("eval.num_questions=2", "eval.max_new_tokens=4", "sampler.n_samples=2"),
]
MAINS = {"ebft-train": train_cli.main, "ebft-eval": eval_cli.main, "ebft-export": export_cli.main}
NOT_COMPOSED = ("hydra.", "--multirun", "--config-path", "--config-name", "RUN_FOLDER", "config")


@pytest.fixture(autouse=True)
def built_in_methods() -> Iterator[None]:
    """A method that a page brings along is gone afterwards."""
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_report: None) -> Iterator["Shell"]:
    """In an empty folder; logging that commands set up ends with the test."""
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # main sets it; monkeypatch puts it back
    monkeypatch.setenv("EBFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield Shell(tmp_path, monkeypatch)
    root.handlers[:] = handlers
    root.setLevel(level)


class Shell:
    """Runs a page's commands in this process, small."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory, self._monkeypatch = directory, monkeypatch
        monkeypatch.setattr(launchers, "build", lambda config, directory: InProcess(self, directory))
        monkeypatch.setattr(charts, "picture", lambda *_: None)  # pictures, which take longer than the runs

    def __call__(self, line: str) -> None:
        program, *arguments = shlex.split(line, comments=True)
        if program == "python" and arguments[0].endswith(".py"):
            self._monkeypatch.setattr(sys, "argv", arguments)
            runpy.run_path(arguments[0], run_name="__main__")
        elif not program.startswith("ebft-"):
            subprocess.run(["bash", "-c", line], check=True, cwd=self.directory)
        elif program == "ebft-sweep":
            assert sweep_cli.sweep(arguments + ([] if "mode=" in line else [*SMALL, "seed=0"])) == 0, line
        elif program == "ebft-train" and "--" not in line and "plan_only" not in line:
            self.train(with_files(arguments))
        else:
            self._monkeypatch.setattr(sys, "argv", [program, *arguments])
            MAINS[program]()

    def train(self, arguments: Sequence[str]) -> None:
        """Composed by a composer that knows the groups of earlier commands, which takes a third of the time."""
        folders = [argument.partition("=")[2] for argument in arguments if argument.startswith("hydra.run.dir=")]
        values = [argument for argument in arguments if not argument.startswith("hydra.")]
        run = self.directory / (folders[0] if folders else f"outputs/{len(list(self.directory.glob('outputs/*')))}")
        assert train(composer().config([*values, *SMALL]), run) == "completed"


class InProcess:
    """A launcher that computes a run where it is asked to."""

    def __init__(self, shell: Shell, directory: Path) -> None:
        self._shell, self._directory = shell, directory

    def room(self) -> bool:
        return True

    def start(self, job: Job) -> AttemptResult:
        self._shell.train([*job.overrides, f"hydra.run.dir={folder(self._directory, job.name)}"])
        return AttemptResult(states.DONE)

    def close(self) -> None:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if fences(page)], ids=ids)
def test_files_and_commands_of_a_page_work(page: Path, shell: Shell) -> None:
    for fence in fences(page):
        if fence.title:
            (shell.directory / fence.title).write_text(fence.content, encoding="utf-8")
        elif fence.language == "sh":
            for line in fence.content.replace("\\\n", " ").splitlines():
                shell(line)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(told(page))], ids=ids)
def test_commands_that_a_page_names_compose(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained or read; what stands for a folder of the reader's own is a text."""
    monkeypatch.chdir(ROOT)
    refused = []
    for program, *arguments in told(page):
        try:
            checked(program, arguments)
        except UserError as error:
            refused.append(f"{shlex.join([program, *arguments])}: {error}")
    assert refused == []


def checked(program: str, arguments: list[str]) -> None:
    """Composes what a command line says, of a grid its first cell. Raises UserError."""
    if program == "ebft-export":
        export_cli.asked(arguments)
        return
    typed, found = split_searchpath(with_config_dirs(arguments))
    if program == "ebft-sweep":
        own = [*found, *(argument for argument in typed if re.match("(mode|sweep|launcher)[.=]", argument))]
        runs = [argument for argument in typed if argument not in own]
        config = settings(own, runs)
        if config.mode in ("plan", "run") and config.sweep.search == "grid":
            for grid in Planner(Path(config.sweep.dir), config.sweep, found).grids(runs).values():
                composer(*found).config(cells(grid)[0])
    elif program == "ebft-eval":
        compose(typed, "eval")
    elif not typed[:1] or not typed[0].endswith((".yaml", "install=bash")):  # which other tests read
        whole = [argument for argument in typed if not argument.startswith(NOT_COMPOSED)]
        composer(*found).config(cells(whole)[0])


@cache
def composer(*found: str) -> Composer:
    """What a command composes stays for the next one that chooses the same groups."""
    return Composer(found)
