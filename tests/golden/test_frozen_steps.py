"""Ten frozen steps of every method: a change that was meant to keep the figures keeps them.

Where figures are meant to change, `python -m pytest tests/golden --regenerate` writes them anew, to be reviewed as part
of the change. They also depend on the shipped tokenizer. The tolerance is for other processors' rounding; a rollout
that differs in one token exceeds it by far.
"""

import json
from pathlib import Path

import pytest
import torch

from ebft.config.methods import METHODS
from ebft.report import run_page as report
from ebft.train.loop import train
from tests.debug_run import miniature, pairs, rows

HERE = Path(__file__).parent
OPTIONS = [
    "seed=17",
    "sampler.n_samples=4",
    "optimizer.lr=0.003",
    "optimizer.weight_decay=0.1",
    "eval.every_steps=10",
    "features.feature_layers=[1,1.0]",
]
# Where all answers get the same reward and the policy is still its own reference, the gradient is rounding: eps keeps
# AdamW from blowing it up.
RLVR = ["method.max_new_tokens=11", "method.kl_coef=0.1", "optimizer.eps=1e-4"]
PLAIN = "features.whitening=none"
CASES = {  # a file each
    "sft": ["method=sft", PLAIN],
    "rlvr": ["method=rlvr", PLAIN, *RLVR],
    "ebft": ["method=ebft", PLAIN, "method.advantage=rloo"],
    "ebft_default": ["method=ebft"],
}


def test_every_method_is_frozen() -> None:
    assert set(METHODS) <= set(CASES)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_ten_frozen_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, regenerate: bool) -> None:
    monkeypatch.setattr(report, "write", lambda *_, **__: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    questions = pairs(tmp_path) if case == "rlvr" else []
    train(miniature(tmp_path, *CASES[case], *OPTIONS, *questions), tmp_path / "run")
    torch.set_num_threads(threads)

    found, path = rows(tmp_path / "run" / "metrics.jsonl"), HERE / f"{case}.json"
    if regenerate:
        path.write_text("[\n" + ",\n".join(json.dumps(row) for row in found) + "\n]\n")
    frozen = json.loads(path.read_text())
    assert len(frozen) == 12  # ten steps between two evaluations
    for row, expected in zip(found, frozen, strict=True):
        assert row == pytest.approx(expected, rel=1e-4, abs=5e-6), row["step"]
