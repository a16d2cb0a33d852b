"""`ebft-sweep` from its command line to its exit code, with stand-ins for the runs."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ebft import comparison
from ebft.cli import reading
from ebft.cli import sweep as cli
from ebft.cli.planning import Planner
from ebft.config.schema import UserError
from ebft.config.sweeps import GridConfig
from ebft.output import tracking
from ebft.output.console import Console
from ebft.sweep import attempt, jobs
from ebft.sweep import state as states
from ebft.sweep.jobs import Job, Manifest, read_manifest, write_manifest
from tests.cli.conftest import AttemptResult
from tests.comparison.test_rows import SFT, pilots
from tests.sweep.helpers import ROOT, diary, grid

HELP = cli.help_text()
EXAMPLES = [shlex.split(line) for line in re.findall(r"^  ebft-sweep ?(.*)$", HELP, re.MULTILINE)]


class Command:
    """Runs the command line in an empty folder; `compared` are the comparisons that it would have written."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.monkeypatch, self.capsys = folder, monkeypatch, capsys
        self.compared: list[tuple[GridConfig, Path, Sequence[Job] | None]] = []
        for module in (cli, reading):
            monkeypatch.setattr(
                module,
                "write_comparison",
                lambda sweep, directory, jobs, say, runs=None: self.compared.append((sweep, directory, jobs)),
            )
        monkeypatch.setattr(attempt, "CHILD", "tests.sweep.stand_in")
        monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the stand-ins
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        monkeypatch.chdir(folder)

    def __call__(self, line: str) -> AttemptResult:
        self.monkeypatch.setattr(sys, "argv", ["ebft-sweep", *shlex.split(line)])
        code = 0
        try:
            cli.main()
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        return AttemptResult(code, *self.capsys.readouterr())

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*"))

    def jobs(self) -> tuple[Job, ...]:
        stored = read_manifest(self.folder / "out")
        assert stored is not None
        return stored.jobs

    def diary(self) -> list[tuple[str, str]]:
        return [(name, what) for name, _, what in diary(self.folder / "out")]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, monkeypatch, capsys)


# Help


def test_help_lists_every_sweep_mode_and_exit_code(command: Command) -> None:
    outcome = command("mode=run --help")
    assert (outcome.code, outcome.out, outcome.err, command.files()) == (0, HELP + "\n", "", [])
    for path in (ROOT / "conf" / "sweep").glob("*.yaml"):
        assert re.search(rf"^  {path.stem} +\S+ \S+", HELP, re.MULTILINE), path
    assert HELP.endswith("\nExit codes: 0 done, 1 some runs failed, 2 a mistake on the command line, 130 interrupted.")
    assert max(map(len, HELP.splitlines())) <= 130


def test_every_key_of_the_help_is_one() -> None:
    keys = {f"sweep.{item.name}" for item in fields(GridConfig)}
    assert set(re.findall(r"sweep\.\w+(?==)", HELP)) <= keys


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=" ".join)
def test_every_example_of_the_help_can_be_planned(command: Command, example: list[str]) -> None:
    assert len(EXAMPLES) == 6
    if "mode=collect" in example:
        cli.settings(example)
    else:
        assert command(shlex.join([*example, "mode=plan"])).code == 0
        assert command.files() == []


# Plans

SMALL = (
    "data=stdlib data.sequence_length=101 sampler.context_length=11 sampler.stride=7 sampler.generate_length=5 "
    "sampler.n_samples=3"
)


@pytest.mark.slow
def test_a_plan_has_cells_steps_and_cost_and_writes_nothing(command: Command) -> None:
    """tests/test_cost.py works the cost out: 4 rows of 303 tokens, and of 257 + 222 + 771."""
    outcome = command(
        "mode=plan sweep.name=mine sweep.dir=out method=sft,ebft seed=0,1,2 trainer.batch_size=4 "
        f"trainer.micro_batch_size=2 {SMALL}"
    )
    assert (outcome.code, outcome.err, command.files(), command.compared) == (0, "", [], [])
    assert outcome.out.splitlines() == [
        "mine: 6 runs in out, 6 not started",
        "  cell  runs  done  steps                                                           cost",
        "  sft      3     0     40          1,212 tokens a step, 1.0 times supervised fine-tuning",
        "  ebft     3     0     40  at most 5,000 tokens a step, 4.1 times supervised fine-tuning",
    ]


