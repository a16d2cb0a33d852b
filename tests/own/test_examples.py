"""The files of examples/own, from the command line to the run folder, and the comparison with a user's method in it."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ebft.cli import train as cli
from ebft.cli.compose import compose
from ebft.cli.planning import Planner
from ebft.cli.sweep import settings, sweep
from ebft.config.doors import digests
from tests.debug_run import MINIATURE, rows, summary, write_rows

pytestmark = pytest.mark.usefixtures("no_report")

ROOT = Path(__file__).parents[2]
OWN = ROOT / "examples" / "own"
CONF = f"--config-dir={OWN / 'conf'}"
SHORT = ["trainer.max_steps=2", "trainer.checkpoint_every_steps=1", "eval.every_steps=2"]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Overrides of a miniature run on two files of texts."""
    train, held_out = (write_rows(tmp_path / f"{name}.jsonl", 6) for name in ("train", "held_out"))
    miniature = [line for line in MINIATURE if "max_steps" not in line]
    return [*miniature, f"data.path={train}", f"data.validation_path={held_out}", *SHORT]


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`ebft-train ARGUMENTS` in this process, where the repository is or in `cwd`; gives its run folder."""

    def start(*arguments: str, folder: str = "run", cwd: Path = ROOT) -> Path:
        run = tmp_path / folder
        monkeypatch.chdir(cwd)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # main sets it; monkeypatch puts it back
        monkeypatch.setattr(sys, "argv", ["ebft-train", *arguments, f"hydra.run.dir={run}"])
        cli.main()
        return run

    return start


def kept(run: Path) -> dict[str, str]:
    """What the run folder says of the user's code: reference -> hash; the copies are the files."""
    code: dict[str, str] = yaml.safe_load((run / "config.yaml").read_text())["code"]
    for reference, digest in code.items():
        path = Path(reference.rpartition(":")[0])
        assert (run / "code" / f"{digest[:8]}_{path.name}").read_bytes() == (ROOT / path).read_bytes()
    return code


@pytest.mark.slow
def test_a_reward(started: Any, files: list[str]) -> None:
    """It lies in (0, 1], and features of the debug model are no further apart than 2."""
    run = started("method.reward=examples/own/reward.py:nearness", *files)
    assert list(kept(run)) == ["examples/own/reward.py:nearness"]
    trained = [row for row in rows(run / "metrics.jsonl") if "train/reward" in row]
    assert len(trained) == 2
    for row in trained:
        assert 0.0183 < row["train/reward"] <= 1  # exp(-4), exp(0)
        assert row["train/reward"] != pytest.approx(row["train/alignment"] - row["train/diversity"], abs=1e-3)


@pytest.mark.slow
def test_a_feature_map(started: Any, files: list[str]) -> None:
    """At one token no text has a trigram, so that rollouts and references are all 0."""
    run = started("features.network=examples/own/features.py:Trigrams", *files)
    assert list(kept(run)) == ["examples/own/features.py:Trigrams"]
    final = summary(run)["final"]
    assert set(final) >= {"eval/feature_matching_loss@1", "eval/feature_matching_loss@3"}
    assert all(0 <= row["train/alignment"] <= 2 for row in rows(run / "metrics.jsonl") if "train/alignment" in row)


SUMS = [
    "data=rows",
    "data.function=examples/own/task.py:rows",
    "data.task=examples/own/task.py:Sums",
    "data.sequence_length=64",
    "eval.num_questions=7",
    "eval.max_new_tokens=5",
    "sampler.context_length=1",
    "eval.context_length=1",
    "eval.stride=3",
]


@pytest.mark.slow
def test_a_task_with_rows_of_its_own(started: Any, tmp_path: Path) -> None:
    """It judges training and held-out answers, and has a figure of its own with its direction."""
    taken = ("data", "trainer.max_steps", "sampler.context_length", "eval.context_length", "eval.stride")
    files = [line for line in MINIATURE if not line.startswith(taken)]
    run = started("method=rlvr", "method.max_new_tokens=5", *files, *SUMS, *SHORT)
    assert sorted(kept(run)) == ["examples/own/task.py:Sums", "examples/own/task.py:rows"]
    assert summary(run)["directions"] == {"digits_only": "higher"}
    assert 0 <= summary(run)["final"]["eval/digits_only"] <= 1
    answers = rows(run / "answers.jsonl")
    assert {answer["verdict"] for answer in answers} <= {"passed", "failed", "truncated"}
    assert len({answer["prompt"] for answer in answers}) == 7
    assert all(0 <= row["train/reward"] <= 1 for row in rows(run / "metrics.jsonl") if "train/reward" in row)


