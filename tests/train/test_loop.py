"""The loop from outside: what whole runs leave behind, complete or failed."""

import ast
import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from ebft import methods
from ebft.cli.compose import compose
from ebft.config.schema import RunFailure, UserError
from ebft.output import row_scores
from ebft.output.files import WriteFailure
from ebft.run.folder import Run
from ebft.train import loop
from ebft.train.loop import train
from ebft.train.optimization import Optimization
from ebft.train.setup import prepare
from tests.debug_run import assert_same_run, final_state, miniature, rows, same, summary, without_report

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("no_report")

EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_rows_of_an_undisturbed_run(tmp_path: Path) -> None:
    train(miniature(tmp_path, "method=sft"), tmp_path / "run")
    found = [
        ("eval" if "eval/cross_entropy" in row else "train", row["step"])
        for row in rows(tmp_path / "run" / "metrics.jsonl")
    ]
    trained = [("train", step) for step in range(1, 11)]
    assert found == [
        ("eval", 0),
        *trained[:3],
        ("eval", 3),
        *trained[3:6],
        ("eval", 6),
        *trained[6:9],
        ("eval", 9),
        trained[9],
        ("eval", 10),
    ]
    assert sorted(os.listdir(tmp_path / "run" / "checkpoints")) == ["step_000008", "step_000010"]
    assert sorted({row["step"] for row in rows(tmp_path / "run" / "samples.jsonl")}) == [0, 3, 6, 9, 10]


@pytest.mark.slow
def test_a_complete_run_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, run = miniature(tmp_path, "method=sft", "trainer.max_steps=2"), tmp_path / "run"
    train(config, run)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != "train.log"}
    train(config, run)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (
        f"{run} is complete; raise trainer.max_steps to train on, or choose another hydra.run.dir."
        in capsys.readouterr().out
    )


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (lambda loss: loss * torch.nan, "loss is nan"),
        (lambda loss: loss + torch.inf, "loss is inf"),
        (with_infinite_gradient, "grad_norm is nan"),
    ],
    ids=["nan", "inf", "gradient"],
)
def test_what_is_not_finite_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Any, cause: str
) -> None:
    config, run = miniature(tmp_path, "method=sft", "trainer.checkpoint_every_steps=1"), tmp_path / "run"
    kept: list[Any] = []
    finish = Run.finish

    def look(self: Run, *args: Any, **kwargs: Any) -> None:
        optimization = loops[-1].optimization
        kept.append(({name: value.clone() for name, value in optimization.tensors().items()}, optimization.state()))
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
    (tensors, state), last = kept[0], final_state(run, 3)
    assert same(
        tensors, {f"{part}.{name}": value for part in ("model", "optimizer") for name, value in last[part].items()}
    )
    assert same(state["schedule"], last["schedule"])


