"""Every file under conf/ composes into a config that passes the checks, and its first lines say how to run it."""

import shlex
from pathlib import Path

import hydra
import pytest

from ebft.cli.compose import compose
from ebft.cli.help import help_text
from ebft.cli.keys import GROUPS, all_keys, nearest
from ebft.config import METHODS

CONF = Path(__file__).parents[2] / "conf"
FILES = sorted(path for path in CONF.rglob("*.yaml") if path.parent != CONF)
names = [str(path.relative_to(CONF).with_suffix("")) for path in FILES]


def command(path: Path) -> list[str]:
    """The overrides of the command that a file gives: on its first line, or below the package header that Hydra wants first."""
    first, second = path.read_text().splitlines()[:2]
    line = second if first == "# @package _global_" else first
    program, *overrides = shlex.split(line.removeprefix("# "))
    assert program == "ebft-train"
    return overrides


@pytest.mark.parametrize("path", FILES, ids=names)
def test_the_command_in_each_file_composes(path: Path) -> None:
    group, name = path.relative_to(CONF).with_suffix("").parts
    overrides = command(path)
    assert f"{'+' if group == 'experiment' else ''}{group}={name}" in overrides
    compose(overrides)


def test_every_group_has_a_folder_and_a_place_in_the_help() -> None:
    assert sorted({path.parent.name for path in FILES}) == sorted(GROUPS)
    assert all(f"  {'+' if group == 'experiment' else ''}{group} " in help_text() for group in GROUPS)


def test_an_experiment_can_be_changed() -> None:
    config = compose(["+experiment=smoke", "trainer.max_steps=3", "method=sft"])
    assert (config.trainer.max_steps, config.method.name, config.optimizer.schedule) == (3, "sft", "cosine")
    assert (config.model.init, config.model.config_overrides["num_hidden_layers"]) == ("random", 4)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_brings_its_optimizer(method: str) -> None:
    with hydra.initialize_config_module("ebft.conf", version_base="1.3"):
        cfg = hydra.compose("train", [f"method={method}"], return_hydra_config=True)
    assert cfg.hydra.runtime.choices["optimizer"] == method


def test_a_default_is_written_once() -> None:
    """An option inherits what it does not change."""
    assert compose(["features=last", "features.whitening=paper"]).features.whitening == "paper"
    assert compose(["optimizer=paper_ebft"]).optimizer.betas == [0.9, 0.95]
    assert compose(["data=parquet", "data.path=x", "data.sequence_length=509"]).data.sequence_length == 509


def test_layers_keep_their_types() -> None:
    """0.5 is half the depth, 2 the second layer: neither may turn into the other's type on its way."""
    layers = compose(["features.feature_layers=[0.5,2,1.0]"]).features.feature_layers
    assert [(layer, type(layer)) for layer in layers] == [(0.5, float), (2, int), (1.0, float)]


def test_keys_know_their_owners() -> None:
    keys = all_keys()
    assert keys["method.diversity_coef"] == ["method=ebft"]
    assert keys["data.path"] == ["data=jsonl", "data=parquet", "data=hub"]
    assert keys["data.revision"] == ["data=hub"]
    assert keys["data.sequence_length"] == keys["method.name"] == keys["seed"] == []


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("eval.n_sample", "eval.n_samples"),
        ("n_samples", "sampler.n_samples"),
        ("temprature", "sampler.temperature"),
        ("train.max_steps", "trainer.max_steps"),
        ("quite.other", None),
    ],
)
def test_nearest(name: str, found: str | None) -> None:
    assert nearest(name, all_keys()) == found
