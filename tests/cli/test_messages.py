"""Every kind of mistake on the command line, with the one sentence that it gets, exit code 2 and no folder."""

import re

import pytest

from ebft.cli.keys import GROUPS, all_keys
from ebft.cli.other_names import OTHER_NAMES
from ebft.config.schema import TrainConfig
from tests.cli.conftest import Launcher

SENTENCES = {
    "trainer.max_stepz=3": "trainer.max_stepz is not a key of the configuration; did you mean trainer.max_steps?",
    "n_samples=3": "n_samples is not a key of the configuration; did you mean sampler.n_samples?",
    "model.lr=1": "model.lr is not a key of the configuration; did you mean optimizer.lr?",
    "learning_rate=1e-4": "learning_rate is called otherwise here; set optimizer.lr.",
    "num_train_epochs=3": (
        "num_train_epochs is called otherwise here; set trainer.max_epochs, beside trainer.max_steps=null."
    ),
    "modle=tiny": "modle is not a key of the configuration; did you mean model?",
    "+typo=1": "typo is not a key of the configuration; see ebft-train --cfg job for all keys.",
    "+trainer.max_stepz=1": "trainer.max_stepz is not a key of the configuration; did you mean trainer.max_steps?",
    "model=tny": (
        "model=tny does not exist; did you mean tiny? The options are debug, gemma3_270m, hf, llama_7b, smollm2, tiny."
    ),
    "data=base": (
        "data.source=base is not one of stdlib, packages, code_qa, translation, mixture, jsonl, parquet, hub, rows."
    ),
    "data=bass": (
        "data=bass does not exist; the options are alma, code_qa, hub, humaneval, jsonl, mbpp, mbpp_sanitized, "
        "mixture, nvidia_opencode_instruct, opencode_instruct, packages, parquet, rows, stdlib, swallow_code, "
        "translation."
    ),
    "mode=plan": "mode belongs to ebft-sweep; leave it out (for a plan, ebft-train has plan_only=true).",
    "tracker=mlflow": "tracker=mlflow does not exist; the options are none, tensorboard, trackio, wandb.",
    "tracker=null": "tracker=null names no option of tracker; ebft-train --help lists them.",
    "experiment=smoke": "experiment has no default to replace; write +experiment=smoke.",
    "method=sft method.diversity_coef=1": (
        "method.diversity_coef belongs to method=ebft; choose that or leave the key out."
    ),
    "method=sft +method.diversity_coef=1": (
        "method.diversity_coef belongs to method=ebft; choose that or leave out what sets it, the key or an option "
        "such as trainer=paper_ebft."
    ),
    "data.path=x": (
        "data.path belongs to data=jsonl or data=parquet or data=hub; choose one of them or leave the key out."
    ),
    "tracker.entity=x": "tracker.entity belongs to tracker=wandb; choose that or leave the key out.",
    "tracker=[wandb,mlflow]": "tracker=mlflow does not exist; the options are none, tensorboard, trackio, wandb.",
    "tracker=[]": "tracker=[] names no tracker; use tracker=none.",
    "tracker=[none,wandb]": "tracker.also=[none] must name each at most once of trackio, tensorboard; write "
    "tracker=[...] for several trackers.",
    "method.name=dpo": (
        "method.name=dpo is not one of sft, rlvr, ebft; a method of your own says `code: file.py:Class` in its YAML "
        "file."
    ),
    "model.adapter.rank=8": "model.adapter.rank belongs to model/adapter=lora; choose that or leave the key out.",
    "model/adapter=lora model.adapter.rnk=8": (
        "model.adapter.rnk is not a key of the configuration; did you mean model.adapter.rank?"
    ),
    "model/adapter=lora model.adapter.rank=many": "model.adapter.rank=many is not a whole number.",
    "model/adapter=lora model.adapter.rank=0": "model.adapter.rank=0 must be at least 1.",
    "model/adapter=lora model.adapter.targets=[[q_proj]]": (
        "model.adapter.targets=[[q_proj]] is not a list of strings in brackets or null."
    ),
    "model/adapter=lra": "model/adapter=lra does not exist; did you mean lora? The options are lora, none.",
    "model.adapter=lora": "model.adapter=lora is a choice of a group; write model/adapter=lora.",
    "model.adapter.name=dora": "model.adapter.name=dora is not one of none, lora.",
    "model=hf": "model.path is missing; add model.path=VALUE.",
    "data=jsonl": "data.path is missing; add data.path=VALUE.",
    "~seed": "seed is missing; add seed=VALUE.",
    "trainer.max_steps=abc": "trainer.max_steps=abc is not a whole number or null.",
    "seed=null": "seed=null is not a whole number.",
    "optimizer.lr=fast": "optimizer.lr=fast is not a number.",
    "data.document_masking=perhaps": "data.document_masking=perhaps is not true or false.",
    "trainer.device=null": "trainer.device=null is not a string.",
    "eval.horizons=[1.5]": "eval.horizons=[1.5] is not a list of whole numbers in brackets.",
    "features.feature_layers=[last]": "features.feature_layers=[last] is not a list of numbers in brackets.",
    "features.feature_layers=[[1]]": "features.feature_layers=[[1]] is not a list of numbers in brackets.",
    "model.config_overrides=3": "model.config_overrides=3 is not a mapping, as {a: 1}.",
    "seed=${nope}": "seed: Interpolation key 'nope' not found.",
    "model.config_overrides.hidden_size=3": (
        "model.config_overrides.hidden_size is not set yet; write +model.config_overrides.hidden_size=VALUE to add it."
    ),
    "+seed=1": "seed has a value already; leave out the plus: seed=1.",
    "trainer.max_steps": (
        "trainer.max_steps is not of the form KEY=VALUE; put a value with special characters in quotes: "
        "'KEY=\"VALUE\"'."
    ),
    "trainer=paper_ebft method=sft": (  # which nobody who types it knows to set that key
        "method.advantage belongs to method=rlvr or method=ebft; choose one of them or leave out what sets it, the key "
        "or an option such as trainer=paper_ebft."
    ),
    f".{'x' * 300}": (  # longer than the name of a file may be
        f".{'x' * 300} is not of the form KEY=VALUE; put a value with special characters in quotes: 'KEY=\"VALUE\"'."
    ),
    "seed=a=b": (
        "seed=a=b is not of the form KEY=VALUE; put a value with special characters in quotes: 'KEY=\"VALUE\"'."
    ),
    "data=code_qa data.parts={stdlib:1}": "data.parts belongs to data=mixture; choose that or leave the key out.",
    "seed=1,2": "seed=1,2 lists several values; add --multirun to run each, or put brackets around a list: KEY=[1,2].",
    "seed=range(1,3)": (
        "seed=range(1,3) lists several values; add --multirun to run each, or put brackets around a list: KEY=[1,2]."
    ),
    "data=jsonl data.prompt_template={q},b": (
        "data.prompt_template lists several values; add --multirun to run each, or put a text that has a comma in "
        "quotes: 'data.prompt_template=\"a, b\"'."
    ),
    "data=jsonl data.path=x data.prompt_template=${{x}}": (
        "data.prompt_template holds ${ without the name of a key behind it, as ${seed} has; write \\${ where the text "
        "itself is meant."
    ),
    "sampler.n_sample=8 seed=3 optimizr.lr=3": (
        "sampler.n_sample is not a key of the configuration; did you mean sampler.n_samples? optimizr.lr is not a key "
        "of the configuration; did you mean optimizer.lr?"
    ),
    "+typo=1 seed=null data=jsonl optimizer.lr=fast eval.horizons=[1.5] data.parts={}": (
        "data.parts belongs to data=mixture; choose that or leave the key out."
    ),
    "+typo=1 seed=null data=jsonl optimizer.lr=fast eval.horizons=[1.5]": (
        "optimizer.lr=fast is not a number. eval.horizons=[1.5] is not a list of whole numbers in brackets. seed=null "
        "is not a whole number. typo is not a key of the configuration; see ebft-train --cfg job for all keys. "
        "data.path is missing; add data.path=VALUE."
    ),
    "sampler.stride=0 optimizer.lr=-1": "sampler.stride=0 must be at least 1. optimizer.lr=-1.0 must be above 0.",
    "sampler.stride=0": "sampler.stride=0 must be at least 1.",
    "--config-name=nope": "There is no configuration named nope.",
    "--run --multirun": "Only one of --run, --multirun, --cfg, --info and --shell_completion can be specified.",
    "--nope": "ebft-train: unrecognized arguments: --nope; ebft-train --help says what there is.",
    "--cfg": "ebft-train: argument --cfg/-c: expected one argument; ebft-train --help says what there is.",
    "hydra.run.dir=${nope}/x": "hydra.run.dir: Interpolation key 'nope' not found.",
}


