"""The loop from outside: whole runs in miniature, and what is left of them after every kind of end."""

import ast
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from ebft import checkpoint, methods, report
from ebft import train as loop
from ebft.cli.compose import compose
from ebft.config import RunFailure, TrainConfig, UserError
from ebft.evaluation import Evaluator
from ebft.optimization import Optimization
from ebft.run import Run
from ebft.setup import prepare
from ebft.train import train
from tests.debug_run import MAX_STEPS, final_state, miniature, rows, summary

ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
WRITE_REPORT = report.write
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
    "save": (checkpoint, "save", "before"),
    "saved": (checkpoint, "save", "after"),
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


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take longer than the run."""
    monkeypatch.setattr(report, "write", lambda *_: None)


def same(a: Any, b: Any) -> bool:
    """Bit for bit, through nested containers."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def assert_same_run(run: Path, straight: Path) -> None:
    """Equal in everything but the clock."""
    mine, theirs = final_state(run), final_state(straight)
    assert mine["schedule"]["last_epoch"] == theirs["schedule"]["last_epoch"] == MAX_STEPS
    for name in ("model", "optimizer", "average", "step", "evaluated", "base", "latest", "tokens_forwarded"):
        assert same(mine[name], theirs[name]), name
    assert same(mine["random"]["torch"], theirs["random"]["torch"])
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert rows(run / name) == rows(straight / name), name
    for name in ("status", "steps", "tokens_forwarded", "base", "final", "change"):
        assert summary(run)[name] == summary(straight)[name], name
    assert (run / "model" / "model.safetensors").read_bytes() == (straight / "model" / "model.safetensors").read_bytes()
    assert len(os.listdir(run / "checkpoints")) == len(os.listdir(straight / "checkpoints"))


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


