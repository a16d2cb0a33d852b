"""Two commands on one folder, in every combination and both orders: it is one's, and the other writes nothing in it."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path

import pytest
import yaml

from ebft.cli import sweep as cli
from ebft.config.identity import resolved
from ebft.config.schema import EvaluateConfig, TrainConfig, UserError
from ebft.output import files
from ebft.sweep.jobs import Job, Manifest, write_manifest
from ebft.train import evaluate_models, loop
from tests.debug_run import miniature

HOLDER = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from ebft.output.files import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
pytestmark = pytest.mark.slow
COMMAND = [sys.executable, "-c", HOLDER.format(root=str(Path(__file__).parents[2]))]


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return miniature(tmp_path, "method=sft")


def train(config: TrainConfig, folder: Path) -> None:
    loop.train(config, folder)


def evaluation(config: TrainConfig, folder: Path) -> None:
    settings = {item.name: getattr(config, item.name) for item in fields(TrainConfig)}
    evaluate_models.evaluate(EvaluateConfig(**settings, models=["base"]), folder)


def sweep(config: TrainConfig, folder: Path) -> None:
    cli.sweep([f"sweep.dir={folder}", "method=sft", "seed=0", "trainer.max_steps=1"])


Work = Callable[[TrainConfig, Path], None]
COMMANDS: dict[str, Work] = {"ebft-train": train, "ebft-eval": evaluation, "ebft-sweep": sweep}


def of_a_run(config: TrainConfig, folder: Path) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump(resolved(config) | {"seed": 5}))
    (folder / "metrics.jsonl").write_text("")


def of_an_evaluation(config: TrainConfig, folder: Path) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump(resolved(config) | {"models": ["other"]}))
    (folder / "evaluate.log").write_text("")


def of_a_sweep(config: TrainConfig, folder: Path) -> None:
    write_manifest(folder, Manifest({}, (), (Job("sft-jsonl-0", "", {}, 0, ("seed=7",)),)))


OWNERS: dict[str, Work] = {"ebft-train": of_a_run, "ebft-eval": of_an_evaluation, "ebft-sweep": of_a_sweep}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("second", COMMANDS)
@pytest.mark.parametrize("first", OWNERS)
def test_a_folder_of_another_s_is_refused_and_left_as_it_was(
    first: str, second: str, config: TrainConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    OWNERS[first](config, folder)
    before = content(folder)
    with pytest.raises(UserError, match=r"holds .*choose (another|an empty or a new) (hydra\.run\.dir|sweep\.dir)"):
        COMMANDS[second](config, folder)
    assert content(folder) == before


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds the folder as any of the three commands does."""
    (tmp_path / "out").mkdir()
    with subprocess.Popen(
        [*COMMAND, str(tmp_path / "out")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


class Entered(Exception):
    """The command got beyond the lock."""


@pytest.mark.parametrize("second", COMMANDS)
def test_a_folder_in_which_another_process_is_at_work_is_waited_for_until_that_is_killed(
    second: str,
    config: TrainConfig,
    tmp_path: Path,
    holder: "subprocess.Popen[str]",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its lock's file stays behind a kill, and is nobody's."""
    soon = partial(files.alone, seconds=0.1)
    monkeypatch.setattr(loop, "alone", soon)
    monkeypatch.setattr(files, "alone", soon)
    for module, name in ((loop, "prepare"), (evaluate_models, "gather"), (cli, "write_manifest")):
        monkeypatch.setattr(module, name, enter)
    with pytest.raises(UserError, match=r"/out is another process's, which has not left it within 0\.1 s; wait for it"):
        COMMANDS[second](config, tmp_path / "out")
    assert content(tmp_path / "out") == {".lock": b""}
    holder.kill()
    holder.wait()
    with pytest.raises(Entered):
        COMMANDS[second](config, tmp_path / "out")
    assert content(tmp_path / "out") == {}


def enter(*_: object, **__: object) -> None:
    raise Entered
