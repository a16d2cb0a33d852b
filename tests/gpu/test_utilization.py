"""Utilisation and profiles on a GPU. Skipped without one."""

from pathlib import Path

import pytest
import torch

from ebft.report import run_page as report
from ebft.run.profiling import matmul_peak
from ebft.train.loop import train
from tests.debug_run import miniature, rows

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]  # what compiler and profiler warn of is not ours
OVERRIDES = ["trainer.device=cuda", "trainer.max_steps=4", "eval.every_steps=10", "trainer.checkpoint_every_steps=10"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_peak_is_a_gpus(dtype: torch.dtype) -> None:
    assert 1e11 < matmul_peak(dtype, "cuda") < 1e16


@pytest.mark.parametrize("method", ["sft", "ebft"])
def test_utilisation_is_a_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setattr(report, "write", lambda *_: None)
    train(miniature(tmp_path, f"method={method}", *OVERRIDES, "trainer.profile=true"), tmp_path / "run")
    shares = [row["train/mfu"] for row in rows(tmp_path / "run" / "metrics.jsonl") if "train/loss" in row]
    assert len(shares) == 4
    assert all(0 < share < 1 for share in shares)
    assert "on the GPU, in milliseconds" in (tmp_path / "run" / "profile" / "operators.md").read_text()
