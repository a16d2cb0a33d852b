"""`ebft-train` from the command line to the loop's door and back."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ebft.cli.compose import compose
from ebft.cli.launch import _make_unused
from ebft.config.methods import EBFTConfig, SFTConfig
from ebft.config.schema import RunFailure, TrainConfig, UserError
from ebft.train.setup import survey
from tests.cli.conftest import Launcher
from tests.debug_run import MINIATURE, write_rows


def refuse(config: TrainConfig, run_dir: Path) -> None:
    raise UserError("data.path names no file.")


@pytest.mark.slow
def test_the_loop_gets_a_typed_config_and_its_folder(launch: Launcher) -> None:
    outcome = launch("sampler.n_samples=5", "hydra.run.dir=out/mine")
    ((config, run_dir),) = launch.jobs
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert (type(config.method), config.sampler.n_samples) == (EBFTConfig, 5)
    assert run_dir == launch.folder / "out" / "mine"
    assert launch.files() == ["out", "out/mine"]


PLAN = [override for override in MINIATURE if not override.startswith("trainer.max_steps")] + [
    "method=sft",
    "plan_only=true",
]


@pytest.fixture
def planned(launch: Launcher) -> list[str]:
    """Overrides of a run that is only planned; its rows lie outside the folder where it is started."""
    folder = launch.folder.parent / f"{launch.folder.name}_rows"
    folder.mkdir()
    rows = write_rows(folder / "rows.jsonl", 6)
    return [*PLAN, f"data.path={rows}", f"data.validation_path={rows}"]


@pytest.mark.slow
@pytest.mark.parametrize("where", [[], ["hydra.run.dir=out/mine"]])
def test_a_plan_starts_no_loop_and_leaves_no_folder(launch: Launcher, planned: list[str], where: list[str]) -> None:
    outcome = launch(*planned, *where)
    assert (outcome.code, outcome.err, launch.jobs, launch.files()) == (0, "", [], [])
    assert outcome.out.startswith("Plan of sft, nothing is trained\n")


@pytest.mark.slow
def test_a_plan_keeps_a_folder_that_was_there(launch: Launcher, planned: list[str]) -> None:
    (launch.folder / "out").mkdir()
    (launch.folder / "out" / ".kept").touch()
    assert launch(*planned, "hydra.run.dir=out").code == 0
    assert launch.files() == ["out", "out/.kept"]


@pytest.mark.slow
def test_a_plan_of_every_job_of_a_grid(launch: Launcher, planned: list[str]) -> None:
    outcome = launch("--multirun", *planned, "trainer.batch_size=3,5")
    assert (outcome.code, launch.jobs, launch.files()) == (0, [], [])
    steps = [line for line in outcome.out.splitlines() if line.startswith("  steps: ")]
    assert [line.partition(",")[0].partition(" of ")[2] for line in steps] == ["3 rows", "5 rows"]


@pytest.mark.slow
def test_a_refused_plan_leaves_no_folder(launch: Launcher, planned: list[str]) -> None:
    outcome = launch(*planned, "trainer.batch_size=1000")
    assert (outcome.code, outcome.out, launch.files()) == (2, "", [])
    assert outcome.err.startswith("Only 7 of 8 training rows ")


@pytest.mark.slow
def test_the_default_folder_names_time_and_method(launch: Launcher) -> None:
    launch("method=sft")
    ((_, run_dir),) = launch.jobs
    assert re.fullmatch(r"outputs/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d-sft", str(run_dir.relative_to(launch.folder)))


@pytest.mark.slow
def test_a_job_a_method_each_in_a_folder_of_its_own(launch: Launcher) -> None:
    launch("--multirun", "method=sft,ebft", "hydra.sweep.dir=out")
    assert [(type(config.method), config.optimizer.schedule) for config, _ in launch.jobs] == [
        (SFTConfig, "cosine"),
        (EBFTConfig, "cosine"),
    ]
    assert [run_dir.relative_to(launch.folder) for _, run_dir in launch.jobs] == [Path("out/0"), Path("out/1")]


@pytest.mark.slow
def test_a_refusal_of_the_loop_leaves_no_folder(launch: Launcher) -> None:
    launch.loop = refuse
    outcome = launch()
    assert (outcome.code, outcome.out, outcome.err) == (2, "", "data.path names no file.\n")
    assert (len(launch.jobs), launch.files()) == (1, [])


@pytest.mark.slow
def test_a_refusal_keeps_what_was_there_before(launch: Launcher) -> None:
    (launch.folder / "empty").mkdir()
    launch.loop = refuse
    launch("hydra.run.dir=empty")
    assert launch.files() == ["empty"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("file/out", "Not a directory"),
        ("new/" + 300 * "x", "File name too long"),
        ("/proc/nope", "No such file or directory"),
    ],
)
def test_a_folder_that_cannot_be_made_is_named_and_nothing_is_left(launch: Launcher, where: str, why: str) -> None:
    (launch.folder / "file").touch()
    for arguments in ([f"hydra.run.dir={where}"], ["--multirun", "seed=0,1", f"hydra.sweep.dir={where}"]):
        outcome = launch(*arguments)
        path = launch.folder / where
        assert outcome.code == 2
        assert outcome.err.endswith(f"={path} cannot be made ({why}); choose another folder.\n")
    assert (launch.jobs, launch.files()) == ([], ["file"])


def test_a_folder_whose_name_acts_is_refused(launch: Launcher) -> None:
    for arguments in (["hydra.run.dir='a\udcff'"], ["--multirun", "seed=0,1", "hydra.sweep.dir='a\x1b[31m'"]):
        outcome = launch(*arguments, "sandbox.allow_code_execution=true")
        assert outcome.code == 2
        assert "has control characters in its name, or bytes that are no UTF-8; choose another name.\n" in outcome.err
    assert (launch.jobs, launch.files()) == ([], [])


@pytest.mark.slow
def test_a_refusal_in_a_sweep_ends_it_without_a_folder(launch: Launcher) -> None:
    launch.loop = refuse
    outcome = launch("--multirun", "seed=0,1")
    assert (outcome.code, outcome.err) == (2, "data.path names no file.\n")
    assert (len(launch.jobs), launch.files()) == (1, [])


@pytest.mark.slow
def test_a_refusal_in_a_sweep_keeps_the_jobs_before(launch: Launcher) -> None:
    def refuse_the_second(config: TrainConfig, run_dir: Path) -> None:
        (run_dir / "kept").touch()
        if config.seed == 1:
            (run_dir / "kept").unlink()
            refuse(config, run_dir)

    launch.loop = refuse_the_second
    assert launch("--multirun", "seed=0,1", "hydra.sweep.dir=out").code == 2
    assert launch.files() == ["out", "out/0", "out/0/kept"]


@pytest.mark.slow
def test_a_failure_is_one_sentence_and_keeps_its_folder(launch: Launcher) -> None:
    def fail(config: TrainConfig, run_dir: Path) -> None:
        (run_dir / "train.log").touch()
        raise RunFailure("Step 3 stopped: the loss is not finite.")

    launch.loop = fail
    outcome = launch("hydra.run.dir=out")
    assert (outcome.code, outcome.err) == (1, "Step 3 stopped: the loss is not finite.\n")
    assert launch.files() == ["out", "out/train.log"]


@pytest.mark.slow
@pytest.mark.parametrize("bug", [ValueError("ours"), KeyError("ours")])
def test_a_bug_keeps_its_traceback(launch: Launcher, bug: Exception) -> None:
    def fail(config: TrainConfig, run_dir: Path) -> None:
        raise bug

    launch.loop = fail
    with pytest.raises(type(bug), match="ours"):
        launch()


@pytest.mark.slow
def test_an_interrupt_is_one_line(launch: Launcher) -> None:
    def interrupt(config: TrainConfig, run_dir: Path) -> None:
        raise KeyboardInterrupt

    launch.loop = interrupt
    outcome = launch()
    assert (outcome.code, outcome.err, launch.files()) == (130, "Interrupted.\n", [])


@pytest.mark.slow
def test_sigterm_while_models_load_leaves_nothing(launch: Launcher) -> None:
    before = signal.getsignal(signal.SIGTERM)
    launch.loop = lambda config, run_dir: os.kill(os.getpid(), signal.SIGTERM)
    outcome = launch("hydra.run.dir=out")
    assert (outcome.code, outcome.err, launch.files()) == (130, "Interrupted.\n", [])
    assert signal.getsignal(signal.SIGTERM) is before


def test_cfg_prints_the_tree_and_makes_no_folder(launch: Launcher) -> None:
    outcome = launch("--cfg", "job", "--package", "sampler", "sampler.stride=7")
    assert outcome.code == 0
    assert "stride: 7\n" in outcome.out
    assert launch.files() == []


LIGHT = """
import sys
from collections.abc import Callable
from functools import partial
from ebft.cli.train import main
nowhere = ["model=hf", "model.path=./nowhere"], ["data=jsonl", "data.path=nowhere.jsonl", "plan_only=true"]
for arguments in (["--help"], ["--cfg", "job"], ["sampler.stride=0"], ["-sc", "install=bash"], *nowhere):
    sys.argv = ["ebft-train", *arguments]
    try:
        main()
    except SystemExit:
        pass
