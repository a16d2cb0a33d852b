"""Whole runs in miniature: a random two-layer model on seven full rows, three a step.

An epoch therefore ends with every second step. Checkpoints come at 4 and 8, evaluations at 0, 3, 6, 9 and 10.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from ebft.cli.compose import compose
from ebft.cli.grid import Composer
from ebft.config.schema import TrainConfig
from ebft.report import run_page
from ebft.run import checkpoint, tensors

NUM_DOCUMENTS, MAX_STEPS = 6, 10
COMPOSER = Composer()  # a third of what Hydra takes, where groups were chosen before
CLOCK = ("train/tokens_per_second", "cost/seconds")  # figures that depend on the clock
MINIATURE = f"""
    model=debug model.config_overrides.num_hidden_layers=2 features.feature_layers=[1] data=jsonl
    data.sequence_length=23
    sampler.n_samples=2 sampler.generate_length=3 sampler.context_length=7 sampler.stride=5
    trainer.max_steps={MAX_STEPS} trainer.batch_size=3 trainer.micro_batch_size=2 trainer.device=cpu
    trainer.checkpoint_every_steps=4 eval.every_steps=3 eval.num_documents=3 eval.micro_batch_size=2
    eval.n_samples=2 eval.stride=11 eval.context_length=7 eval.horizons=[1,3]
    optimizer.lr=0.01 optimizer.warmup_fraction=0.25
""".split()


def write_rows(path: Path, count: int, first: int = 0) -> Path:
    """Plain texts of more than 23 tokens each."""
    texts = [
        f"def power_{n}(x):\n    y = x ** {n}\n    return y * {7 * n} - {n * n}\n" for n in range(first, first + count)
    ]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def pairs(folder: Path, task: str = "chrf") -> list[str]:
    """Overrides for questions with short answers, verified by `task`; the same file for both sides."""
    path = folder / "pairs.jsonl"
    rows = [{"prompt": f"twice {n} is", "completion": f" {2 * n}!"} for n in range(NUM_DOCUMENTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = f"""
        data.text_column=null data.prompt_column=prompt data.completion_column=completion
        sampler.generate_length=1 sampler.context_length=1 sampler.stride=2
        data.task={task} eval.num_questions=3 eval.max_new_tokens=5
    """
    return [*settings.split(), f"data.path={path}", f"data.validation_path={path}"]


def miniature(folder: Path, *overrides: str) -> TrainConfig:
    """The config of a miniature run whose data files lie in `folder`; a later override wins."""
    train, validation = (
        write_rows(folder / "train.jsonl", NUM_DOCUMENTS),
        write_rows(folder / "validation.jsonl", 5, first=100),
    )
    last = {
        override.partition("=")[0]: override
        for override in (*MINIATURE, f"data.path={train}", f"data.validation_path={validation}", *overrides)
    }
    (folder / "overrides.json").write_text(json.dumps(list(last.values())))
    lines = list(last.values())
    return compose(lines) if any(line.startswith("--") for line in lines) else COMPOSER.config(lines)


@contextmanager
def without_report() -> Iterator[None]:
    """What a run ends with, and most of what a miniature costs."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(run_page, "write", lambda *_, **__: None)
        yield


def final_state(run_dir: Path, step: int = MAX_STEPS) -> dict[str, Any]:
    """Everything in a checkpoint: its tensors under the first part of their names."""
    state = checkpoint.load(run_dir / "checkpoints" / f"step_{step:06d}")
    parts = {name: tensors.read(state["tensors"], f"{name}.") for name in ("model", "optimizer", "average")}
    return {name: value for name, value in state.items() if name != "tensors"} | parts


def rows(path: Path) -> list[dict[str, Any]]:
    """Of a JSONL file, without the figures that depend on the clock."""
    parsed = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in parsed]


def summary(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "summary.json").read_text())


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
    assert same([random["torch"] for random in mine["random"]], [random["torch"] for random in theirs["random"]])
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert rows(run / name) == rows(straight / name), name
    for name in ("base.parquet", "latest.parquet"):
        assert (run / "rows" / name).read_bytes() == (straight / "rows" / name).read_bytes(), name
    for name in ("status", "steps", "tokens_forwarded", "base", "final", "change"):
        assert summary(run)[name] == summary(straight)[name], name
    assert (run / "model" / "model.safetensors").read_bytes() == (straight / "model" / "model.safetensors").read_bytes()
    assert len(list((run / "checkpoints").iterdir())) == len(list((straight / "checkpoints").iterdir()))
