"""What the plan says is what the run does."""

from dataclasses import replace
from pathlib import Path

import pytest

from ebft.cost import memory
from ebft.cost.tokens import by_phase
from ebft.methods import differentiate
from ebft.output import environment
from ebft.train.optimization import Optimization
from ebft.train.plan import plan
from ebft.train.setup import prepare
from tests.debug_run import miniature, pairs


@pytest.mark.parametrize("method", ["sft", "ebft"])
@pytest.mark.parametrize(
    "geometry",
    [[], ["sampler.n_samples=5", "sampler.stride=3", "sampler.generate_length=1", "features.feature_layers=[2]"]],
)
@pytest.mark.parametrize("size", [2, 3])
def test_tokens_of_a_step_are_those_of_the_plan(tmp_path: Path, method: str, geometry: list[str], size: int) -> None:
    """Three rows, as two micro-batches and as one."""
    config = miniature(
        tmp_path, f"method={method}", *geometry, "sampler.reuse=false", f"trainer.micro_batch_size={size}"
    )
    setup = prepare(config)
    line = plan(config, setup)["tokens to forward per step"]
    optimization, before = Optimization(config.optimizer, setup.policy, 10), setup.method.tokens_forwarded
    optimization.step(setup.method, setup.batch([0, 1, 2]), 0, size, None)
    measured = setup.method.tokens_forwarded - before
    assert line.startswith(f"{measured:,.0f} = ")
    assert f"; {measured / (3 * 3 * 23):.1f} times" in line


@pytest.mark.parametrize(
    ("entry", "dtype", "named"),
    [
        ("flags : fpu avx512_bf16", "fp32", True),
        ("Features : asimd bf16", "fp32", True),
        ("flags : fpu avx512_bf16", "bf16", False),
        ("flags : avx512f", "fp32", False),
        ("", "fp32", False),
    ],
)
def test_a_processor_that_multiplies_bf16_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, dtype: str, named: bool
) -> None:
    key, _, value = entry.partition(" : ")
    monkeypatch.setattr(environment, "_cpuinfo", lambda wanted: value if wanted == key else "")
    config = miniature(tmp_path, "method=sft", f"trainer.dtype={dtype}")
    assert ("trainer.dtype=bf16" in plan(config, prepare(config))["device"]) == named


@pytest.mark.slow
def test_dropout_that_was_switched_off_has_a_line(tmp_path: Path) -> None:
    config = miniature(tmp_path, "method=sft", "+model.config_overrides.attention_dropout=0.125")
    setup = prepare(config)
    assert plan(config, setup)["dropout"] == (
        "off, because rollouts and update must agree; the model had attention_dropout=0.125"
    )
    assert setup.policy.model.config.attention_dropout == 0.0
    without = miniature(tmp_path, "method=sft")
    assert "dropout" not in plan(without, prepare(without))


@pytest.mark.slow
def test_phases_are_those_of_the_plan(tmp_path: Path) -> None:
    """Three rows of 23 tokens with three blocks of two rollouts of three tokens; phi is one of two layers deep.

    sampling 3 (23 + 6 * 2) = 105, features 3 (23 + 6 * 3) / 2 = 61.5, update 3 * 105 = 315.
    """
    config = miniature(tmp_path, "method=ebft", "sampler.reuse=false")
    setup = prepare(config)
    before = setup.method.tokens_forwarded
    prepared = setup.method.prepare(setup.batch([0, 1, 2]), 0, is_only_microbatch=False)
    assert setup.method.tokens_forwarded - before == 105 + 61.5
    differentiate(setup.method, prepared, setup.method.counts(prepared), None)
    assert setup.method.tokens_forwarded - before == 105 + 61.5 + 315
    assert plan(config, setup)["tokens to forward per step"] == (
        "482 = sampling 105 + features 62 + update 315; 2.3 times supervised fine-tuning on the same rows"
    )
    whole = miniature(tmp_path, "method=ebft", "sampler.reuse=false", "trainer.micro_batch_size=3")
    assert plan(whole, prepare(whole))["tokens to forward per step"].startswith(
        "412 = sampling 36 + features 62 + update 315; "
    )
    reusing = miniature(tmp_path, "method=ebft", "sampler.reuse=true")
    assert plan(reusing, prepare(reusing))["tokens to forward per step"].startswith("at most 482 = ")