GRID = """ 'sweep.grid=["seed=0"]' """
SHORT = """ '+sweep.variants.short=["method=sft","trainer.max_steps=3"]' """
LONG = """
    '+sweep.variants.long=["method=sft","trainer.max_steps=null","trainer.max_epochs=1.5","optimizer.lr=1e-4,1e-5"]'
"""


@pytest.mark.slow
def test_variants_are_cells_of_a_plan(command: Command) -> None:
    outcome = command(f"mode=plan sweep.dir=out {GRID} {SHORT} {LONG}")
    assert [line.split()[:5] for line in outcome.out.splitlines()[2:]] == [
        ["short", "1", "0", "3", "3,072"],
        ["long", "optimizer.lr=0.0001", "1", "0", "1.5"],
        ["long", "optimizer.lr=1e-05", "1", "0", "1.5"],
    ]
    assert outcome.code == 0


@pytest.mark.slow
def test_a_plan_of_a_search(command: Command) -> None:
    outcome = command(
        "mode=plan sweep.dir=out sweep.search=optuna sweep.num_trials=7 method=sft 'optimizer.lr=interval(1e-5,1e-3)'"
    )
    assert outcome.out.splitlines() == [
        "default: 7 trials in out, 0 begun, for eval/cross_entropy",
        "  optimizer.lr=interval(1e-5,1e-3)",
        "  method=sft",
        "  seed=0,1",
    ]
    assert (outcome.code, command.files()) == (0, [])


# How far a sweep is


@pytest.fixture
def begun(command: Command) -> Iterator[list[Job]]:
    """Six runs in out: done, failed, stopped, running, interrupted, not started."""
    out = command.folder / "out"
    planned = Planner(out, grid()).jobs(["method=sft", "seed=range(6)"])
    out.mkdir()
    write_manifest(out, Manifest({}, (), tuple(planned)))
    done, failed, stopped, running, interrupted, _ = planned
    for job in (done, interrupted):
        jobs.folder(out, job.name).mkdir(parents=True)
    (jobs.folder(out, done.name) / "summary.json").write_text('{"status": "completed"}')
    (jobs.folder(out, interrupted.name) / "summary.json").write_text('{"status": "interrupted"}')
    states.record(out, failed, states.FAILED, "the loss is not finite")
    states.record(out, stopped, states.STOPPED, "stopped early at step 3")
    descriptor = states.claim(out, running)
    assert descriptor is not None
    yield planned
    os.close(descriptor)


@pytest.mark.slow
def test_the_status_of_a_sweep(command: Command, begun: list[Job]) -> None:
    before = command.files()
    outcome = command("mode=status sweep.dir=out")
    names = [job.name for job in begun]
    kinds = ["done", "failed", "stopped", "running", "interrupted", "not started"]
    rows = [line.split(maxsplit=3) for line in outcome.out.splitlines()]
    assert [[row[0], row[2], row[3]] for row in rows[:7]] == [
        ["run", "seed", "state"],
        *([*row] for row in zip(names, "012345", kinds, strict=True)),
    ]
    assert outcome.out.splitlines()[7:] == [
        f"{names[1]}: the loss is not finite",
        f"{names[2]}: stopped early at step 3",
        "6 runs in out: 1 done, 1 failed, 1 stopped, 1 running, 1 interrupted, 1 not started",
    ]
    assert (outcome.code, outcome.err, command.files()) == (0, "", before)


@pytest.mark.slow
def test_a_plan_says_what_is_done(command: Command, begun: list[Job]) -> None:
    first, *_, row = command("mode=plan sweep.dir=out method=sft seed=range(7)").out.splitlines()
    assert first == "default: 7 runs in out, 1 done, 1 failed, 1 stopped, 1 running, 1 interrupted, 2 not started"
    assert row.split()[:4] == ["runs", "7", "1", "40"]


# Mistakes