print("heavy:", sorted({"torch", "transformers", "datasets", "wandb", "numpy"} & set(sys.modules)))
"""


@pytest.mark.slow
def test_help_cfg_refusals_and_completion_load_no_torch(tmp_path: Path) -> None:
    """In a process of its own, since this one has torch, and in another folder, since a user is anywhere."""
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("heavy: []\n")
    assert done.stderr.splitlines() == [
        "sampler.stride=0 must be at least 1.",
        "model.path=./nowhere does not exist; name a folder with a model or a hub id such as Qwen/Qwen2.5-0.5B.",
        "nowhere.jsonl is not a file; correct data.path or data.validation_path.",
    ]
    assert not [*tmp_path.rglob("*.yaml")]


LIGHT_PLAN = """
import gc, sys
from ebft.cli.train import main
sys.argv = ["ebft-train", "+experiment=smoke", "plan_only=true"]
main()
heavy = {"transformers.modeling_utils", "scipy", "torch.distributed.checkpoint", "datasets", "pandas", "matplotlib"}
print("heavy:", sorted(heavy & set(sys.modules)), "frozen:", gc.get_freeze_count() > 100_000)
"""


@pytest.mark.slow
def test_a_plan_of_a_known_model_loads_no_modelling_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' modelling code, with what it imports, is needed to count parameters, once on a machine."""
    monkeypatch.setenv("EBFT_CACHE", str(tmp_path / "cache"))
    survey(compose(["+experiment=smoke"]))
    done = subprocess.run([sys.executable, "-c", LIGHT_PLAN], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Plan of ")
    assert done.stdout.endswith("heavy: [] frozen: True\n")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("method=", ["method=ebft", "method=sft"]),
        ("sampler.s", ["sampler.stride="]),
        ("+experiment=smo", ["+experiment=smoke"]),
        ("tr", ["tracker", "trainer"]),
    ],
)
def test_shell_completion(launch: Launcher, typed: str, offered: list[str]) -> None:
    line = f"ebft-train {typed}"
    launch.monkeypatch.setenv("COMP_LINE", line)
    launch.monkeypatch.setenv("COMP_POINT", str(len(line)))
    found = launch("-sc", "query=bash").out.split()
    assert set(offered) <= {
        option.rstrip("=.") if "=" not in typed and "." not in typed else option for option in found
    }


@pytest.mark.slow
def test_runs_of_the_same_second_have_folders_of_their_own(launch: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """They once wrote into one."""
    monkeypatch.setattr("ebft.cli.launch._make_unused", partial(same_second, _make_unused))
    for _ in range(3):
        assert launch().code == 0
    assert [str(run_dir.relative_to(launch.folder)) for _, run_dir in launch.jobs] == [
        "outputs/now",
        "outputs/now-2",
        "outputs/now-3",
    ]
    launch.loop = refuse
    assert launch().code == 2
    assert launch.files() == ["outputs", "outputs/now", "outputs/now-2", "outputs/now-3"]


def same_second(make: Callable[[Path], Path], folder: Path) -> Path:
    assert re.fullmatch(r"outputs/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d-ebft", str(folder))
    return make(Path("outputs") / "now")