@pytest.mark.slow
def test_a_method_goes_on_where_it_was_and_not_with_another_file(
    started: Any, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = started(CONF, "method=dft", *files)
    first = summary(run)
    assert (first["status"], first["steps"]) == ("completed", 2)
    assert list(kept(run)) == ["examples/own/dft.py:DFT"]
    longer = [line.replace("max_steps=2", "max_steps=3") for line in files]
    started(CONF, "method=dft", *longer)
    assert summary(run)["steps"] == 3
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["code"] = {"examples/own/dft.py:DFT": "0" * 64}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit):
        started(CONF, "method=dft", *longer)
    assert "the file of examples/own/dft.py:DFT has changed since; the run's own is in its folder code/" in (
        capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_method_at_power_0_is_supervised_fine_tuning(started: Any, files: list[str]) -> None:
    """And at power 1 it is another one."""
    runs = {
        name: started(CONF, *chosen, *files, "optimizer=sft", "optimizer.lr=0.01", folder=name)
        for name, chosen in {
            "sft": ["method=sft"],
            "dft0": ["method=dft", "method.power=0"],
            "dft1": ["method=dft"],
        }.items()
    }
    final = {name: summary(run)["final"]["eval/cross_entropy"] for name, run in runs.items()}
    assert final["dft0"] == final["sft"]
    assert final["dft1"] != pytest.approx(final["sft"], abs=1e-6)


@pytest.mark.slow
def test_a_sweep_compares_a_user_s_method_with_the_built_in_ones(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One command; each run's plan, costs and folder are its method's own."""
    monkeypatch.chdir(ROOT)
    out = tmp_path / "sweep"
    arguments = [
        CONF,
        "method=sft,dft,ebft",
        "seed=0",
        *files,
        f"sweep.dir={out}",
        "launcher.threads=1",
        "sweep.metrics=[eval/cross_entropy]",
    ]
    assert sweep([*arguments, "mode=plan"]) == 0
    planned = capsys.readouterr().out
    assert "dft" in planned
    assert sweep(arguments) == 0
    cells = {cell for line in (out / "comparison.csv").read_text().splitlines()[1:] for cell in line.split(",")[:3]}
    assert {"sft", "dft", "ebft", "base"} <= cells
    assert sweep([*arguments, "mode=run"]) == 0  # nothing is left to do
    assert "searchpath" not in json.dumps(json.loads((out / "sweep.json").read_text())["settings"])  # a reader's choice
    done = [json.loads(path.read_text()) for path in out.glob("runs/*/summary.json")]
    assert [run["status"] for run in done] == ["completed"] * 3


@pytest.mark.slow
def test_a_changed_file_is_another_run_of_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reward = tmp_path / "mine.py"
    names = []
    for text in ("def reward(e): return e.rollout[..., 0]\n", "def reward(e): return e.rollout[..., 1]\n"):
        reward.write_text(text)
        (job,) = Planner(tmp_path / "out", settings([]).sweep).jobs(
            ["method=ebft", "seed=0", "method.reward=mine.py:reward"]
        )
        names.append(job.name)
    assert names[0] != names[1]


@pytest.mark.slow
def test_hashes_are_those_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").write_text("x = 1\n")
    sha = "9e26bf369911c45c243c684147b23fc9e1dcfcf257d299a1c632016a6fcd33f4"  # of sha256sum
    assert digests(["a.py:x", "os.path:join"])["a.py:x"] == sha


@pytest.mark.slow
def test_the_commands_in_the_files_compose(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file says how it is used; a command that does not compose misleads."""
    monkeypatch.chdir(ROOT)
    commands = []
    for path in sorted(OWN.glob("*.py")):
        text = path.read_text().replace("\\\n", " ")
        commands += [line.split()[1:] for line in text.splitlines() if line.startswith("    ebft-train")]
    assert len(commands) == 4
    for command in commands:
        compose(command)


@pytest.mark.slow
def test_from_another_folder_a_file_has_an_absolute_path(started: Any, files: list[str], tmp_path: Path) -> None:
    """The sweep above runs a user's files in processes of their own."""
    run = started(f"method.reward={OWN / 'reward.py'}:nearness", *files, cwd=tmp_path)
    assert summary(run)["status"] == "completed"