OPTUNA = "sweep.search=optuna method=sft"
SENTENCES = {
    "sampler.n_sample=1": (
        "method=sft seed=0 sampler.n_sample=1 cannot run: sampler.n_sample is not a key of the configuration; "
        "did you mean sampler.n_samples?"
    ),
    "method=sft,dpo": "method=dpo seed=0 cannot run: method=dpo does not exist; the options are ebft, rlvr, sft.",
    "sampler.n_samples=1,2": "method=rlvr seed=0 sampler.n_samples=1 cannot run: "
    "sampler.n_samples=1 is too small for method.advantage=rloo; use at least 2, or method.advantage=none.",
    "seed=0,1,two": "method=sft seed=two cannot run: seed=two is not a whole number.",
    "sweep.grid=[]": "sweep.grid is empty; name what runs differ in, as in: ebft-sweep method=sft,ebft seed=0,1.",
    "seed": "seed is not of the form KEY=VALUE; put a value with special characters in quotes: 'KEY=\"VALUE\"'.",
    "hydra.run.dir=x": "hydra.run.dir=x is for ebft-sweep to set; leave it out, and choose the folder with sweep.dir.",
    "--multirun seed=0": (
        "--multirun is no option of ebft-sweep; besides --help, --cfg job, -sc and --config-dir it takes "
        "KEY=VALUE alone."
    ),
    "mode=plam": "mode=plam is not one of plan, run, status, collect, power.",
    "mode=null": "mode=null is not a string.",
    "mode=run,plan": (
        "mode=run,plan lists several values, and ebft-sweep takes one; put brackets around a list: KEY=[1,2]."
    ),
    "mode.x=1": "mode.x is not a key of the configuration; see ebft-sweep --help.",
    "mode=status seed=0": "mode=status reads what lies in sweep.dir=outputs/sweeps/default; leave out seed=0.",
    "mode=collect sweep.dir=x method=sft seed=1": (
        "mode=collect reads what lies in sweep.dir=x; leave out method=sft seed=1."
    ),
    "mode=status sweep.dir=x": "sweep.dir=x holds no sweep; name the folder of one.",
    "mode=power sweep.dir=x": "sweep.dir=x is no folder; name one that holds runs.",
    "mode=power sweep.dir=x sweep.difference=0": "sweep.difference=0.0 must be above 0.",
    "mode=collect sweep.dir=x": "sweep.dir=x is no folder; name one that holds runs.",
    "sweep=laptop_code": "sweep=laptop_code does not exist; did you mean laptop_code_qa? The options are ",
    "sweep=null": "sweep=null names no option of sweep; ebft-sweep --help lists them.",
    "sweep.retry_faild=true": "sweep.retry_faild is not a key of the configuration; did you mean sweep.retry_failed?",
    "+sweep.foo=1": "sweep.foo is not a key of the configuration; there are sweep.name, sweep.dir, ",
    "sweep.num_trials=many": "sweep.num_trials=many is not a whole number.",
    "sweep.search=random": "sweep.search=random is not one of grid, optuna.",
    "sweep.grid=[[1]]": "sweep.grid=[[1]] is not a list of strings in brackets.",
    "sweep.variants.a=[seed]": "sweep.variants.a is not set yet; write +sweep.variants.a=VALUE to add it.",
    "+sweep.variants.a=1": "sweep.variants.a=1 is not a list of strings in brackets.",
    "+sweep.reported.a=1": "sweep.reported.a=1 is not a mapping to numbers, as {a: 1}.",
    "+sweep.reported.a.greedy=x": "sweep.reported.a={greedy: x} is not a mapping to numbers, as {a: 1}.",
    "launcher=slrum": "launcher=slrum does not exist; did you mean slurm? The options are local, ray, slurm.",
    "launcher.slots=2": (
        "launcher.slots is not a key of the configuration; there are launcher.name, launcher.slots_per_device, "
    ),
    "launcher.max_jobs=2": (
        "launcher.max_jobs belongs to launcher=slurm or launcher=ray; choose one of them or leave the key out."
    ),
    "launcher.slots_per_device=0": "launcher.slots_per_device=0 must be at least 1.",
    "sweep.metrics=[eval/greed]": "eval/greed is not a metric of an evaluation; did you mean eval/greedy?",
    "sweep.metric=train/loss": "train/loss is not a metric of an evaluation; ",
    f"{OPTUNA} seed=0,1": "sweep.search=optuna has nothing to search; give a key several values, as in ",
    f"{OPTUNA} sweep.metric=eval/entropy@1": (
        "sweep.metric=eval/entropy@1 is better neither high nor low; choose one that is, such as "
    ),
    "sweep.early_stopping=median sweep.metric=eval/entropy@1": (
        "sweep.metric=eval/entropy@1 is better neither high nor low; choose one "
    ),
    "sweep.early_stopping=median sweep.metric=eval/pass@8 seed=0,1": (
        "sweep.metric names eval/pass@8, which no run measures; leave it out, or set "
    ),
    f"{OPTUNA} optimizer.lr=1e-4,1e-3 sweep.metric=eval/bleu": "sweep.metric names eval/bleu, which no run measures; ",
}