@pytest.mark.parametrize(
    "options",
    [
        ["method=sft", "optimizer.schedule=cosine"],
        ["method=ebft", "optimizer.ema_decay=0.7", "optimizer.schedule=constant_with_warmup", "trainer.keep_checkpoints=1"],
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


@pytest.mark.parametrize("options", [["method=sft", "optimizer.ema_decay=0.7"], ["method=ebft", "trainer.micro_batch_size=1"]], ids=["sft", "ebft"])
def test_five_and_five_steps_equal_ten(tmp_path: Path, options: list[str]) -> None:
    """The other half of the settings: an average without a method's rollouts, rollouts without an average, another accumulation."""
    config = miniature(tmp_path, *options, "optimizer.schedule=linear")
    train(config, tmp_path / "straight")
    live(config, tmp_path / "run", "stepped", 5, SIGTERM)
    assert (final_state(tmp_path / "run", 5)["step"], summary(tmp_path / "run")["steps"]) == (5, 5)
    train(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "straight")


def test_a_model_that_draws_random_numbers_goes_on_with_its_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of ours draws from torch's global generator; what a model brings along may."""
    original = methods.sft.cross_entropy
    monkeypatch.setattr(methods.sft, "cross_entropy", lambda *args: original(*args) * (1 + torch.rand(())))
    config = miniature(tmp_path, "method=sft")
    train(config, tmp_path / "straight")
    live(config, tmp_path / "run", "stepped", 5, SIGTERM)
    torch.manual_seed(99)
    train(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "straight")


def test_rows_of_an_undisturbed_run(tmp_path: Path) -> None:
    train(miniature(tmp_path, "method=sft"), tmp_path / "run")
    found = [("eval" if "eval/cross_entropy" in row else "train", row["step"]) for row in rows(tmp_path / "run" / "metrics.jsonl")]
    trained = [("train", step) for step in range(1, 11)]
    assert found == [("eval", 0), *trained[:3], ("eval", 3), *trained[3:6], ("eval", 6), *trained[6:9], ("eval", 9), trained[9], ("eval", 10)]
    assert sorted(os.listdir(tmp_path / "run" / "checkpoints")) == ["step_000008", "step_000010"]
    assert sorted({row["step"] for row in rows(tmp_path / "run" / "samples.jsonl")}) == [0, 3, 6, 9, 10]


def test_a_complete_run_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, run = miniature(tmp_path, "method=sft", "trainer.max_steps=2"), tmp_path / "run"
    train(config, run)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != "train.log"}
    train(config, run)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert f"{run} is complete; raise trainer.max_steps to train on, or choose another hydra.run.dir." in capsys.readouterr().out


@pytest.mark.parametrize("schedule", ["constant_with_warmup", "cosine"])
def test_a_longer_run_goes_on_where_the_shorter_one_ended(tmp_path: Path, schedule: str) -> None:
    """The schedule is that of the longer run from its first step on: 0 at the end of the shorter one must not cost a step."""
    options = ["method=sft", f"optimizer.schedule={schedule}", "optimizer.warmup_fraction=0.1", "eval.every_steps=5"]
    train(miniature(tmp_path, *options), tmp_path / "straight")
    train(miniature(tmp_path, *options, "trainer.max_steps=5"), tmp_path / "run")
    train(miniature(tmp_path, *options), tmp_path / "run")
    if schedule == "constant_with_warmup":  # the same schedule at both lengths
        assert_same_run(tmp_path / "run", tmp_path / "straight")
    rates, straight = ([row["train/lr"] for row in rows(tmp_path / run / "metrics.jsonl") if "train/lr" in row] for run in ("run", "straight"))
    assert rates[5:] == straight[5:]
    assert min(rates[5:]) > 0


def test_a_shorter_run_than_the_one_that_is_there_is_refused(tmp_path: Path) -> None:
    """It once ran on for ever, for its step was never the last."""
    train(miniature(tmp_path, "method=sft", "trainer.max_steps=3"), tmp_path / "run")
    with pytest.raises(UserError, match=r"resume=auto is at step 3, beyond this run's 2 steps; raise trainer.max_steps"):
        train(miniature(tmp_path, "method=sft", "trainer.max_steps=2"), tmp_path / "run")
    assert summary(tmp_path / "run")["status"] == "completed"


def test_resume_never_and_other_configs_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(miniature(tmp_path, "method=sft", "trainer.max_steps=1"), run)
    with pytest.raises(UserError, match=r"already holds a run; continue it with resume=auto or choose another hydra.run.dir"):
        train(miniature(tmp_path, "method=sft", "trainer.max_steps=1", "resume=never"), run)
    with pytest.raises(UserError, match=r"holds a run of another config \(optimizer.lr is 0.01 there, 0.02 here\)"):
        train(miniature(tmp_path, "method=sft", "trainer.max_steps=1", "optimizer.lr=0.02"), run)
    assert summary(run)["status"] == "completed"


def test_resume_from_a_path_into_a_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = miniature(tmp_path, "method=sft")
    live(config, tmp_path / "old", "stepped", 5, SIGTERM)
    train(config, tmp_path / "straight")
    monkeypatch.setattr(report, "write", WRITE_REPORT)  # which has to do without a row of the base evaluation
    train(miniature(tmp_path, "method=sft", f"resume={tmp_path / 'old' / 'checkpoints' / 'step_000005'}"), tmp_path / "new")
    assert same(final_state(tmp_path / "new")["model"], final_state(tmp_path / "straight")["model"])
    assert rows(tmp_path / "new" / "metrics.jsonl") == rows(tmp_path / "straight" / "metrics.jsonl")[7:]
    assert summary(tmp_path / "new")["base"] == summary(tmp_path / "straight")["base"]
    assert summary(tmp_path / "old")["status"] == "interrupted"
    assert (tmp_path / "new" / "report.html").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.config_overrides.num_hidden_layers=3", "leads to a checkpoint of another model; set model as it was there"),
        ("optimizer.ema_decay=0.5", "optimizer.ema_decay=0.5, but the checkpoint of resume="),
    ],
)
def test_a_checkpoint_that_does_not_fit_leaves_no_folder(tmp_path: Path, override: str, message: str) -> None:
    train(miniature(tmp_path, "method=sft", "trainer.max_steps=1"), tmp_path / "old")
    with pytest.raises(UserError, match=message):
        train(miniature(tmp_path, "method=sft", override, f"resume={tmp_path / 'old'}"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


COMMAND = [sys.executable, "-m", "ebft.cli.train"]


def run_until(command: list[str], run: Path, step: int, number: signal.Signals) -> tuple[int, str]:
    """Start a process, signal it once it has trained to `step`, and give its exit code and error output."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() or f'{{"step": {step}, "train/' not in (run / "metrics.jsonl").read_text():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def test_signals_end_a_process_in_order_and_it_goes_on(tmp_path: Path) -> None:
    """SIGTERM, then Ctrl-C: exit code 0, status interrupted, and a last life that ends completed with every row once."""
    miniature(tmp_path, "method=sft")
    run, overrides = tmp_path / "run", json.loads((tmp_path / "overrides.json").read_text())
    command = [*COMMAND, *overrides, "trainer.max_steps=100000", "eval.every_steps=50000", f"hydra.run.dir={run}"]
    stopped = []
    for number in (signal.SIGTERM, signal.SIGINT):
        code, errors = run_until(command, run, 1 + (stopped[-1] if stopped else 0), number)
        assert (code, summary(run)["status"]) == (0, "interrupted"), errors
        assert "Stopping: finishing this step, then saving" in errors
        stopped.append(summary(run)["steps"])
    assert stopped[1] > stopped[0] >= 1
    last = stopped[1] + 2
    train(compose([*overrides, f"trainer.max_steps={last}", "eval.every_steps=50000"]), run)
    assert (summary(run)["status"], summary(run)["steps"]) == ("completed", last)
    assert [row["step"] for row in rows(run / "metrics.jsonl")] == [*range(last + 1), last]


def broken_loss(monkeypatch: pytest.MonkeyPatch, step: int, damage: Callable[[torch.Tensor], torch.Tensor]) -> None:
    original = methods.sft.cross_entropy
    calls = 0

    def loss(*args: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        value = original(*args)
        return damage(value) if calls == 2 * step + 2 else value  # the second micro-batch of that step

    monkeypatch.setattr(methods.sft, "cross_entropy", loss)


def with_infinite_gradient(loss: torch.Tensor) -> torch.Tensor:
    loss = loss * 1
    loss.register_hook(lambda gradient: gradient * torch.inf)
    return loss


@pytest.mark.parametrize(
    ("damage", "cause"),
    [(lambda loss: loss * torch.nan, "loss is nan"), (lambda loss: loss + torch.inf, "loss is inf"), (with_infinite_gradient, "grad_norm is nan")],
    ids=["nan", "inf", "gradient"],
)
def test_what_is_not_finite_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Any, cause: str) -> None:
    config, run = miniature(tmp_path, "method=sft", "trainer.checkpoint_every_steps=1"), tmp_path / "run"
    kept: list[Any] = []
    finish = Run.finish

    def look(self: Run, *args: Any, **kwargs: Any) -> None:
        kept.append(loops[-1].optimization.state())
        finish(self, *args, **kwargs)

    loops: list[loop.Loop] = []
    create = loop.Loop.__init__
    monkeypatch.setattr(loop.Loop, "__init__", lambda self, *args: (loops.append(self), create(self, *args))[1])
    monkeypatch.setattr(Run, "finish", look)
    broken_loss(monkeypatch, 3, damage)
    with pytest.raises(RunFailure) as failure:
        train(config, run)
    saved = run / "nonfinite_step_000003.pt"
    assert str(failure.value).startswith(f"Step 3 stopped: {cause}")
    assert str(saved) in str(failure.value)
    batch = torch.load(saved)
    assert batch["tokens"].shape == (3, 23)
    assert len(set(batch["row_ids"].tolist())) == 3
    assert summary(run)["status"] == "failed"
    assert summary(run)["steps"] == 3
    assert summary(run)["error"] == f"RunFailure: {failure.value}"
    assert not (run / "model").exists()
    for name in ("model", "optimizer", "schedule"):
        assert same(kept[0][name], final_state(run, 3)[name]), name


def test_weights_that_diverge_fail_in_the_evaluation_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last step nothing but the evaluation looks at the weights, and the summary must not hold what JSON cannot."""
    run, original = tmp_path / "run", Optimization._update

    def diverge(self: Optimization, values: dict[str, float]) -> None:
        original(self, values)
        torch.nn.init.constant_(self.parameters[-1], torch.nan)

    monkeypatch.setattr(Optimization, "_update", diverge)
    with pytest.raises(RunFailure, match=r"eval/cross_entropy became nan at step 1; a lower optimizer.lr"):
        train(miniature(tmp_path, "method=sft", "trainer.max_steps=1"), run)
    assert summary(run)["status"] == "failed"
    assert summary(run)["final"] == summary(run)["base"]
    assert not (run / "model").exists()


def fill_disk(monkeypatch: pytest.MonkeyPatch, after: int, *parts: str) -> None:
    """From the `after`-th opening on, files whose path holds one of `parts` cannot be written."""
    original, calls = Path.open, 0

    def opened(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        if mode[0] in "wa" and any(part in str(self) for part in parts):
            calls += 1
            if calls >= after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return original(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", opened)


@pytest.mark.parametrize(
    ("parts", "after", "named", "status"),
    [
        (["checkpoints"], 2, "state.pt", "failed"),
        (["metrics.jsonl"], 8, "metrics.jsonl", "failed"),
        ([".model.partial"], 1, "model", "failed"),
        (["run/"], 30, "", None),  # not even the summary
    ],
    ids=["checkpoint", "metrics", "export", "everything"],
)
def test_a_full_disk_ends_the_run_and_not_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[str], after: int, named: str, status: str | None
) -> None:
    config, run = miniature(tmp_path, "method=sft"), tmp_path / "run"
    train(config, tmp_path / "straight")
    with monkeypatch.context() as full:
        fill_disk(full, after, *parts)
        with pytest.raises(RunFailure, match=f"^The disk is full: .*{named} could not be written; free some space and run again with resume=auto"):
            train(config, run)
    assert (summary(run)["status"] if (run / "summary.json").exists() else None) == status
    assert not (run / "model").exists()
    train(config, run)
    assert_same_run(run, tmp_path / "straight")


@pytest.mark.parametrize("average", ["null", "0.5"])
def test_the_exported_model_scores_the_same_in_plain_transformers(tmp_path: Path, average: str) -> None:
    config, run = miniature(tmp_path, "method=ebft", f"optimizer.ema_decay={average}", "trainer.max_steps=3"), tmp_path / "run"
    train(config, run)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(run / "model"), AutoTokenizer.from_pretrained(run / "model")
    assert model.config._attn_implementation == "sdpa"
    texts = [json.loads(line)["text"] for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    total = count = 0.0
    for batch in prepare(config).evaluator.batches:
        assert all(any(piece in text for text in texts) for piece in tokenizer.batch_decode(batch.tokens[:, :5]) if tokenizer.eos_token not in piece)
        with torch.no_grad():
            logits = model(input_ids=batch.tokens).logits[:, :-1]
        losses = cross_entropy(logits.flatten(0, 1), batch.tokens[:, 1:].flatten(), reduction="none")
        total, count = total + losses[batch.loss_mask[:, 1:].flatten()].sum().item(), count + batch.loss_mask[:, 1:].sum().item()
    assert total / count == pytest.approx(summary(run)["final"]["eval/cross_entropy"], abs=1e-5)
    last = final_state(run, 3)
    own, averaged = last["model"], last["average"]
    chosen = own if averaged is None else {name.removeprefix("module."): value for name, value in averaged.items() if name != "n_averaged"}
    assert all(torch.equal(value, chosen[name]) for name, value in model.state_dict().items())
    assert averaged is None or not torch.equal(own["model.norm.weight"], chosen["model.norm.weight"])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_takes_a_step(tmp_path: Path, name: str) -> None:
    """With the debug model and rows, batches and blocks cut down; everything else is the experiment's."""
    miniature(tmp_path)
    small = f"""
        model=debug trainer.max_steps=1 trainer.batch_size=2 trainer.micro_batch_size=2 trainer.device=cpu data=jsonl data.sequence_length=41
        data.path={tmp_path / "train.jsonl"} data.validation_path={tmp_path / "validation.jsonl"} eval.num_documents=2 eval.context_length=7
        eval.horizons=[1,2] sampler.context_length=7 sampler.generate_length=3
    """
    train(compose([f"+experiment={name}", *small.split()]), tmp_path / "run")
    assert (summary(tmp_path / "run")["status"], summary(tmp_path / "run")["steps"]) == ("completed", 1)


def test_the_loop_names_no_method() -> None:
    """Neither in a name nor in a key."""
    nodes = list(ast.walk(ast.parse((ROOT / "ebft" / "train.py").read_text())))
    words = [node.id if isinstance(node, ast.Name) else node.attr for node in nodes if isinstance(node, ast.Name | ast.Attribute)]
    words += [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) == 1]
    assert not [word for word in words if any(method in word.lower() for method in ("sft", "rlvr", "ebft"))]