@pytest.mark.slow
def test_weights_that_diverge_fail_in_the_evaluation_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last step nothing but the evaluation looks at the weights, and the summary must not hold what JSON
    cannot."""
    run, original = tmp_path / "run", Optimization._update

    def diverge(self: Optimization, values: dict[str, float]) -> None:
        original(self, values)
        torch.nn.init.constant_(self.parameters[-1], torch.nan)

    monkeypatch.setattr(Optimization, "_update", diverge)
    with pytest.raises(RunFailure, match=r"eval/cross_entropy became nan at step 1; a lower optimizer.lr"):
        train(miniature(tmp_path, "method=sft", "trainer.max_steps=1"), run)
    assert summary(run)["status"] == "failed"
    assert summary(run)["base"]
    assert summary(run)["final"] == {}
    assert not (run / "model").exists()


def fill_disk(monkeypatch: pytest.MonkeyPatch, after: int, number: int, *parts: str) -> list[str]:
    """From the `after`-th opening on, files whose path holds one of `parts` cannot be written, for the reason of that
    number; returns those that could not, as they come."""
    original, by_number, calls, refused = Path.open, os.open, 0, list[str]()

    def check(path: str) -> None:
        nonlocal calls
        if any(part in path for part in parts):
            calls += 1
            if calls >= after:
                refused.append(path)
                raise OSError(number, os.strerror(number), path)

    def opened(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode[0] in "wa":
            check(str(self))
        return original(self, mode, *args, **kwargs)

    def opened_by_number(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            check(str(path))
        return by_number(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", opened_by_number)
    monkeypatch.setattr(Path, "open", opened)
    return refused


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with without_report():
        train(miniature(folder, "method=sft"), folder / "straight")
    return folder / "straight"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parts", "after", "number", "named", "status"),
    [
        (["checkpoints"], 2, errno.ENOSPC, "state.pt", "failed"),
        (["metrics.jsonl"], 8, errno.EIO, "metrics.jsonl", "failed"),
        ([".model.partial"], 1, errno.EFBIG, ".model.partial/README.md", "failed"),
        (["run/"], 30, errno.ENOSPC, "", None),  # not even the summary
        (["run/"], 45, errno.EROFS, "", None),
    ],
    ids=["checkpoint", "metrics", "export", "everything", "read-only"],
)
def test_storage_that_fails_ends_the_run_and_not_its_checkpoints(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    straight: Path,
    parts: list[str],
    after: int,
    number: int,
    named: str,
    status: str | None,
) -> None:
    """The sentence names the first file that failed, and the run goes on the same once it is put right."""
    config, run = miniature(tmp_path, "method=sft"), tmp_path / "run"
    with monkeypatch.context() as failing:
        refused = fill_disk(failing, after, number, *parts)
        with pytest.raises(
            WriteFailure, match=f"{named} could not be written.* and run again with resume=auto"
        ) as caught:
            train(config, run)
    assert f"{Path(refused[0]).name.removeprefix('.').removesuffix('.partial')} could not" in str(caught.value)
    assert str(caught.value).startswith("The disk is full: ") == (number == errno.ENOSPC)
    assert (summary(run)["status"] if (run / "summary.json").exists() else None) == status
    assert not (run / "model").exists()
    train(config, run)
    assert_same_run(run, straight)


@pytest.mark.slow
def test_a_folder_that_is_moved_away_ends_the_run_and_it_goes_on_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: Path
) -> None:
    config, run, moved = miniature(tmp_path, "method=sft"), tmp_path / "run", tmp_path / "moved"
    original = Optimization.step

    def move(self: Optimization, *arguments: Any) -> dict[str, float]:
        if arguments[2] == 5:
            run.rename(moved)
        return original(self, *arguments)

    monkeypatch.setattr(Optimization, "step", move)
    with pytest.raises(WriteFailure, match=rf"^{run}/metrics.jsonl could not be written \(No such file or directory\)"):
        train(config, run)
    assert not run.exists()
    monkeypatch.undo()
    train(config, moved)
    assert_same_run(moved, straight)


@pytest.mark.slow
@pytest.mark.parametrize("average", ["null", "0.5"])
def test_the_exported_model_scores_the_same_in_plain_transformers(tmp_path: Path, average: str) -> None:
    config, run = (
        miniature(tmp_path, "method=ebft", f"optimizer.ema_decay={average}", "trainer.max_steps=3"),
        tmp_path / "run",
    )
    train(config, run)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(run / "model"), AutoTokenizer.from_pretrained(run / "model")
    assert model.config._attn_implementation == "sdpa"
    texts = [json.loads(line)["text"] for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    total = count = 0.0
    for batch in prepare(config).evaluator.batches:
        assert all(
            any(piece in text for text in texts)
            for piece in tokenizer.batch_decode(batch.tokens[:, :5])
            if tokenizer.eos_token not in piece
        )
        with torch.no_grad():
            logits = model(input_ids=batch.tokens).logits[:, :-1]
        losses = cross_entropy(logits.flatten(0, 1), batch.tokens[:, 1:].flatten(), reduction="none")
        total, count = (
            total + losses[batch.loss_mask[:, 1:].flatten()].sum().item(),
            count + batch.loss_mask[:, 1:].sum().item(),
        )
    assert total / count == pytest.approx(summary(run)["final"]["eval/cross_entropy"], abs=1e-5)
    last = final_state(run, 3)
    own, averaged = last["model"], last["average"]
    chosen = averaged or own
    assert all(torch.equal(value, chosen[name]) for name, value in model.named_parameters())
    assert not averaged or not torch.equal(own["model.norm.weight"], chosen["model.norm.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_takes_a_step(tmp_path: Path, name: str) -> None:
    """With the debug model and rows, batches and blocks cut down; everything else is the experiment's."""
    miniature(tmp_path)
    small = f"""
        model=debug trainer.max_steps=1 trainer.max_epochs=null trainer.batch_size=2 trainer.micro_batch_size=2
        trainer.device=cpu data=jsonl data.sequence_length=41
        data.path={tmp_path / "train.jsonl"} data.validation_path={tmp_path / "validation.jsonl"}
        eval.num_documents=2 eval.context_length=7 eval.horizons=[1,2] sampler.context_length=7
        sampler.generate_length=3
    """
    train(compose([f"+experiment={name}", *small.split()]), tmp_path / "run")
    assert (summary(tmp_path / "run")["status"], summary(tmp_path / "run")["steps"]) == ("completed", 1)


