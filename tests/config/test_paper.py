"""The paper's experiments, its sweeps and the ablations each take a step.

Geometry, features, coefficients and schedule are those of the configuration; in place of the hub there are a random
debug model and a few rows with the data sets' columns, and rows, batches and evaluation are cut down.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from ebft.cli.compose import compose
from ebft.cli.planning import Planner
from ebft.cli.sweep import settings
from ebft.config.methods import RLVRConfig
from ebft.config.schema import HubDataConfig, ModelConfig, TrainConfig
from ebft.report import run_page as report
from ebft.train.loop import train
from ebft.train.setup import prepare
from tests.helpers import optimiser_step

ROOT = Path(__file__).parents[2]
FILES = ROOT / "tests" / "data" / "files"
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment" / "paper").glob("*.yaml"))
SWEEPS = sorted(
    path.stem for path in (ROOT / "conf" / "sweep").glob("*.yaml") if path.stem.startswith(("paper_", "ablation_"))
)
TINY_ROWS: dict[str, dict[str, Any]] = {
    "sjelassi/opencode-instruct_100k_200tok": {"path": FILES / "opencode_instruct", "sequence_length": 59},
    "sjelassi/swallow_code_20m": {"path": FILES / "swallow_code", "validation_split": "train", "sequence_length": 29},
    "sjelassi/alma": {"path": FILES / "alma", "validation_path": FILES / "wmt22_test", "sequence_length": 31},
}

DEBUG = compose(["model=debug"]).model
STEPPED: set[str] = set()  # runs that took a step in this session


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, no plots, and no cache in the user's home."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(report, "write", lambda *_, **__: None)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cut_down(config: TrainConfig, model: ModelConfig | None = None, num_questions: int = 0) -> TrainConfig:
    """`model` instead of a random one; evaluation answers `num_questions`."""
    assert isinstance(config.data, HubDataConfig)
    data = {key: str(value) if isinstance(value, Path) else value for key, value in TINY_ROWS[config.data.path].items()}
    features, method = config.features, config.method
    if isinstance(method, RLVRConfig):
        method = replace(method, max_new_tokens=5)
    if features.network == "checkpoint":
        features = replace(features, path="tiny")
    evaluation = {
        "num_documents": 2,
        "long_documents": 2,
        "n_samples": 2,
        "context_length": 7,
        "horizons": [1, 2],
        "max_new_tokens": 5,
    }
    return replace(
        config,
        model=model or DEBUG,
        method=method,
        data=replace(config.data, **data),
        features=features,
        trainer=replace(config.trainer, max_epochs=None, max_steps=1, batch_size=2, micro_batch_size=2, device="cpu"),
        eval=replace(config.eval, num_questions=num_questions, **evaluation),
        sandbox=replace(config.sandbox, allow_code_execution=True, require="none"),
    )


def run(config: TrainConfig, folder: Path) -> dict[str, Any]:
    train(config, folder)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("completed", 1)
    return summary


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_of_the_paper_takes_a_step(tmp_path: Path, experiment: str) -> None:
    summary = run(cut_down(compose([f"+experiment=paper/{experiment}"]), num_questions=2), tmp_path / "run")
    assert ("eval/greedy" in summary["final"]) == (experiment != "unstructured_code")


@pytest.mark.slow
@pytest.mark.parametrize("sweep", SWEEPS)
def test_the_cells_of_the_paper_s_sweeps_take_a_step(tmp_path: Path, sweep: str) -> None:
    """Once where several sweeps have the same run, and at the two far corners of a grid of numbers."""
    jobs = Planner(tmp_path, settings([f"sweep={sweep}"]).sweep).jobs(["seed=0"])
    is_grid = any(re.fullmatch(r"[\d.]+", value) for key, value in jobs[0].keys.items() if key != "seed")
    for job in (jobs[0], jobs[-1]) if is_grid else jobs:
        assert job.config is not None
        if job.name in STEPPED:
            continue
        STEPPED.add(job.name)
        setup = prepare(cut_down(job.config))
        _, values, gradients = optimiser_step(setup.method, setup.batch([0, 1]), size=2)
        assert torch.isfinite(values["loss"]), job.overrides
        moved = any(gradient is not None and bool((gradient != 0).any()) for gradient in gradients.values())
        assert moved or isinstance(job.config.method, RLVRConfig), job.overrides  # a random model answers nothing right


@pytest.mark.slow
def test_a_warm_start_goes_on_from_the_model_with_the_base_s_features(tmp_path: Path) -> None:
    """So what SFT's run ends with is what EBFT's begins with, measured by the same phi."""
    planned = Planner(tmp_path, settings(["sweep=paper_unstructured_code"]).sweep).jobs(["seed=0"])
    sft, ebft = ({job.variant: job.config for job in planned}[name] for name in ("sft", "ebft_warm"))
    assert sft is not None
    assert ebft is not None
    base = compose([]).model
    sft = replace(
        sft, optimizer=replace(sft.optimizer, lr=1e-2, warmup_fraction=0.0)
    )  # one step of the paper's changes next to nothing
    ended = run(cut_down(sft, base), tmp_path / "sft")
    begun = run(cut_down(ebft, replace(base, path=str(tmp_path / "sft" / "model"))), tmp_path / "ebft")
    assert ended["final"] == pytest.approx(begun["base"], rel=1e-5)
    assert ended["final"]["eval/feature_matching_loss@2"] != pytest.approx(
        ended["base"]["eval/feature_matching_loss@2"], rel=1e-3
    )