@pytest.mark.slow
@pytest.mark.parametrize("line", SENTENCES)
def test_one_sentence_and_no_folder(launch: Launcher, line: str) -> None:
    outcome = launch(*line.split())
    assert outcome.err == SENTENCES[line] + "\n"
    assert (outcome.code, outcome.out, launch.jobs, launch.files()) == (2, "", [], [])


def test_a_path_without_its_key_is_told_the_key(launch: Launcher) -> None:
    """A README's reader typed ebft-train RUN_FOLDER, and was told to use quotes."""
    (launch.folder / "run").mkdir()
    (launch.folder / "rows.jsonl.gz").touch()
    assert launch("rows.jsonl.gz").err == (
        "rows.jsonl.gz is not of the form KEY=VALUE; write data=jsonl data.path=rows.jsonl.gz.\n"
    )
    assert launch("run").err == (
        "run is not of the form KEY=VALUE; write resume=run to go on with a run, model.path=run to start from its "
        "model, sweep.dir=run for a sweep.\n"
    )


def test_an_unknown_experiment_names_the_nearest(launch: Launcher) -> None:
    assert launch("+experiment=smke").err.startswith(
        "experiment=smke does not exist; did you mean smoke? The options are "
    )


@pytest.mark.slow
def test_a_typo_in_a_sweep_stops_it_before_its_first_job(launch: Launcher) -> None:
    """Cell by cell, as Hydra does it, the bad cell would come to light after hours."""
    outcome = launch("--multirun", "seed=0,1", "sampler.stride=8,0")
    assert (outcome.code, outcome.err) == (2, "sampler.stride=0 must be at least 1.\n")
    assert (launch.jobs, launch.files()) == ([], [])


@pytest.mark.slow
def test_an_unknown_key_in_a_sweep(launch: Launcher) -> None:
    outcome = launch("-m", "seeed=0,1")
    assert (outcome.code, outcome.err) == (2, "seeed is not a key of the configuration; did you mean seed?\n")
    assert launch.files() == []


def test_names_of_other_trainers_lead_to_keys_that_there_are() -> None:
    keys = [*all_keys(TrainConfig), *GROUPS, "hydra.run.dir"]
    for name, advice in OTHER_NAMES.items():
        assert name not in keys
        named = re.findall(r"[a-z_]+[./][a-z_./]+|^[a-z_]+|(?<=with )[a-z_]+", advice)
        assert named, name
        assert {found for found in named if found not in keys} == set(), name
