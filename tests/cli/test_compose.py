"""Every file under conf/ composes into a config that passes the checks, and its first lines say how to run it."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import hydra
import pytest

from ebft.cli.compose import compose
from ebft.cli.help import SHARED, help_text
from ebft.cli.keys import GROUPS, NESTED_GROUPS, all_keys, is_whole, nearest
from ebft.cli.planning import Planner
from ebft.cli.sweep import help_text as sweep_help_text
from ebft.cli.sweep import settings, sweep
from ebft.config.methods import METHODS
from ebft.config.schema import UserError

CONF = Path(__file__).parents[2] / "conf"
SWEEP_GROUPS = ["sweep", "launcher"]
FILES = {
    str(path.relative_to(CONF).with_suffix("")): path for path in sorted(CONF.rglob("*.yaml")) if path.parent != CONF
}
OF_RUNS = [
    name for name, path in FILES.items() if name.partition("/")[0] not in SWEEP_GROUPS and path.stem not in SHARED
]
OF_SWEEPS = [name for name in FILES if name.partition("/")[0] in SWEEP_GROUPS]
SWEEPS = [name.removeprefix("sweep/") for name in OF_SWEEPS if name.startswith("sweep/")]
PAPER = [name.removeprefix("experiment/") for name in OF_RUNS if name.startswith("experiment/paper/")]


def command(name: str) -> tuple[str, list[str]]:
    """The program and the overrides of the command that a file gives: on its first line, or below the package header
    that Hydra wants first."""
    first, second = FILES[name].read_text().splitlines()[:2]
    line = second if first == "# @package _global_" else first
    program, *overrides = shlex.split(line.removeprefix("# "))
    return program, overrides


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_RUNS)
def test_the_command_in_each_file_composes(name: str) -> None:
    group, _, option = (
        name.rpartition("/")
        if name.startswith(tuple(f"{nested}/" for nested in NESTED_GROUPS))
        else name.partition("/")
    )
    program, overrides = command(name)
    assert program == "ebft-train"
    assert f"{'+' if group == 'experiment' else ''}{group}={option}" in overrides
    compose(overrides)


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_SWEEPS)
def test_the_command_of_each_sweep_and_launcher_is_planned(
    built_in_methods: None, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every run composes, figures can be compared, and every cell is printed with its cost; with one seed, since others
    differ in nothing else."""
    group, _, option = name.partition("/")
    program, overrides = command(name)
    assert program == "ebft-sweep"
    assert f"{group}={option}" in [*overrides, "sweep=default"]
    assert sweep([*overrides, "mode=plan", f"sweep.dir={tmp_path}", "seed=0"]) == 0
    title, header, *cells = capsys.readouterr().out.splitlines()
    assert title.startswith(f"{option if group == 'sweep' else 'default'}: {len(cells)} runs in {tmp_path}, ")
    assert header.split() == ["cell", "runs", "done", "steps", "cost"]
    assert all(cell.endswith(" times supervised fine-tuning") for cell in cells)


@pytest.mark.slow
def test_an_ablation_can_be_of_another_experiment(tmp_path: Path) -> None:
    jobs = Planner(tmp_path, settings(["sweep=ablation_whitening"]).sweep).jobs(
        ["+experiment=paper/translation", "seed=0"]
    )
    found = [
        (job.config.model.path, job.config.sampler.stride, job.config.features.whitening)
        for job in jobs
        if job.config is not None
    ]
    assert found == [("meta-llama/Llama-3.2-1B", 2, whitening) for whitening in ("none", "paper", "reference_code")]


def test_every_group_has_a_folder_and_a_place_in_the_help() -> None:
    assert {name.partition("/")[0] for name in FILES} == {*GROUPS, *SWEEP_GROUPS} - {*NESTED_GROUPS}
    assert all(f"  {'+' if group == 'experiment' else ''}{group} " in help_text() for group in GROUPS)
    assert all(experiment in help_text() for experiment in PAPER)
    assert all(f"  {name} " in sweep_help_text() for name in SWEEPS)


@pytest.mark.slow
def test_an_experiment_can_be_changed() -> None:
    config = compose(["+experiment=smoke", "trainer.max_steps=3", "method=sft"])
    assert (config.trainer.max_steps, config.method.name, config.optimizer.schedule) == (3, "sft", "cosine")
    assert (config.model.init, config.model.config_overrides["num_hidden_layers"]) == ("random", 4)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_brings_its_optimizer(method: str) -> None:
    with hydra.initialize_config_module("ebft.conf", version_base="1.3"):
        cfg = hydra.compose("train", [f"method={method}"], return_hydra_config=True)
    assert cfg.hydra.runtime.choices["optimizer"] == method


@pytest.mark.slow
@pytest.mark.parametrize("experiment", PAPER)
@pytest.mark.parametrize(
    ("method", "values"), [("ebft", (1e-6, "constant_with_warmup", 16, 2.0)), ("sft", (1e-5, "cosine", 64, 2.0))]
)
def test_in_the_paper_s_experiments_too(experiment: str, method: str, values: tuple[float, str, int, float]) -> None:
    config = compose([f"+experiment={experiment}", f"method={method}"])
    assert (
        config.optimizer.lr,
        config.optimizer.schedule,
        config.trainer.batch_size,
        config.trainer.max_epochs,
    ) == values


@pytest.mark.slow
def test_the_paper_s_reinforcement_learning_is_optimised_as_its_energy_based_fine_tuning() -> None:
    ours, theirs = (compose(["+experiment=paper/qa_code", f"method={method}"]) for method in ("rlvr", "ebft"))
    assert (ours.optimizer, ours.trainer) == (theirs.optimizer, theirs.trainer)


