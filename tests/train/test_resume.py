"""A run that is stopped, killed or made longer, anywhere and again and again, against one that nothing disturbed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ebft import methods
from ebft.cli.compose import compose
from ebft.config.schema import TrainConfig, UserError
from ebft.data import Tokenization, load
from ebft.evaluation import Evaluator
from ebft.models.loading import load_tokenizer
from ebft.output.files import remove
from ebft.report import run_page as report
from ebft.run import checked, checkpoint
from ebft.run.folder import Run
from ebft.train.continuing import check_continues
from ebft.train.loop import train
from ebft.train.optimization import Optimization
from ebft.train.setup import prepare
from tests.debug_run import MAX_STEPS, assert_same_run, final_state, miniature, pairs, rows, same, summary

ROOT = Path(__file__).parents[2]
WRITE_REPORT = report.write
pytestmark = pytest.mark.usefixtures("no_report")
SIGTERM, CTRL_C, KILL = "SIGTERM", "Ctrl-C", "kill"


class Killed(BaseException):
    """Stands for kill -9: nothing that the program does on its way out may count."""


# Places where a run can be hit: the owner of a function, its name, and whether before or after the call.
PLACES = {
    "step": (Optimization, "step", "before"),
    "stepped": (Optimization, "step", "after"),
    "evaluation": (Evaluator, "_score", "after"),
    "log": (Run, "log", "before"),
    "logged": (Run, "log", "after"),
    "samples": (Run, "samples", "before"),
    "save": (checkpoint.Saving, "__init__", "before"),
    "saved": (checkpoint.Saving, "complete", "after"),
    "export": (checkpoint, "export", "before"),
    "exported": (checkpoint, "export", "after"),
}


def hit(monkeypatch: pytest.MonkeyPatch, place: str, occurrence: int, how: str) -> None:
    """Let the run be hit at the given occurrence of a place, counted from 1."""
    owner, name, moment = PLACES[place]
    original, calls = getattr(owner, name), 0

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if moment == "before" and calls == occurrence:
            strike(how)
        result = original(*args, **kwargs)
        if moment == "after" and calls == occurrence:
            strike(how)
        return result

    monkeypatch.setattr(owner, name, wrapper)
    if how == KILL:
        monkeypatch.setattr(Run, "finish", lambda *args, **kwargs: None)


def strike(how: str) -> None:
    if how == KILL:
        raise Killed
    os.kill(os.getpid(), signal.SIGTERM if how == SIGTERM else signal.SIGINT)


def live(config: TrainConfig, run_dir: Path, place: str, occurrence: int, how: str) -> None:
    """One life of a run, to the place where it is hit."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        hit(monkeypatch, place, occurrence, how)
        if how == KILL:
            with pytest.raises(Killed):
                train(config, run_dir)
            assert not (run_dir / "summary.json").exists()
        else:
            train(config, run_dir)
            assert summary(run_dir)["status"] == "interrupted"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# The lives of one run, each ending at the OCCURRENCE-th time that it comes to PLACE.
LIVES = [
    ("evaluation", 1, SIGTERM),  # during the evaluation at step 0, which is put off
    ("samples", 1, KILL),  # that evaluation is logged now, and logged again in the next life
    ("step", 1, SIGTERM),
    ("log", 2, KILL),  # the third step was taken and is taken again
    ("evaluation", 2, CTRL_C),  # at step 3, where no checkpoint is due
    ("step", 1, KILL),  # after the evaluation at step 3, from a checkpoint that does not know of it
    ("saved", 1, KILL),
    ("save", 2, KILL),  # step 8, the end of an epoch
    ("stepped", 3, CTRL_C),
    ("saved", 1, SIGTERM),
    ("evaluation", 1, SIGTERM),  # at step 9
    ("evaluation", 3, SIGTERM),  # the last step is taken, its evaluation not finished
    ("logged", 1, KILL),
    ("export", 1, KILL),
    ("exported", 1, KILL),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["method=sft", "optimizer.schedule=cosine"],
        [
            "method=ebft",
            "optimizer.ema_decay=0.7",
            "optimizer.schedule=constant_with_warmup",
            "trainer.keep_checkpoints=1",
        ],
    ],
    ids=["sft", "ebft"],
)
def test_a_run_of_many_lives_equals_one_that_nothing_disturbed(tmp_path: Path, options: list[str]) -> None:
    config = miniature(tmp_path, *options)
    train(config, tmp_path / "straight")
    for place, occurrence, how in LIVES:
        live(config, tmp_path / "run", place, occurrence, how)
    train(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "straight")


