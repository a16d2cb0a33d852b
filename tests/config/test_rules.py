"""Each rule of `ebft.config.rules.check`, broken once: the sentence names the key and the fix."""

from dataclasses import replace
from typing import Any

import pytest

from ebft.cli.compose import compose
from ebft.config.rules import check
from ebft.config.schema import TrainConfig, UserError


@pytest.fixture(scope="module")
def default() -> TrainConfig:
    return compose(["data=stdlib"])


@pytest.fixture(scope="module")
def pairs() -> TrainConfig:
    return compose(
        ["data=jsonl", "data.path=x", "data.text_column=null", "data.prompt_column=p", "data.completion_column=c"]
    )


def changed(config: TrainConfig, **changes: Any) -> TrainConfig:
    """`changed(config, sampler__stride=0)` sets sampler.stride."""
    for key, value in changes.items():
        group, _, name = key.partition("__")
        config = replace(config, **{group: replace(getattr(config, group), **{name: value})})
    return config


def refusal(config: TrainConfig, **changes: Any) -> str:
    with pytest.raises(UserError) as error:
        check(changed(config, **changes))
    return str(error.value)


def test_several_refusals_come_at_once(default: TrainConfig) -> None:
    """Values by themselves first; of combinations one a part of the config, for the next often follows from it."""
    wrong = {"sampler__stride": 0, "optimizer__lr": 0.0, "eval__horizons": []}
    assert refusal(default, **wrong) == "sampler.stride=0 must be at least 1. optimizer.lr=0.0 must be above 0."
    assert refusal(default, eval__horizons=[], features__feature_layers=[], trainer__batch_size=3) == (
        "eval.horizons=[] must hold at least one length, each at least 1. features.feature_layers is empty; name at "
        "least one fraction of the depth or layer index. trainer.micro_batch_size=8 is above trainer.batch_size=3; "
        "lower it."
    )