@pytest.mark.slow
@pytest.mark.parametrize("line", SENTENCES)
def test_a_mistake_is_one_sentence_and_leaves_nothing(command: Command, line: str) -> None:
    outcome = command(line)
    sentence = SENTENCES[line]
    assert outcome.err.startswith(sentence)
    assert outcome.err.count("\n") == 1
    assert sentence[-1] not in ".?" or outcome.err == sentence + "\n"
    assert (outcome.code, outcome.out, command.files(), command.compared) == (2, "", [], [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("sweep.dir=file", "sweep.dir=file is a file; choose another sweep.dir."),
        ("sweep.dir=others", "sweep.dir=others holds files but no sweep; choose an empty or a new sweep.dir."),
        (
            "sweep.dir=broken",
            "broken/sweep.json is not a manifest of this version of ebft-sweep; choose another sweep.dir.",
        ),
        (
            "sweep.dir=foreign",
            "foreign/sweep.json is not a manifest of this version of ebft-sweep; choose another sweep.dir.",
        ),
        ("mode=status sweep.dir=file", "sweep.dir=file holds no sweep; name the folder of one."),
        ("mode=status sweep.dir=others", "sweep.dir=others holds no sweep; name the folder of one."),
        (
            "mode=status sweep.dir=foreign",
            "foreign/sweep.json is not a manifest of this version of ebft-sweep; choose another sweep.dir.",
        ),
        ("mode=collect sweep.dir=file", "sweep.dir=file is no folder; name one that holds runs."),
        (
            "mode=collect sweep.dir=broken",
            "broken/sweep.json is not a manifest of this version of ebft-sweep; choose another sweep.dir.",
        ),
    ],
)
def test_a_folder_that_is_none_of_ours_stays_as_it_is(command: Command, line: str, sentence: str) -> None:
    for name, text in (
        ("file", ""),
        ("others/mine", ""),
        ("broken/sweep.json", '{"runs": ['),
        ("foreign/sweep.json", '{"runs": 3}'),
    ):
        (command.folder / name).parent.mkdir(exist_ok=True)
        (command.folder / name).write_text(text)
    before = command.files()
    outcome = command(line)
    assert (outcome.code, outcome.out, outcome.err, command.files()) == (2, "", sentence + "\n", before)


@pytest.mark.slow
def test_another_sweep_s_folder_is_refused_and_a_larger_grid_of_the_same_is_not(command: Command) -> None:
    assert command("sweep.dir=out method=sft seed=0,1").code == 0
    before = command.files()
    for line, sentence in {
        "method=sft seed=1,2": (
            "sweep.dir=out holds another sweep: 1 of its 2 runs are not in this one, such as method=sft seed=0; "
        ),
        "method=ebft seed=0,1": (
            "sweep.dir=out holds another sweep: 2 of its 2 runs are not in this one, such as method=sft seed=0; "
        ),
        "sweep.search=optuna method=sft,ebft": "sweep.dir=out holds another sweep (a grid there); ",
    }.items():
        outcome = command(f"sweep.dir=out {line}")
        assert (outcome.code, outcome.out, outcome.err, command.files()) == (
            2,
            "",
            f"{sentence}choose another sweep.dir.\n",
            before,
        )
    assert command("sweep.dir=out method=sft,ebft seed=0,1").code == 0
    assert len([what for _, what in command.diary() if what == "start 0"]) == 4


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["file/below", "file/below/that", "/proc/ebft/below"])
def test_a_folder_that_cannot_be_made(command: Command, folder: str) -> None:
    """It once ended in a traceback."""
    (command.folder / "file").touch()
    outcome = command(f"sweep.dir={folder} method=sft seed=0")
    assert re.fullmatch(rf"sweep\.dir={folder} cannot be written \(.+\); choose another sweep\.dir\.\n", outcome.err)
    assert (outcome.code, command.files()) == (2, ["file"])