@pytest.mark.slow
def test_a_run_that_is_stopped_evaluates_before_it_leaves_and_goes_on_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked at step 5, and while it evaluates at step 6: both times it is saved first."""
    config = miniature(tmp_path, "method=sft")
    train(config, tmp_path / "straight")
    asked = miniature(tmp_path, "method=sft", "eval.on_interrupt=true")
    run = tmp_path / "run"
    for place, occurrence, step in (("stepped", 5, 5), ("evaluation", 1, 6)):
        live(asked, run, place, occurrence, SIGTERM)
        assert (summary(run)["steps"], summary(run)["evaluated"]) == (step, step)
        assert summary(run)["change"].keys() >= {"eval/cross_entropy"}
        assert f"Run interrupted after {step} steps, evaluated last at step {step}." in capsys.readouterr().out
    train(config, run)
    assert same(final_state(run)["model"], final_state(tmp_path / "straight")["model"])
    assert rows(run / "metrics.jsonl") == sorted(
        [
            *rows(tmp_path / "straight" / "metrics.jsonl"),
            *(row for row in rows(run / "metrics.jsonl") if row["step"] == 5 and "eval/cross_entropy" in row),
        ],
        key=lambda row: row["step"],
    )


@pytest.mark.slow
def test_metrics_that_are_gone_are_said_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are on the disk before the checkpoint that comes after them."""
    config, run = miniature(tmp_path, "method=sft", "trainer.max_steps=2", "eval.every_steps=9"), tmp_path / "run"
    synced: list[str] = []
    monkeypatch.setattr("ebft.output.files.sync", lambda path: synced.append(path.name))
    monkeypatch.setattr(checked, "write", partial(noting, synced, checked.write))
    live(config, run, "stepped", 1, SIGTERM)
    assert synced.index("metrics.jsonl") < synced.index("state.pt")
    (run / "metrics.jsonl").unlink()
    capsys.readouterr()
    assert train(config, run) == "completed"
    assert (
        "metrics.jsonl lacks the rows of 1 of the 1 steps so far; its plots and the comparison have them no more."
        in capsys.readouterr().out
    )


def noting(names: list[str], function: Any, path: Path, *rest: Any) -> None:
    names.append(path.name)
    function(path, *rest)


LORA = ["model/adapter=lora", "model.adapter.rank=3"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["method=sft", "optimizer.ema_decay=0.7"],
        ["method=ebft", "trainer.micro_batch_size=1"],
        [
            "method=sft",
            *LORA,
            "model.adapter.dropout=0.3",
            "optimizer.ema_decay=0.7",
        ],  # which draws from torch's global generator
        ["method=ebft", *LORA, "trainer.gradient_checkpointing=true"],
    ],
    ids=["sft", "ebft", "adapters with dropout", "adapters"],
)
def test_five_and_five_steps_equal_ten(tmp_path: Path, options: list[str]) -> None:
    """The other half of the settings: an average without a method's rollouts, rollouts without an average, another
    accumulation."""
    config = miniature(tmp_path, *options, "optimizer.schedule=linear")
    train(config, tmp_path / "straight")
    live(config, tmp_path / "run", "stepped", 5, SIGTERM)
    assert (final_state(tmp_path / "run", 5)["step"], summary(tmp_path / "run")["steps"]) == (5, 5)
    train(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "straight")