@pytest.mark.slow
def test_the_default_passes(default: TrainConfig, pairs: TrainConfig) -> None:
    check(default)
    check(pairs)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method__advantage": "gae"}, "method.advantage=gae is not one of batch, none, rloo, group_norm."),
        ({"method__ce_coef": -0.5}, "method.ce_coef=-0.5 must be at least 0."),
        ({"sampler__stride": 0}, "sampler.stride=0 must be at least 1."),
        ({"optimizer__lr": float("inf")}, "optimizer.lr=inf must be a finite number."),
        (
            {"trainer__batch_size": 2**62 + 1},
            f"trainer.batch_size={2**62 + 1} is too large a number; the largest is {2**62}.",
        ),
        ({"sampler__temperature": 0.0}, "sampler.temperature=0.0 must be above 0."),
        ({"optimizer__lr": float("nan")}, "optimizer.lr=nan must be a finite number."),
        ({"eval__n_samples": 1}, "eval.n_samples=1 must be at least 2."),
        (
            {"method__rl_coef": 0.0, "method__ce_coef": 0.0},
            "method.rl_coef and method.ce_coef are both 0, so there is nothing to train on; raise one.",
        ),
        (
            {"sampler__n_samples": 1, "method__advantage": "rloo"},
            "sampler.n_samples=1 is too small for method.advantage=rloo; use at least 2, or method.advantage=none.",
        ),
        (
            {"sampler__n_samples": 1},
            "sampler.n_samples=1 leaves no pair for the diversity term; use at least 2, or method.diversity_coef=0.",
        ),
        (
            {"sampler__context_length": 200, "sampler__generate_length": 57},
            "sampler.context_length=200 plus sampler.generate_length=57 leaves no block in data.sequence_length=256; "
            "shorten them or lengthen the rows.",
        ),
        ({"eval__horizons": []}, "eval.horizons=[] must hold at least one length, each at least 1."),
        ({"eval__horizons": [4, 0]}, "eval.horizons=[4, 0] must hold at least one length, each at least 1."),
        (
            {"eval__context_length": 255},
            "eval.context_length=255 plus sampler.generate_length=4 leaves no block in data.sequence_length=256; "
            "shorten them or lengthen the rows.",
        ),
        ({"data__validation_fraction": 1.0}, "data.validation_fraction=1.0 must be below 1."),
        (
            {"data__layout": "padded", "data__document_masking": True},
            "data.document_masking=true needs data.layout=packed: a padded row holds one document.",
        ),
        (
            {"data__loss_tokens": "completion"},
            "data.loss_tokens=completion needs data with a prompt and a completion column; use data.loss_tokens=all.",
        ),
        (
            {"sampler__anchors": "completion"},
            "sampler.anchors=completion needs data with a prompt and a completion column; use sampler.anchors=all.",
        ),
        (
            {"features__feature_layers": []},
            "features.feature_layers is empty; name at least one fraction of the depth or layer index.",
        ),
        (
            {"features__feature_layers": [0.5, 1.5]},
            "features.feature_layers holds 1.5; a fraction lies in (0, 1], an index is a whole number.",
        ),
        (
            {"features__feature_layers": [-3]},
            "features.feature_layers holds -3; an index counts from 0, the embedding output.",
        ),
        (
            {"features__network": "checkpoint"},
            "features.path names the feature network of features.network=checkpoint; set both or neither.",
        ),
        (
            {"features__path": "x"},
            "features.path names the feature network of features.network=checkpoint; set both or neither.",
        ),
        (
            {"trainer__processes": 2},
            "trainer.processes=2 needs trainer.parallel=ddp, with all weights in every process, or "
            "trainer.parallel=fsdp2, with shards of them.",
        ),
        (
            {"trainer__processes": 3, "trainer__parallel": "ddp"},
            "trainer.processes=3 cannot share trainer.batch_size=8 evenly; make it a multiple of 3.",
        ),
        (
            {"trainer__processes": 11, "trainer__parallel": "ddp"},
            "trainer.processes=11 is more than trainer.batch_size=8 has rows; use at most 8 processes, or raise it.",
        ),
        ({"trainer__processes": 0}, "trainer.processes=0 must be at least 1."),
        ({"trainer__hang_seconds": 0.0}, "trainer.hang_seconds=0.0 must be above 0."),
        (
            {"features__placement": "sharded"},
            "features.placement=sharded needs trainer.parallel=ddp or fsdp2, for one process has nobody to share with.",
        ),
        (
            {"trainer__parallel": "fsdp2", "trainer__compile": True},
            "trainer.compile=true compiles layers that hold all their weights; use trainer.parallel=ddp, or "
            "trainer.compile=false.",
        ),
        (
            {"trainer__max_steps": None},
            "Set exactly one of trainer.max_steps and trainer.max_epochs; make the other null.",
        ),
        (
            {"trainer__max_epochs": 2.0},
            "Set exactly one of trainer.max_steps and trainer.max_epochs; make the other null.",
        ),
        (
            {"trainer__batch_size": 3, "trainer__micro_batch_size": 5},
            "trainer.micro_batch_size=5 is above trainer.batch_size=3; lower it.",
        ),
        (
            {"trainer__max_tokens_per_microbatch": 259},
            "trainer.max_tokens_per_microbatch=259 is below the 260 tokens of a row with one rollout; raise it, or "
            "shorten data.sequence_length.",
        ),
        ({"optimizer__betas": [0.9]}, "optimizer.betas=[0.9] must be two numbers in [0, 1)."),
        ({"optimizer__betas": [0.9, 1.0]}, "optimizer.betas=[0.9, 1.0] must be two numbers in [0, 1)."),
        ({"optimizer__warmup_fraction": 1.5}, "optimizer.warmup_fraction=1.5 must be at most 1."),
        ({"optimizer__ema_decay": 1.0}, "optimizer.ema_decay=1.0 must be below 1; null turns averaging off."),
        (
            {"model__config_overrides": {"hidden_size": 48}},
            "model.config_overrides changes the architecture, so it needs model.init=random.",
        ),
    ],
)
def test_each_rule(default: TrainConfig, changes: dict[str, Any], sentence: str) -> None:
    assert refusal(default, **changes) == sentence


@pytest.mark.parametrize(
    "changes",
    [{"data__text_column": "t"}, {"data__prompt_column": None}, {"data__completion_column": None}],
)
def test_columns_are_a_text_or_a_pair(pairs: TrainConfig, changes: dict[str, Any]) -> None:
    sentence = (
        "Set either data.text_column, or data.messages_column, or both data.prompt_column and data.completion_column, "
        "and make the rest null."
    )
    assert refusal(pairs, **changes) == sentence