def test_the_loop_names_no_method() -> None:
    """Neither in a name nor in a key."""
    nodes = list(ast.walk(ast.parse((ROOT / "ebft" / "train" / "loop.py").read_text())))
    words = [
        node.id if isinstance(node, ast.Name) else node.attr
        for node in nodes
        if isinstance(node, ast.Name | ast.Attribute)
    ]
    words += [
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) == 1
    ]
    assert not [word for word in words if any(method in word.lower() for method in ("sft", "rlvr", "ebft"))]


@pytest.mark.slow
def test_further_held_out_sets_are_evaluated_by_the_same_code(tmp_path: Path) -> None:
    """The set is the run's own held-out file, so every figure of a row is twice there; and the run resumes."""
    own = ["+data@eval.sets.again=jsonl", f"eval.sets.again.path={tmp_path / 'train.jsonl'}"]
    own += [f"eval.sets.again.validation_path={tmp_path / 'validation.jsonl'}", "eval.sets.again.sequence_length=23"]
    config, run = miniature(tmp_path, "method=sft", "trainer.max_steps=2", *own), tmp_path / "run"
    train(config, run)
    final = summary(run)["final"]
    further = {name: value for name, value in final.items() if name.startswith("eval/again/")}
    assert {"eval/again/cross_entropy", "eval/again/cross_entropy_stderr", "eval/again/reward"} <= further.keys()
    assert further == {name: final[name.replace("again/", "")] for name in further}
    kept = row_scores.read(run / "rows" / "latest.parquet")
    assert kept is not None
    rows_of = {scores.metric: scores.rows for scores in kept}
    assert rows_of["eval/again/cross_entropy"] == rows_of["eval/cross_entropy"]
    assert json.loads((run / "contamination.json").read_text())["again"]["num_rows"] == 3
    assert train(miniature(tmp_path, "method=sft", "trainer.max_steps=3", *own), run) == "completed"
    (tmp_path / "other.jsonl").write_text((tmp_path / "train.jsonl").read_text())
    changed = [*own, f"eval.sets.again.validation_path={tmp_path / 'other.jsonl'}"]
    with pytest.raises(UserError, match=r"holds a run of another config \(eval\.sets\.again\.validation_path is "):
        train(miniature(tmp_path, "method=sft", "trainer.max_steps=3", *changed), run)


@pytest.mark.slow
def test_a_set_without_room_for_a_rollout_is_named(tmp_path: Path) -> None:
    (tmp_path / "short.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    own = ["+data@eval.sets.short=jsonl", f"eval.sets.short.path={tmp_path / 'short.jsonl'}"]
    config = miniature(
        tmp_path, "method=sft", *own, "eval.sets.short.layout=padded", "eval.sets.short.sequence_length=23"
    )
    with pytest.raises(UserError, match=r"^eval\.sets\.short: The validation data has 1 row"):
        train(config, tmp_path / "run")