@pytest.mark.slow
def test_a_model_that_draws_random_numbers_goes_on_with_its_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of ours draws from torch's global generator; what a model brings along may."""
    original = methods.sft.cross_entropy
    monkeypatch.setattr(methods.sft, "cross_entropy", lambda *args: original(*args) * (1 + torch.rand(())))
    config = miniature(tmp_path, "method=sft")
    train(config, tmp_path / "straight")
    live(config, tmp_path / "run", "stepped", 5, SIGTERM)
    torch.manual_seed(99)
    train(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["constant_with_warmup", "cosine"])
def test_a_longer_run_goes_on_where_the_shorter_one_ended(tmp_path: Path, schedule: str) -> None:
    """The schedule is that of the longer run from its first step on: 0 at the end of the shorter one must not cost a
    step."""
    options = ["method=sft", f"optimizer.schedule={schedule}", "optimizer.warmup_fraction=0.1", "eval.every_steps=5"]
    train(miniature(tmp_path, *options), tmp_path / "straight")
    train(miniature(tmp_path, *options, "trainer.max_steps=5"), tmp_path / "run")
    train(miniature(tmp_path, *options), tmp_path / "run")
    if schedule == "constant_with_warmup":  # the same schedule at both lengths
        assert_same_run(tmp_path / "run", tmp_path / "straight")
    rates, straight = (
        [row["train/lr"] for row in rows(tmp_path / run / "metrics.jsonl") if "train/lr" in row]
        for run in ("run", "straight")
    )
    assert rates[5:] == straight[5:]
    assert min(rates[5:]) > 0


WORSENING = ("method=sft", "optimizer.lr=3", "optimizer.warmup_fraction=0", "trainer.keep_checkpoints=1",
             "trainer.keep_best=eval/cross_entropy")  # fmt: skip


@pytest.mark.slow
def test_the_best_checkpoint_outlives_newer_ones_and_a_run_that_stops_early_resumes_as_if_undisturbed(
    tmp_path: Path,
) -> None:
    """At this rate the evaluation before training stays the best: those at 3 and 6 are waited for, the one at 9 is
    not."""
    config, straight, run = (
        miniature(tmp_path, *WORSENING, "trainer.stop_after=2"),
        tmp_path / "straight",
        tmp_path / "run",
    )
    train(config, straight)
    for place, occurrence, how in (
        ("logged", 1, KILL),  # the best is known, its checkpoint not written
        ("evaluation", 4, SIGTERM),  # at step 3
        ("step", 2, CTRL_C),  # with one evaluation waited for
        ("export", 2, KILL),  # of the best, after the last
    ):
        live(config, run, place, occurrence, how)
    train(config, run)
    assert summary(run)["best"] == summary(straight)["best"]
    assert summary(run)["best"]["figures"] == summary(run)["base"]
    assert (summary(run)["status"], summary(run)["steps"], summary(run)["best"]["step"]) == ("completed", 6, 0)
    assert rows(run / "metrics.jsonl") == rows(straight / "metrics.jsonl")
    assert sorted(os.listdir(run / "checkpoints")) == ["step_000000", "step_000006"]
    for name in ("model", "best_model"):
        files = (folder / name / "model.safetensors" for folder in (run, straight))
        assert len({file.read_bytes() for file in files}) == 1
    assert (run / "model" / "model.safetensors").read_bytes() != (run / "best_model" / "model.safetensors").read_bytes()
    assert "at step 6 of 10: no better eval/cross_entropy in 2 evaluations" in (run / "train.log").read_text()

    train(miniature(tmp_path, *WORSENING), run)  # goes on where it stopped
    assert (summary(run)["steps"], summary(run)["best"]["step"]) == (10, 0)
    (before,) = checkpoint.of_step(run, 0).glob("tensors*")
    remove(before.parent)
    train(miniature(tmp_path, *WORSENING, "trainer.max_steps=11"), run)
    assert "sought from step 10 on; none before is kept" in (run / "train.log").read_text()
    assert summary(run)["best"]["step"] in (10, 11)