@pytest.mark.slow
def test_a_default_is_written_once() -> None:
    """An option inherits what it does not change."""
    assert compose(["features=last", "features.whitening=paper"]).features.whitening == "paper"
    assert compose(["optimizer=paper_ebft"]).optimizer.betas == [0.9, 0.95]
    assert compose(["data=parquet", "data.path=x", "data.sequence_length=509"]).data.sequence_length == 509


def test_what_options_share_is_no_option() -> None:
    """`data=jsonl` once inherited from `data=stdlib`, whose task and held-out half it then had to take back."""
    assert [name for name, path in FILES.items() if path.stem in SHARED] == ["data/base", "data/columns"]
    assert re.search(r"^  data +code_qa, alma, hub, ", help_text(), re.MULTILINE)
    with pytest.raises(UserError, match=r"^data\.source=base is not one of stdlib, "):
        compose(["data=base"])


def test_layers_keep_their_types() -> None:
    """0.5 is half the depth, 2 the second layer: neither may turn into the other's type on its way."""
    layers = compose(["features.feature_layers=[0.5,2,1.0]"]).features.feature_layers
    assert [(layer, type(layer)) for layer in layers] == [(0.5, float), (2, int), (1.0, float)]


def test_keys_know_whether_they_are_whole() -> None:
    keys = [
        "trainer.batch_size",
        "optimizer.lr",
        "model.adapter.rank",
        "model.adapter.alpha",
        "method.max_new_tokens",
        "model.config_overrides.x",
    ]
    assert [is_whole(key) for key in keys] == [True, False, True, False, True, None]


@pytest.mark.slow
def test_adapters_of_any_model_and_their_rate() -> None:
    config = compose(["model=debug", "model/adapter=lora", "optimizer=lora", "method=ebft"])
    assert (config.model.adapter.name, config.model.init, config.optimizer.lr, config.optimizer.schedule) == (
        "lora",
        "random",
        1e-3,
        "cosine",
    )


def test_keys_know_their_owners() -> None:
    keys = all_keys()
    assert keys["method.diversity_coef"] == ["method=ebft"]
    assert keys["data.path"] == ["data=jsonl", "data=parquet", "data=hub"]
    assert keys["data.revision"] == ["data=hub"]
    assert keys["model.adapter.rank"] == ["model/adapter=lora"]
    assert keys["model.adapter.name"] == keys["data.sequence_length"] == keys["method.name"] == keys["seed"] == []


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


@pytest.mark.slow
def test_a_further_held_out_set_is_the_data_config_of_its_source() -> None:
    chosen = compose(["+data@eval.sets.other=translation", "eval.sets.other.max_validation_documents=5"]).eval.sets
    assert chosen == {"other": replace(compose(["data=translation"]).data, max_validation_documents=5)}
    assert compose([]).eval.sets == {}
    text = compose(["eval=forgetting", "+data@eval.sets.text=stdlib"]).eval.sets["text"]
    assert (text.layout, text.loss_tokens) == ("packed", "all")


@pytest.mark.slow  # a third of a second each, and in the first one what Hydra imports
@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["eval.sets={x:3}"], "eval.sets.x=3 is no data config; add one with +data@eval.sets.x=3."),
        (["eval.sets={x:{source:3}}"], "eval.sets.x.source=3 is not one of stdlib,"),
        (["+data@eval.sets.x=translation", "+eval.sets.x.foo=3"], "eval.sets.x: foo is not a key of the configuration"),
        (["+data@eval.sets.x=translation", "eval.sets.x.sequence_length=5"], "eval.sets.x: sampler.context_length=8 "),
        (["+data@eval.sets.x=translation", "eval.sets.x.sequence_length=1"], "eval.sets.x.sequence_length=1 must be"),
        (
            ["+data@eval.sets.own=translation"],
            "eval.sets.own has the name of the run's own held-out rows; choose anoth",
        ),
        (["+data@eval.sets.x=translation", "eval.sets.x.task=a.py:B"], "eval.sets.x.task=a.py:B is code of your own"),
        (["+data@eval.sets.x=code_qa", "+data@eval.sets.x=stdlib"], "Multiple values for data@eval.sets.x"),
        (
            ["eval.sets={x y:{source:code_qa}}"],
            "eval.sets.x y: bad_rows, bos, document_masking, end_token, layout and ",
        ),
    ],
)
def test_a_set_that_is_none_is_refused_by_its_name(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as refusal:
        compose(overrides)
    assert str(refusal.value).startswith(sentence)


DIGITS = "1" + "0" * 400


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            f"optimizer.max_grad_norm={DIGITS}",
            "optimizer.max_grad_norm is a number of 401 digits; give one of at most 20.",
        ),
        (f"eval.horizons=[1,-{DIGITS}]", "eval.horizons.1 is a number of 401 digits; give one of at most 20."),
        (
            "eval.horizons='\\${oc.env:HOME}'",
            "eval.horizons=${oc.env:HOME} is not a list of whole numbers in brackets.",
        ),
        (
            "model/adapter=lora model.adapter.targets='\\${a}'",
            "model.adapter.targets=${a} is not a list of strings in brackets or null.",
        ),
        (f"eval.seed={'x' * 10_000}", f"eval.seed={'x' * 200}... is not a whole number."),
    ],
    ids=lambda value: value[:30],
)
def test_values_that_a_library_lets_pass_or_dies_of_are_refused(override: str, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        compose(override.split())
    assert str(raised.value) == sentence
