"""The base's evaluation as it is kept: the same run with it and without it, and never another's."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ebft.config.schema import TrainConfig
from ebft.evaluation import Evaluation
from ebft.evaluation.ratios import Ratio
from ebft.run import by_content, checked
from ebft.train import kept_evaluation
from ebft.train.kept_evaluation import Kept, find, keep, key, settings
from ebft.train.loop import train
from ebft.train.setup import prepare
from tests.debug_run import assert_same_run, miniature, pairs, rows, summary, write_rows

pytestmark = pytest.mark.usefixtures("no_report")

BEFORE = "The base was evaluated before, in "


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EBFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "evaluations"


def key_of(folder: Path, *overrides: str) -> str:
    found = key(prepare(miniature(folder, "method=sft", *overrides)))
    assert found is not None
    return found


def some(value: float = 1.0, **scores: float) -> Kept:
    ratio = {name: Ratio(torch.tensor([each], dtype=torch.float64), torch.ones(1)) for name, each in scores.items()}
    return Kept(Evaluation({"cross_entropy": Ratio(torch.tensor([value]), torch.ones(1))} | ratio, []), 7.0)


@pytest.mark.slow
def test_a_run_with_a_kept_base_is_the_run_that_evaluated_it(tmp_path: Path, kept: Path) -> None:
    """With questions, whose answers and samples are kept as well."""
    answers = ["eval.num_completions=2", "eval.pass_at=[1,2]"]
    config = miniature(tmp_path, "method=rlvr", "method.max_new_tokens=5", *pairs(tmp_path), *answers)
    train(config, tmp_path / "first")
    (entry,) = kept.iterdir()
    train(config, tmp_path / "second")
    assert [*kept.iterdir()] == [entry]
    assert_same_run(tmp_path / "second", tmp_path / "first")
    assert rows(tmp_path / "second" / "answers.jsonl") == rows(tmp_path / "first" / "answers.jsonl")
    said = [BEFORE in (tmp_path / name / "train.log").read_text() for name in ("first", "second")]
    assert said == [False, True]


@pytest.mark.slow
def test_another_method_needs_the_base_once(tmp_path: Path, kept: Path) -> None:
    """And is compared with it: no key that is free changes a figure of the base."""
    free = [
        "optimizer.lr=0.1",
        "trainer.batch_size=2",
        "sampler.stride=3",
        "sampler.n_samples=3",
        "trainer.max_steps=1",
    ]
    train(miniature(tmp_path, "method=sft", "trainer.max_steps=1"), tmp_path / "sft")
    train(miniature(tmp_path, "method=ebft", *free), tmp_path / "ebft")
    assert BEFORE in (tmp_path / "ebft" / "train.log").read_text()
    kept.rename(kept.with_name("away"))
    train(miniature(tmp_path, "method=ebft", *free), tmp_path / "alone")
    assert BEFORE not in (tmp_path / "alone" / "train.log").read_text()
    assert (
        summary(tmp_path / "alone")["base"] == summary(tmp_path / "ebft")["base"] == summary(tmp_path / "sft")["base"]
    )


COUNTED = (
    "eval.n_samples=3",
    "eval.seed=1",
    "eval.stride=7",
    "eval.horizons=[1,2]",
    "features.feature_layers=[0]",
    "features.whitening=paper",
    "sampler.generate_length=2",
    "sampler.reuse=false",
    "trainer.dtype=bf16",
    "data.bos=true",
    "data.layout=padded",
    "model.config_overrides.num_hidden_layers=3",
    "sandbox.seconds=3",
)


@pytest.mark.slow
def test_keys_that_count_and_keys_that_do_not(tmp_path: Path) -> None:
    plain = settings(miniature(tmp_path))
    for override in COUNTED:
        assert settings(miniature(tmp_path, override)) != plain, override
    for name in ("method=sft", "optimizer.lr=1", "seed=3", "tracker=wandb", "trainer.max_steps=2", "resume=never"):
        assert settings(miniature(tmp_path, name)) == plain, name


def test_every_free_key_is_one(tmp_path: Path) -> None:
    """A key that was renamed would be free no longer, and nobody would notice."""
    config = miniature(tmp_path)
    for name in kept_evaluation.FREE_KEYS:
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)


@pytest.mark.slow
def test_what_is_hashed_beside_the_config(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, held-out rows, the package and the libraries; not the training rows."""
    plain = key_of(tmp_path)
    assert key_of(tmp_path) == plain
    assert key_of(tmp_path, "seed=1") != plain  # other weights
    write_rows(tmp_path / "others.jsonl", 7, first=50)
    training = f"data.path={tmp_path / 'others.jsonl'}"
    held_out = f"data.validation_path={tmp_path / 'others.jsonl'}"
    found = []
    for override in (training, held_out):
        config = miniature(tmp_path, "method=sft")
        other = miniature(tmp_path, "method=sft", override)
        setup = prepare(other)
        same = replace(setup.material, config=config)  # the path itself counts
        found.append(key(replace(setup, material=same)))
    assert found[0] == plain
    assert found[1] not in (plain, None)
    monkeypatch.setattr(by_content, "package_digest", lambda: "another")
    assert key_of(tmp_path) != plain
    monkeypatch.undo()
    monkeypatch.setenv("EBFT_CACHE", str(kept.parent))
    monkeypatch.setattr(by_content.metadata, "version", lambda name: "0")
    assert key_of(tmp_path) != plain