@pytest.mark.slow
def test_another_feature_network_is_counted_in_the_policy_s_layers(tmp_path: Path) -> None:
    """The shipped model: its first of six layers has many times the parameters of the two of the debug model. Measured
    as planned, on full rows."""
    config = miniature(
        tmp_path,
        "method=ebft",
        "sampler.reuse=false",
        "features.network=checkpoint",
        "features.path=tiny",
        "features.feature_layers=[1]",
    )
    setup = prepare(config)
    layers = [
        sum(parameter.numel() for parameter in decoder.module.layers[0].parameters())
        for decoder in (setup.policy.decoder, setup.method.phi.decoder)
    ]
    setup.method.prepare(setup.batch([0, 1, 2]), 0, is_only_microbatch=False)
    features = setup.method.phi.decoder.tokens_forwarded
    assert features == pytest.approx(
        3 * (23 + 6 * 3) * layers[1] / (2 * layers[0]), rel=0.01
    )  # but for the final norms
    assert f"features {features:,.0f} +" in plan(config, setup)["tokens to forward per step"]


def test_the_papers_setting_costs_what_section_9_says(tmp_path: Path) -> None:
    """T = 1024, K = 127, N = 4, G = 8, phi at three quarters of the depth: 4,580 + 3,816 + 13,740 = 22,136 tokens, 7.2
    times 3 * 1024."""
    geometry = "sampler.n_samples=4 sampler.stride=8 sampler.context_length=8 sampler.generate_length=8"
    depth = "model.config_overrides.num_hidden_layers=4 features.feature_layers=[0.25,0.5,0.75]"
    config = miniature(tmp_path, "method=ebft", *geometry.split(), *depth.split())
    phi, whole = prepare(config).method.phi, replace(config, data=replace(config.data, sequence_length=1024))
    phases = by_phase(whole, 127, phi.decoder.depth, rows_are_kept=False)
    assert phases == {"sampling": 4580, "features": 3816, "update": 13740}


def test_lines_of_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_cpuinfo", lambda _: "")
    config = miniature(tmp_path, "method=sft", "trainer.max_steps=null", "trainer.max_epochs=2")
    setup = prepare(config)
    lines = plan(config, setup)
    num_parameters = sum(parameter.numel() for parameter in setup.policy.model.parameters())
    assert lines == {
        "method": "sft",
        "model": f"tiny, {num_parameters / 1e6:.1f} M parameters, random",
        "documents": "6 in 7 rows of 23 tokens (1 more are left out: too short for "
        "sampler.context_length=7 plus sampler.generate_length=3 tokens)",
        "rows": "packed, documents joined and cut; trained on all tokens",
        "tokens": "no BOS, <|endoftext|> ends what is trained",
        "rollouts": "none",
        "tokens to forward per step": "207 = update 207; 1.0 times supervised fine-tuning on the same rows",
        "memory": memory.line(setup.workload),
        "steps": "4 of 3 rows, 2.00 epochs",  # an epoch is two whole batches of the seven rows
        "held out": "3 rows every 3 steps, horizons 1, 3",
        "held out and trained on": "13 tokens in a row 0.0 % of 3 rows",
        "device": "cpu, fp32",
    }


@pytest.mark.slow
def test_rollouts_are_named_by_what_the_method_samples(tmp_path: Path) -> None:
    blocks = miniature(tmp_path, "method=ebft")
    assert plan(blocks, prepare(blocks))["rollouts"] == "2 of 3 tokens at each of 3.0 anchors a row"
    whole = miniature(tmp_path, "method=rlvr", *pairs(tmp_path), "method.max_new_tokens=11")
    assert plan(whole, prepare(whole))["rollouts"] == "2 completions a prompt, of at most 11 tokens"


@pytest.mark.slow
def test_the_plan_says_how_rows_lie_and_what_counts(tmp_path: Path) -> None:
    text, asked = miniature(tmp_path, "method=sft"), miniature(tmp_path, "method=sft", *pairs(tmp_path))
    assert plan(text, prepare(text))["rows"] == "packed, documents joined and cut; trained on all tokens"
    assert plan(asked, prepare(asked))["rows"] == "padded, one document a row; trained on completions alone"
    mixed = miniature(tmp_path, "method=sft", *pairs(tmp_path), "data.loss_tokens=all", "sampler.anchors=completion")
    assert plan(mixed, prepare(mixed))["rows"] == (
        "padded, one document a row; trained on all tokens, rollouts from completions alone"
    )
