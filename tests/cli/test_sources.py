"""What a command is to read is looked at before torch is imported, which takes seconds: a name that was mistyped, a
folder that is broken, a link in the run folder."""

import subprocess
import sys
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from ebft.cli import sources
from ebft.cli.compose import compose
from ebft.cli.sources import check_sources
from ebft.config.schema import EvaluateConfig, UserError
from ebft.models.named import TINY
from ebft.output import files, hub
from tests.cli.conftest import Launcher

PROGRAM = """
import sys
from importlib import import_module
code = 0
try:
    import_module(f"ebft.cli.{sys.argv.pop(1)}").main()
except SystemExit as end:
    code = end.code
print(code, "heavy:", sorted({"torch", "transformers", "datasets"} & set(sys.modules)))
"""
HOLDER = """
import fcntl, sys
lock = open("run/.lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print(flush=True)
sys.stdin.read()
"""
BROKEN = "model.path=theirs is broken: its config.json holds no JSON object; correct it, or name another model.\n"


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, here."""
    monkeypatch.chdir(tmp_path)
    copytree(TINY, tmp_path / "theirs")
    return tmp_path / "theirs"


def evaluation(*overrides: str) -> EvaluateConfig:
    config = compose([*overrides, "sandbox.allow_code_execution=true"], "eval")
    assert isinstance(config, EvaluateConfig)
    return config


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["train"], ["train", "plan_only=true"], ["eval"]], ids=" ".join)
def test_a_broken_model_is_refused_without_torch_and_leaves_nothing(theirs: Path, arguments: list[str]) -> None:
    (theirs / "config.json").write_text("[]")
    arguments = [*arguments, "model.path=theirs", "sandbox.allow_code_execution=true"]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("2 heavy: []\n", BROKEN)
    assert [path.name for path in theirs.parent.iterdir()] == ["theirs"]


def test_a_name_is_looked_for_on_the_hub_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a network it took 13 s to say so, with the import of torch."""
    monkeypatch.chdir(tmp_path)
    asked: list[Any] = []

    def refuse(path: str, revision: str | None, key: str, kind: str) -> None:
        asked.append((path, revision, key, kind))
        raise UserError("no")

    monkeypatch.setattr(hub, "check_on_hub", lambda *named: named[0] == "no/such" and refuse(*named))
    for overrides in (
        ["model.path=no/such", "model.revision=old"],
        ["model.path=tiny", "features.network=checkpoint", "features.path=no/such", "method=ebft"],
        ["data=hub", "data.path=no/such", "data.text_column=a"],
    ):
        with pytest.raises(UserError, match="no"):
            check_sources(compose(["method=sft", *overrides]))
    assert asked == [
        ("no/such", "old", "model.path", "model"),
        ("no/such", None, "features.path", "model"),
        ("no/such", None, "data.path", "dataset"),
    ]


def test_of_several_models_one_that_can_be_evaluated_is_enough(theirs: Path) -> None:
    copytree(theirs, theirs.parent / "good")
    (theirs / "generation_config.json").write_text("5")
    check_sources(evaluation("models=[theirs,good]"))
    check_sources(evaluation("models=[theirs,base]"))
    with pytest.raises(UserError, match=r"^models=theirs is broken: its generation_config\.json holds no JSON object"):
        check_sources(evaluation("models=[theirs,./none]"))


def test_runs_checkpoints_and_adapters_are_left_to_the_evaluation(tmp_path: Path) -> None:
    for file in ("config.yaml", sources.CHECKPOINT, "adapter_config.json"):
        folder = tmp_path / file
        folder.mkdir()
        (folder / file).write_text('{"peft_type": "LORA"}')
        check_sources(evaluation(f"models=[{folder}]"))
    for broken in ("[]", "{}", "", '{"peft_type": 5}'):
        (folder / file).write_text(broken)
        with pytest.raises(UserError, match=r" is broken: its adapter_config\.json .*; correct it, or name another"):
            check_sources(evaluation(f"models=[{folder}]"))


def test_random_weights_need_none_in_the_folder(theirs: Path) -> None:
    (theirs / "model.safetensors").unlink()
    check_sources(compose(["method=sft", "model.path=theirs", "model.init=random"]))
    with pytest.raises(UserError, match=r"has no model\.safetensors in its folder, nor other weights; put them there"):
        check_sources(compose(["method=sft", "model.path=theirs"]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train.log", "checkpoints"])
def test_a_link_in_a_run_folder_is_refused_at_once(launch: Launcher, name: str) -> None:
    """It was after the models had been loaded."""
    (launch.folder / "run").mkdir()
    (launch.folder / "run" / name).symlink_to("/tmp")
    outcome = launch("hydra.run.dir=run", "sandbox.allow_code_execution=true")
    assert outcome.code == 2
    assert f"run/{name} is a link, and nothing is written through it; remove it" in outcome.err
    assert launch.jobs == []


@pytest.mark.slow
def test_who_waits_for_a_folder_says_so_and_promises_nothing_of_it(
    launch: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while another process had the folder named a command that goes on with that one's run."""
    monkeypatch.setattr(files, "PATIENCE_SECONDS", 1.2)

    def wait(config: Any, run_dir: Path) -> None:
        (run_dir / "config.yaml").touch()
        with files.alone(run_dir):
            raise AssertionError("it was alone")

    launch.loop = wait
    (launch.folder / "run").mkdir()
    theirs = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with theirs:
        assert theirs.stdout is not None
        theirs.stdout.readline()
        outcome = launch("hydra.run.dir=run", "sandbox.allow_code_execution=true")
        assert outcome.code == 2
        assert outcome.err.splitlines() == [
            f"{launch.folder}/run is another process's; waiting up to 1.2 s for it.",
            f"{launch.folder}/run is another process's, which has not left it within 1.2 s; wait for it, or choose "
            "another folder.",
        ]
        assert theirs.stdin is not None
        theirs.stdin.close()
        (launch.folder / "run" / "config.yaml").unlink()

    def interrupt(config: Any, run_dir: Path) -> None:
        (run_dir / "config.yaml").touch()
        raise KeyboardInterrupt

    launch.loop = interrupt
    outcome = launch("hydra.run.dir=run", "sandbox.allow_code_execution=true")
    assert (outcome.code, outcome.err) == (130, "Interrupted.\n")