def test_nothing_is_looked_for_where_nothing_is_kept_or_a_user_s_code_is_run(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = prepare(miniature(tmp_path, "method=sft"))
    own = replace(setup.material.config.features, network="mine.py:Phi")
    config: TrainConfig = replace(setup.material.config, features=own)
    assert key(replace(setup, material=replace(setup.material, config=config))) is None
    monkeypatch.setenv("EBFT_CACHE", "")
    assert key(setup) is None
    keep("key", some())
    assert find("key") is None


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_entry_is_made_anew(kept: Path, damage: str) -> None:
    keep("key", some(2.0))
    (entry,) = kept.iterdir()
    content = bytearray(entry.read_bytes())
    content[-7] ^= 1
    entry.write_bytes({"flipped": bytes(content), "cut": bytes(content[:-9]), "empty": b""}[damage])
    assert find("key") is None
    keep("key", some(3.0))
    found = find("key")
    assert found is not None
    assert (found.evaluation.metrics()["eval/cross_entropy"], found.seconds) == (3.0, 7.0)
    assert [*kept.iterdir()] == [entry]


def test_failures_of_the_machine_are_not_kept(kept: Path) -> None:
    keep("key", some(verifier_errors=1.0))
    assert find("key") is None
    keep("key", some(verifier_errors=0.0))
    assert find("key") is not None


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(kept: Path) -> None:
    kept.parent.mkdir()
    kept.write_text("a file where the folder would be")
    keep("key", some())
    assert find("key") is None


def test_entries_that_were_exchanged_are_nobody_s(kept: Path) -> None:
    """The base of another model, or of other rows, would be subtracted from this run's figures."""
    keep("mine", some(2.0))
    keep("other", some(3.0))
    first, second = kept / "mine.pt", kept / "other.pt"
    first.rename(kept / "aside")
    second.rename(first)
    (kept / "aside").rename(second)
    assert (find("mine"), find("other")) == (None, None)
    keep("mine", some(2.0))
    found = find("mine")
    assert found is not None
    assert found.evaluation.metrics()["eval/cross_entropy"] == 2.0


@pytest.mark.parametrize("state", [{}, [], {"key": "key"}, {"key": "key", "samples": [{"no": 1}]}, "text", None])
def test_an_entry_that_somebody_wrote_with_its_checksum_is_none(kept: Path, state: object) -> None:
    kept.mkdir(parents=True)
    checked.write(kept / "key.pt", state)
    assert find("key") is None


def test_an_entry_that_is_no_file_is_none(kept: Path) -> None:
    kept.mkdir(parents=True)
    os.mkfifo(kept / "key.pt")
    assert find("key") is None
    keep("key", some(2.0))
    assert find("key") is not None


def test_an_entry_of_somebody_else_s_is_not_taken_on_trust(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep("key", some())
    assert find("key") is not None
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert find("key") is None
