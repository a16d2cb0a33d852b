"""`ebft-train resume=RUN_FOLDER`: what the folder brings along, what the command line may change, and the command that
a run which is stopped names."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ebft.cli.resuming import command, with_run
from ebft.config.identity import resolved
from ebft.config.schema import TrainConfig, UserError
from ebft.run.folder import Run
from tests.cli.conftest import Launcher
from tests.debug_run import COMPOSER

OVERRIDES = ["method=sft", "data=translation", "model=debug", "trainer.max_steps=7", "optimizer.lr=0.125"]


@pytest.fixture
def config() -> TrainConfig:
    return COMPOSER.config(OVERRIDES)


@pytest.fixture
def run(launch: Launcher, config: TrainConfig) -> Path:
    return write(launch.folder / "my run", config)


def write(folder: Path, config: TrainConfig) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(resolved(config), sort_keys=False))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("how", ["resume={}", "--config-path {} --config-name config", "-cp={} -cn=config"])
def test_a_run_folder_alone_goes_on_with_its_own_config(
    launch: Launcher, run: Path, config: TrainConfig, how: str
) -> None:
    flags = [word.format("my run") for word in how.split()]
    assert launch(*flags).err == ""
    assert launch(*flags, "trainer.max_steps=11").err == ""
    longer = replace(config, trainer=replace(config.trainer, max_steps=11))
    assert launch.jobs == [(config, run), (longer, run)]
    assert launch.files() == ["my run", "my run/config.yaml"]


@pytest.mark.slow
def test_what_a_run_is_cannot_change(launch: Launcher, run: Path) -> None:
    launch.loop = lambda config, run_dir: Run.check(run_dir, config)
    assert launch(f"resume={run}", "trainer.max_steps=11").err == ""
    assert launch(f"resume={run}", "optimizer.lr=0.5", "seed=3").err == (
        f"{run} holds a run of another config (seed is 0 there, 3 here; optimizer.lr is 0.125 there, 0.5 here); set "
        "these back or choose another hydra.run.dir.\n"
    )
    assert "; and " in launch(f"resume={run}", "method=ebft").err


@pytest.mark.slow
def test_a_checkpoint_and_another_folder_are_gone_on_from_as_the_command_line_says(launch: Launcher, run: Path) -> None:
    (run / "checkpoints" / "step_000004").mkdir(parents=True)
    for arguments in ([f"resume={run}", "hydra.run.dir=new"], [f"resume={run}/checkpoints/step_000004"]):
        assert with_run(arguments) == arguments
    assert with_run(["resume=auto", "seed=3"]) == ["resume=auto", "seed=3"]


def test_other_configurations_are_not_found_by_path(launch: Launcher, run: Path) -> None:
    assert launch("--config-path", "nowhere", "--config-name=config").err == (
        "--config-path=nowhere --config-name=config is no run's configuration; name a run folder, with "
        "--config-name=config (configurations of your own are found with --config-dir).\n"
    )


@pytest.mark.slow
def test_a_stranger_s_folder_neither_sends_figures_nor_runs_code(launch: Launcher, config: TrainConfig) -> None:
    tracked = COMPOSER.config([*OVERRIDES, "tracker=wandb", "tracker.project=theirs", "tracker.entity=them"])
    run = write(launch.folder / "run", tracked)
    assert launch(f"resume={run}").err == (
        f"{run} sends its figures away; say so by typing tracker=wandb tracker.project=theirs tracker.entity=them, or "
        "tracker=none.\n"
    )
    assert launch(f"resume={run}", "tracker=none").err == ""
    content = yaml.safe_load((run / "config.yaml").read_text())
    content["data"]["task"] = "evil.py:Task"
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"names code to run, data\.task=evil\.py:Task; if you trust it, say so by"):
        with_run([f"resume={run}", "tracker=none"])


@pytest.mark.slow
def test_a_run_that_is_stopped_names_the_command_that_goes_on(launch: Launcher, config: TrainConfig) -> None:
    """It is typed as it is printed, and reaches the loop with the same configuration."""

    def stop(config: TrainConfig, run_dir: Path) -> str:
        write(run_dir, config)
        return "interrupted"

    launch.loop = stop
    asked = [*OVERRIDES, "sandbox.allow_code_execution=true", "sandbox.require=rlimits", "tracker=wandb"]
    outcome = launch(*asked, "tracker.tags=[a,b]", "hydra.run.dir='out/the run, again'")
    assert outcome.code == 130
    first, last = outcome.err.splitlines()
    assert (first, last) == (
        "To go on: ebft-train 'resume=\"out/the run, again\"' sandbox.allow_code_execution=true "
        "sandbox.require=rlimits "
        'tracker=wandb tracker.project=ebft \'tracker.tags=["a","b"]\'',
        "Interrupted.",
    )
    assert launch(*shlex.split(first)[4:]).code == 130
    (before, folder), (again, same_folder) = launch.jobs
    assert (again, same_folder) == (before, folder)


def test_processes_that_something_else_started_are_started_by_it(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert command(config, Path("/out"), []) == "To go on, start its processes as before, with resume=/out"