def test_a_border_is_between_texts(pairs: TrainConfig) -> None:
    refused = "data.border_space is about prompts and completions that are texts; make it null."
    texts = {"data__text_column": "t", "data__prompt_column": None, "data__completion_column": None}
    alone = {**texts, "data__loss_tokens": "all", "sampler__anchors": "all"}
    talks = {**texts, "data__text_column": None, "data__messages_column": "m"}
    assert refusal(pairs, data__border_space="completion", **alone) == refused
    assert refusal(pairs, data__border_space="completion", **talks) == refused


@pytest.mark.parametrize("parts", [{"stdlib": 1, "jsonl": 1}, {}, {"code_qa": -1, "stdlib": 1}, {"code_qa": 0}])
def test_a_mixture_names_sources_that_need_no_network(parts: dict[str, int]) -> None:
    message = refusal(compose(["data=mixture"]), data__parts=parts)
    assert (
        message
        == f"data.parts={parts} must give numbers of copies to stdlib, code_qa, translation: none below 0, one above."
    )


def test_a_mixture_has_no_task() -> None:
    message = refusal(compose(["data=mixture"]), data__task="parses")
    assert (
        message
        == "data.task=parses judges one kind of answer, and data.source=mixture holds several; set data.task=null."
    )


def test_packages_are_named() -> None:
    sentence = "data.packages is empty; name installed packages, such as [networkx,sympy]."
    assert refusal(compose(["data=packages", "data.packages=[json]"]), data__packages=[]) == sentence


def test_functions_come_out_of_modules(default: TrainConfig, pairs: TrainConfig) -> None:
    sentence = "data.task=parses takes functions out of modules, so it needs data=stdlib or data=packages."
    assert refusal(pairs, data__task="parses") == sentence


def test_a_held_out_split_is_no_part_of_what_is_trained_on() -> None:
    config = compose(["data=mbpp", "sandbox.allow_code_execution=true"])
    check(changed(config, data__train_split="train[510:]", data__validation_split="train[10:510]"))
    assert refusal(config, data__validation_split="train[10:510]") == (
        "data.validation_split=train[10:510] is part of data.train_split=train; train on the rest, such as train[100:]."
    )
    check(changed(config, data__validation_split="train[10:510]", data__validation_path="another"))


def test_pairs_allow_completion_anchors_and_loss(pairs: TrainConfig) -> None:
    check(changed(pairs, sampler__anchors="completion", data__loss_tokens="completion"))


def adapter(config: TrainConfig, **changes: Any) -> dict[str, Any]:
    return {"model__adapter": replace(config.model.adapter, **changes)}


@pytest.mark.slow
def test_rules_of_adapters() -> None:
    config = compose(["model/adapter=lora", "trainer.device=cpu"])
    assert (
        refusal(config, **adapter(config, targets=[]))
        == "model.adapter.targets is empty; name at least one linear module, or null for all of them."
    )
    assert refusal(config, **adapter(config, dropout=1.0)) == "model.adapter.dropout=1.0 must be below 1."
    assert refusal(config, **adapter(config, dropout=0.1)) == (
        "model.adapter.dropout=0.1 needs a method without rollouts: those of method=ebft and its update must agree, so "
        "use model.adapter.dropout=0."
    )
    assert refusal(config, **adapter(config, quantize="nf4")) == (
        "model.adapter.quantize=nf4 needs a CUDA device; use model.adapter.quantize=none, or trainer.device=cuda."
    )
    check(compose(["method=sft", "model/adapter=lora", "model.adapter.dropout=0.1"]))


def test_an_evaluation_takes_adapters_as_they_were_trained() -> None:
    """Its method is not the run's, nor is its device."""
    check(
        compose(
            ["model/adapter=lora", "model.adapter.dropout=0.1", "model.adapter.quantize=nf4", "trainer.device=cpu"],
            "eval",
        )
    )


def test_a_method_without_rollouts_needs_no_pair_of_samples() -> None:
    check(changed(compose(["method=sft"]), sampler__n_samples=1))
