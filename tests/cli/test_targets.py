"""What a YAML file may make Hydra call: nothing but what the package and Hydra's plug-ins have."""

from pathlib import Path

import pytest

from tests.cli.conftest import Launcher

HEAD = "# @package _global_\n"
CALL = "{_target_: ebft.tasks.code_qa.questions.run, program: 'raise SystemExit(7)', name: f, arguments: []}"
THEIRS = {
    "callback": f"hydra: {{callbacks: {{theirs: {CALL}}}}}",
    "in the callback": f"hydra: {{callbacks: {{check_first: {{theirs: {CALL}}}}}}}",
    "in the sweeper": f"hydra: {{sweeper: {{params: {{theirs: {CALL}}}}}}}",
    "by interpolation": "x: ebft.cli.launch.CheckFirst\nhydra: {callbacks: {theirs: {_target_: '${x}'}}}",
    "factory of a handler": "hydra: {job_logging: {handlers: {theirs: {(): os.getcwd}}}}",
    "class of a handler": "hydra: {hydra_logging: {handlers: {theirs: {class: theirs.Handler}}}}",
    "attribute of a module": "hydra: {job_logging: {handlers: {theirs: {stream: ext://theirs.stream}}}}",
}


@pytest.mark.slow
@pytest.mark.parametrize("text", THEIRS.values(), ids=THEIRS.keys())
@pytest.mark.parametrize("mode", [[], ["--multirun"]], ids=["run", "multirun"])
def test_nothing_else_is_called(
    launch: Launcher, tmp_path_factory: pytest.TempPathFactory, text: str, mode: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "experiment").mkdir()
    (folder / "experiment" / "theirs.yaml").write_text(HEAD + text + "\n")
    outcome = launch(*mode, "--config-dir", str(folder), "+experiment=theirs")
    assert (outcome.code, launch.jobs, launch.files()) == (2, [], [])
    assert outcome.err.startswith("hydra.")
    assert "would call code that is not ebft's own; leave it out" in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.slow
def test_logging_of_hydra_s_own_may_be_chosen(launch: Launcher) -> None:
    outcome = launch("hydra/job_logging=stdout", "hydra/hydra_logging=default", "hydra.run.dir=out")
    assert (outcome.code, len(launch.jobs), launch.files()) == (0, 1, ["out"])
    assert Path("out").is_dir()