def test_a_sweep_that_may_not_be_read(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """It once ended in a traceback."""

    def refuse(*args: object, **kwargs: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(jobs, "text_of", refuse)
    with pytest.raises(
        UserError, match=r"^theirs/sweep\.json cannot be read \(Permission denied\); choose another sweep\.dir\.$"
    ):
        read_manifest(Path("theirs"))


# Runs


@pytest.mark.slow
def test_everything_done_is_exit_code_0_and_a_second_time_nothing_runs(command: Command) -> None:
    first = command(
        "sweep.dir=out method=sft,ebft seed=0,1 launcher.slots_per_device=2 sweep.metrics=[eval/cross_entropy]"
    )
    assert (first.code, first.err) == (0, "")
    assert sorted(command.diary()) == sorted(
        (job.name, what) for job in command.jobs() for what in ("start 0", "completed")
    )
    second = command("sweep.dir=out method=sft,ebft seed=0,1 sweep.split=[]")
    assert (second.code, second.out.splitlines()[-1], len(command.diary())) == (0, "4 done before, of 4 runs", 8)
    (settings, directory, compared), (_, _, again) = command.compared
    assert (settings.metrics, directory, compared, again) == (
        ["eval/cross_entropy"],
        Path("out"),
        list(command.jobs()),
        list(command.jobs()),
    )


@pytest.mark.slow
def test_a_failure_is_exit_code_1_and_is_tried_again_when_asked(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILING", "seed=1")
    _, bad = Planner(Path("out"), grid()).jobs(["method=sft", "seed=0,1"])
    lines = [
        f"failed {bad.name}: optimizer.lr=-1 must be above 0. (exit code 2, out/logs/{bad.name}.log)",
        "1 of 2 runs failed; put them right and run the same command with sweep.retry_failed=true.",
    ]
    for _ in range(2):  # the second time nothing is started, and the exit code stays
        outcome = command("sweep.dir=out method=sft seed=0,1")
        assert (outcome.code, outcome.out.splitlines()[-2:], outcome.err) == (1, lines, "")
        assert len(command.diary()) == 3
    assert command("sweep.dir=out method=sft seed=0,1 sweep.retry_failed=true").code == 0
    assert [what for name, what in command.diary() if name == bad.name] == ["start 0", "start 0", "completed"]
    assert len(command.compared) == 3


@pytest.mark.slow
def test_an_interrupt_is_exit_code_130_and_the_same_command_goes_on(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    say = Console.say

    def interrupt(self: Console, text: str) -> None:
        say(self, text)
        if text.startswith("started"):
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Console, "say", interrupt)
        outcome = command("sweep.dir=out method=sft seed=0,1,2")
    assert (outcome.code, outcome.out.splitlines()[-1], command.compared) == (
        130,
        "Interrupted; the same command goes on.",
        [],
    )
    assert command("sweep.dir=out method=sft seed=0,1,2").code == 0
    assert [name for name, what in command.diary() if what == "completed"] == [job.name for job in command.jobs()]


def test_an_interrupt_while_planning_is_one_line(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """It once ended in a traceback."""

    def interrupt(self: Planner, command_line: Sequence[str]) -> list[Job]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Planner, "jobs", interrupt)
    outcome = command("sweep.dir=out seed=0,1")
    assert (outcome.code, outcome.out, outcome.err, command.files()) == (130, "", "Interrupted.\n", [])


def test_a_bug_keeps_its_traceback(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Planner, command_line: Sequence[str]) -> list[Job]:
        raise KeyError("ours")

    monkeypatch.setattr(Planner, "jobs", fail)
    with pytest.raises(KeyError, match="ours"):
        command("seed=0,1")


SEARCH = "sweep.dir=out sweep.search=optuna method=sft seed=0 'optimizer.lr=tag(log,interval(1e-5,1e-3))'"


@pytest.mark.slow
def test_a_search_ends_with_its_best_trial_and_goes_on_with_more(command: Command) -> None:
    first = command(f"{SEARCH} sweep.num_trials=2")
    assert first.code == 0
    assert re.fullmatch(r"Best trial: optimizer\.lr=\S+ with eval/cross_entropy = 0\.0000", first.out.splitlines()[-1])
    trials = command.jobs()
    assert [job.trial for job in trials] == [0, 1]
    assert command(f"{SEARCH} sweep.num_trials=3").code == 0
    assert command.jobs()[:2] == trials
    assert [name for name, what in command.diary() if what == "completed"] == [job.name for job in command.jobs()]
    other = command(SEARCH.replace("1e-5", "1e-6"))
    axes = "optimizer.lr=tag(log,interval(1e-5,1e-3)) method=sft seed=0"
    assert (other.code, other.err) == (
        2,
        f"sweep.dir=out holds another sweep ({axes} there); choose another sweep.dir.\n",
    )


@pytest.mark.slow
def test_a_resumed_search_keeps_the_trials_that_it_has_not_come_to(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two open trials it takes up one at a time; interrupted there, it once forgot the other."""
    say = Console.say

    def interrupt(self: Console, text: str) -> None:
        say(self, text)
        if text.startswith("started"):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Console, "say", interrupt)
    assert command(f"{SEARCH} sweep.num_trials=2 launcher.slots_per_device=2").code == 130
    both = command.jobs()
    assert [job.trial for job in both] == [0, 1]
    assert command(f"{SEARCH} sweep.num_trials=2").code == 130
    assert command.jobs() == both


# Comparisons


@pytest.mark.slow
def test_collecting_takes_up_what_the_sweep_was_told_and_more(command: Command, begun: list[Job]) -> None:
    told = {"sweep.metrics": ["eval/greedy"], "sweep.reference": "a", "sweep.variants": {"a": ["method=sft"]}}
    write_manifest(command.folder / "out", Manifest(told, (), tuple(begun)))
    assert command("mode=collect sweep.dir=out sweep.reference=b sweep.split=[seed]").code == 0
    ((settings, directory, compared),) = command.compared
    assert (settings.metrics, settings.reference, settings.split, settings.variants) == (
        ["eval/greedy"],
        "b",
        ["seed"],
        {"a": ["method=sft"]},
    )
    assert (directory, compared) == (Path("out"), tuple(begun))


@pytest.mark.slow
def test_a_sweep_keeps_what_it_was_told_of_its_comparison(command: Command) -> None:
    """What is added with a plus, too, which was once forgotten."""
    assert (
        command(
            f"sweep.dir=out sweep.reference=short {GRID} {SHORT} launcher.slots_per_device=2 trainer.dtype=fp32"
        ).code
        == 0
    )
    stored = read_manifest(command.folder / "out")
    assert stored is not None
    assert stored.settings.keys() == {f"sweep.{item.name}" for item in fields(GridConfig)} - {"sweep.dir"}
    assert (stored.settings["sweep.reference"], list(stored.settings["sweep.variants"])) == ("short", ["short"])


@pytest.mark.slow
def test_a_stranger_s_sweep_is_data(command: Command, begun: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings were arguments once, and mode=collect composed whatever they said."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    text = "${oc.env:HF_TOKEN}"
    write_manifest(command.folder / "out", Manifest({"sweep.name": text, "sweep.by": [text]}, (), tuple(begun)))
    assert command("mode=collect sweep.dir=out").code == 0
    ((told, _, _),) = command.compared
    assert (told.name, told.by) == (text, [text])
    for key, value, sentence in (
        ("sweep", "../../evil", "out/sweep.json has sweep, which is no setting of a sweep; run its ebft-sweep again."),
        ("hydra.searchpath", ["file:///x"], "out/sweep.json has hydra.searchpath, which is no setting of a sweep; run"),
        ("launcher.name", "slurm", "out/sweep.json has launcher.name, which is no setting of a sweep; run"),
        ("sweep.metrics", "eval/greedy", "sweep.metrics=eval/greedy is not a list of strings in brackets."),
    ):
        write_manifest(command.folder / "out", Manifest({key: value}, (), tuple(begun)))
        outcome = command("mode=collect sweep.dir=out")
        assert outcome.code == 2
        assert outcome.err.startswith(sentence)


def test_any_folder_of_runs_can_be_collected(command: Command) -> None:
    (command.folder / "runs").mkdir()
    assert command("mode=collect sweep.dir=runs sweep.name=mine").code == 0
    ((settings, directory, compared),) = command.compared
    assert (settings.name, directory, compared) == ("mine", Path("runs"), None)


@pytest.mark.slow
def test_pilots_say_what_more_seeds_and_rows_would_see(command: Command) -> None:
    pilots(command.folder / "pilots", SFT, "sft")
    before = command.files()
    outcome = command("mode=power sweep.dir=pilots sweep.difference=2")
    assert outcome.code == 0
    assert "To tell a difference of 2.0000 from 0 at 5 % with a chance of 80 %:" in outcome.out
    assert command.files() == before
    refused = command("mode=power sweep.dir=pilots sweep.metric=eval/greedy")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith(
        "mode=power found no pilots for eval/greedy: it needs a cell and its reference with 2"
    )


def test_a_folder_where_no_comparison_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's sweep: it once ended in a traceback."""

    def refuse(compared: object, directory: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(comparison, "compare", lambda *args: None)
    monkeypatch.setattr(comparison, "write", refuse)
    sentence = (
        f"sweep.dir={tmp_path} cannot be written (Permission denied), where the comparison goes; collect a copy of it."
    )
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        reading.write_comparison(grid(), tmp_path, [], print)


@pytest.mark.parametrize(("group", "expected"), [("", "mine"), ("tracker.group=theirs", "theirs")])
def test_the_comparison_is_tracked_where_its_runs_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, expected: str
) -> None:
    started: list[Any] = []
    rows: list[Any] = []
    tracker = SimpleNamespace(table=lambda *table: rows.append(table), finish=lambda failed: rows.append(failed))
    monkeypatch.setattr(tracking, "start", lambda *args: started.append(args) or tracker)
    monkeypatch.setattr(comparison, "summary_rows", lambda compared: (["cell", "eval/greedy"], [["sft", 0.5]]))
    settings = grid(name="mine")
    planned = Planner(tmp_path, settings).jobs(["method=sft", "tracker=wandb", *group.split()])
    reading.track(settings, tmp_path, planned, None)
    ((tracked, directory, _, run_ids),) = started
    assert (tracked.group, tracked.run_name, directory, run_ids) == (expected, "mine comparison", tmp_path, {})
    assert rows == [("comparison", 0, [["sft", 0.5]], ["cell", "eval/greedy"]), False]
    reading.track(settings, tmp_path, [replace(job, config=None) for job in planned], None)
    assert len(started) == 1


def test_runs_that_are_not_tracked_leave_the_comparison_untracked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "start", lambda *args: pytest.fail("tracked"))
    reading.track(grid(), tmp_path, Planner(tmp_path, grid()).jobs(["method=sft"]), None)


def test_a_folder_with_nothing_to_compare_stays_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished run"):
        reading.write_comparison(grid(), tmp_path, None, print)
    assert list(tmp_path.iterdir()) == []


def test_notes_of_what_is_not_done() -> None:
    kinds = [states.State(states.DONE), states.State(states.FAILED, "no memory"), states.State(states.NEW)]
    assert [reading._note(known) for known in kinds] == ["", "failed: no memory", "not started"]


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    command = f"'{sys.executable}' -m ebft.cli.sweep method=sft seed=0 mode=plan 'sweep.dir={tmp_path}/out' | true"
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")


LIGHT = """
import sys
from ebft.cli.sweep import main
sys.argv = ["ebft-sweep", "method=sft", "seed=0", "mode=plan", "sweep.dir=out"]
try:
    main()
except SystemExit:
    pass
print("heavy:", sorted({"torch", "transformers", "datasets", "pandas", "matplotlib", "numpy"} & set(sys.modules)))
"""


@pytest.mark.slow
def test_a_plan_loads_neither_torch_nor_what_writes_a_comparison(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("heavy: []\n")