@pytest.mark.slow
def test_the_average_of_the_best_step_is_what_is_exported(tmp_path: Path) -> None:
    """Before the first step there is none; later the checkpoint's own, not that of the end."""
    options = ["method=sft", "optimizer.ema_decay=0.7", "trainer.keep_best=eval/cross_entropy"]
    train(miniature(tmp_path, *options, "optimizer.lr=20", "trainer.max_steps=4"), tmp_path / "worse")
    plain = load_file(tmp_path / "worse" / "best_model" / "model.safetensors")
    assert summary(tmp_path / "worse")["best"]["step"] == 0
    assert same(plain, {name: final_state(tmp_path / "worse", 0)["model"][name] for name in plain})
    train(miniature(tmp_path, *options), tmp_path / "better")
    assert summary(tmp_path / "better")["best"]["step"] == MAX_STEPS
    files = [tmp_path / "better" / name / "model.safetensors" for name in ("model", "best_model")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_a_shorter_run_than_the_one_that_is_there_is_refused(tmp_path: Path) -> None:
    """It once ran on for ever, for its step was never the last."""
    train(miniature(tmp_path, "method=sft", "trainer.max_steps=3"), tmp_path / "run")
    with pytest.raises(
        UserError, match=r"resume=auto is at step 3, beyond this run's 2 steps; raise trainer.max_steps"
    ):
        train(miniature(tmp_path, "method=sft", "trainer.max_steps=2"), tmp_path / "run")
    assert summary(tmp_path / "run")["status"] == "completed"


@pytest.mark.slow
def test_resume_never_and_other_configs_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(miniature(tmp_path, "method=sft", "trainer.max_steps=1"), run)
    with pytest.raises(
        UserError, match=r"already holds a run; continue it with resume=auto or choose another hydra.run.dir"
    ):
        train(miniature(tmp_path, "method=sft", "trainer.max_steps=1", "resume=never"), run)
    with pytest.raises(UserError, match=r"holds a run of another config \(optimizer.lr is 0.01 there, 0.02 here\)"):
        train(miniature(tmp_path, "method=sft", "trainer.max_steps=1", "optimizer.lr=0.02"), run)
    assert summary(run)["status"] == "completed"


@pytest.mark.slow
def test_resume_from_a_path_into_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = miniature(tmp_path, "method=sft")
    live(config, tmp_path / "old", "stepped", 5, SIGTERM)
    train(config, tmp_path / "straight")
    monkeypatch.setattr(report, "write", WRITE_REPORT)  # which has to do without a row of the base evaluation
    train(
        miniature(tmp_path, "method=sft", f"resume={tmp_path / 'old' / 'checkpoints' / 'step_000005'}"),
        tmp_path / "new",
    )
    assert same(final_state(tmp_path / "new")["model"], final_state(tmp_path / "straight")["model"])
    assert rows(tmp_path / "new" / "metrics.jsonl") == rows(tmp_path / "straight" / "metrics.jsonl")[7:]
    assert summary(tmp_path / "new")["base"] == summary(tmp_path / "straight")["base"]
    assert summary(tmp_path / "old")["status"] == "interrupted"
    assert (tmp_path / "new" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.config_overrides.num_hidden_layers=3",
            "leads to a checkpoint of another model; set model as it was there",
        ),
        ("optimizer.ema_decay=0.5", "optimizer.ema_decay=0.5, but the checkpoint of resume="),
        ("model/adapter=lora", "leads to a checkpoint of another model; set model as it was there"),
    ],
)
def test_a_checkpoint_that_does_not_fit_leaves_no_folder(tmp_path: Path, override: str, message: str) -> None:
    train(miniature(tmp_path, "method=sft", "trainer.max_steps=1"), tmp_path / "old")
    with pytest.raises(UserError, match=message):
        train(miniature(tmp_path, "method=sft", override, f"resume={tmp_path / 'old'}"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_adapters_of_another_base_leave_no_folder(tmp_path: Path) -> None:
    """Their shapes are the same, and a checkpoint holds nothing of the base but its fingerprint."""
    train(miniature(tmp_path, "method=sft", *LORA, "trainer.max_steps=1"), tmp_path / "old")
    with pytest.raises(
        UserError,
        match=r"^resume=\S+ leads to adapters of another base than model\.path=tiny; set model as it was there\.$",
    ):
        train(miniature(tmp_path, "method=sft", *LORA, "seed=1", f"resume={tmp_path / 'old'}"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


COMMAND = [sys.executable, "-m", "ebft.cli.train"]


def run_until(command: list[str], run: Path, step: int, number: signal.Signals) -> tuple[int, str]:
    """Start a process, signal it once it has trained to `step`, and give its exit code and error output."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while (
        not (run / "metrics.jsonl").exists() or f'{{"step": {step}, "train/' not in (run / "metrics.jsonl").read_text()
    ):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


@pytest.mark.slow
def test_signals_end_a_process_in_order_and_it_goes_on(tmp_path: Path) -> None:
    """SIGTERM, then Ctrl-C: exit code 130, status interrupted, and a last life that ends completed with every row
    once."""
    miniature(tmp_path, "method=sft")
    run, overrides = tmp_path / "run", json.loads((tmp_path / "overrides.json").read_text())
    command = [*COMMAND, *overrides, "trainer.max_steps=100000", "eval.every_steps=50000", f"hydra.run.dir={run}"]
    stopped = []
    for number in (signal.SIGTERM, signal.SIGINT):
        code, errors = run_until(command, run, 1 + (stopped[-1] if stopped else 0), number)
        assert (code, summary(run)["status"]) == (130, "interrupted"), errors
        assert "Stopping: finishing this step, then saving" in errors
        stopped.append(summary(run)["steps"])
    assert stopped[1] > stopped[0] >= 1
    last = stopped[1] + 2
    train(compose([*overrides, f"trainer.max_steps={last}", "eval.every_steps=50000"]), run)
    assert (summary(run)["status"], summary(run)["steps"]) == ("completed", last)
    assert [row["step"] for row in rows(run / "metrics.jsonl")] == [*range(last + 1), last]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), [("train.jsonl", "training"), ("validation.jsonl", "held-out")])
def test_a_run_does_not_go_on_over_other_rows(tmp_path: Path, name: str, side: str) -> None:
    """With a word changed in the held-out file, the summary once told of 1.32 nats of change "on the same rows"."""
    config = miniature(tmp_path, "method=sft", "trainer.max_steps=1", "eval.every_steps=9")
    train(config, tmp_path / "run")
    before = (tmp_path / name).read_text()
    longer = replace(config, trainer=replace(config.trainer, max_steps=2))
    (tmp_path / name).write_text(before.replace("return", "yield", 1))
    with pytest.raises(UserError) as caught:
        train(longer, tmp_path / "run")
    assert str(caught.value) == (
        f"The {side} rows of data.source=jsonl are not those of the checkpoint of resume=auto, at step 1; put them "
        "back as they were, or start anew in another hydra.run.dir."
    )
    (tmp_path / name).write_text(before)
    assert train(longer, tmp_path / "run") == "completed"


@pytest.mark.slow
def test_a_digest_knows_rows_masks_and_what_judges_answers(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(miniature(tmp_path).model)

    def digests(**changes: Any) -> dict[str, str]:
        config = miniature(tmp_path, *pairs(tmp_path, task="exact_match"))
        return load(replace(config.data, **changes), Tokenization.of(config.data, tokenizer)).digests()

    first = digests()
    assert first == digests()
    assert all(first[side] != digests(loss_tokens="all")[side] for side in first)
    assert all(first[side] != digests(references_column="prompt")[side] for side in first)


@pytest.mark.slow
def test_a_checkpoint_without_digests_is_refused(tmp_path: Path) -> None:
    config = miniature(tmp_path, "method=sft", "trainer.max_steps=1", "eval.every_steps=9")
    train(config, tmp_path / "run")
    saved = checkpoint.load(tmp_path / "run" / "checkpoints" / "step_000001")
    del saved["rows"]
    with pytest.raises(UserError, match=r"is of an older version, which kept no digest of its rows; start anew"):
        check_continues(config, prepare(config), saved)
