"""The naive twin and the product take the same step, and the benchmark counts what each forwards."""

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import benchmark
import pytest
import torch
from naive import NaiveEBFT, layout
from transformers import LlamaConfig, LlamaForCausalLM

from ebft.config import EBFTConfig, FeaturesConfig, SamplerConfig
from ebft.methods.ebft import EBFT
from ebft.models import FeatureNetwork, LanguageModel
from ebft.types import Batch

ROWS, ROW_LENGTH, VOCABULARY, LAYERS = 2, 23, 31, 7
SAMPLER = SamplerConfig("all", n_samples=3, stride=2, context_length=3, generate_length=5, temperature=0.7, reuse=False)


def methods(ce_coef: float, whitening: str) -> tuple[EBFT, NaiveEBFT]:
    torch.manual_seed(0)
    settings = {"hidden_size": 24, "intermediate_size": 37, "num_attention_heads": 6, "num_key_value_heads": 2, "initializer_range": 0.3}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, num_hidden_layers=LAYERS, **settings))
    features = FeaturesConfig([0.25, 0.5, 0.75], "last_token", "joint", whitening, "policy", None)
    config = EBFTConfig("ebft", rl_coef=1.3, ce_coef=ce_coef, alignment_coef=0.9, diversity_coef=1.1, advantage="rloo")
    phi = FeatureNetwork(copy.deepcopy(model), features, "fp32")
    naive_policy = LanguageModel(copy.deepcopy(model), "fp32")
    naive = NaiveEBFT(config, SAMPLER, features, naive_policy, copy.deepcopy(model), seed=11)
    return EBFT(config, SAMPLER, LanguageModel(model, "fp32"), phi, seed=11, stop_token=None), naive


def rows() -> Batch:
    tokens = torch.randint(VOCABULARY, (ROWS, ROW_LENGTH), generator=torch.Generator().manual_seed(1))
    every = torch.ones_like(tokens, dtype=torch.bool)
    return Batch(tokens, torch.zeros_like(tokens), every, every, torch.arange(ROWS), masked=False)


def test_layout_is_the_definition() -> None:
    # T = 4, anchors 1 and 2, two steps: row 0 1 2 3, then step 0 of both blocks, then step 1 of both.
    positions, mask = layout(torch.tensor([1, 2]), row_length=4, num_steps=2)
    assert positions.tolist() == [0, 1, 2, 3, 1, 2, 2, 3]
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 0, 0, 0, 1, 0, 0, 0],
        [1, 1, 0, 0, 0, 1, 0, 0],
        [1, 0, 0, 0, 1, 0, 1, 0],
        [1, 1, 0, 0, 0, 1, 0, 1],
    ]


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize(("ce_coef", "whitening"), [(0.0, "none"), (0.1, "paper")])
def test_naive_twin_takes_the_same_step(ce_coef: float, whitening: str, reuse: bool) -> None:
    ours, naive = methods(ce_coef, whitening)
    ours.sampler = replace(SAMPLER, reuse=reuse)
    batch = rows()
    fast, slow = ours.prepare(batch, step=5), naive.prepare(batch, step=5)
    assert torch.equal(fast.rollout.tokens, slow.tokens)
    torch.testing.assert_close(fast.rollout.log_probs, slow.log_probs, rtol=1e-5, atol=1e-5)
    embeddings = ours.phi.embeddings(batch, fast.rollout, reuse)
    torch.testing.assert_close(embeddings.rollout, slow.embeddings.rollout, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(embeddings.reference, slow.embeddings.reference, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fast.advantages, slow.advantages, rtol=1e-5, atol=1e-5)

    ours_loss, naive_loss = ours.loss(fast, ours.counts(fast)), naive.loss(slow, naive.counts(slow))
    torch.testing.assert_close(ours_loss.total, naive_loss.total, rtol=1e-5, atol=1e-5)
    ours_loss.total.backward()
    naive_loss.total.backward()
    for (name, mine), its in zip(ours.policy.model.named_parameters(), naive.model.parameters(), strict=True):
        assert mine.grad.abs().max() > 1e-4, name
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-5, atol=1e-5, msg=name)


def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in {"hidden_size": 16, "intermediate_size": 29, "vocab_size": 31}.items():
        monkeypatch.setitem(benchmark.MODEL, name, size)
    monkeypatch.setattr(benchmark, "SHARPNESS", 0.01)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--threads", "1", *arguments])
    benchmark.main()


def test_formula_gives_the_rows_of_section_9(monkeypatch: pytest.MonkeyPatch) -> None:
    small_model(monkeypatch)
    racers = benchmark.contenders(benchmark.random_model(1024))
    ours, naive, sft = (benchmark.with_total(racers[name].method.tokens_per_row(1024, 127)) for name in ("ours", "naive", "sft"))
    assert ours == {"sampling": 4580, "features": 3816, "update": 13740, "step": 22136}
    assert naive == {"sampling": 46992, "features": 8160, "update": 24480, "step": 79632}
    assert sft == {"update": 3072, "step": 3072}


def test_benchmark_counts_what_it_forwards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """T = 25 has K = 2 blocks of N = 4 rollouts of 8: ours 25 + 8 * 7, 0.75 * (25 + 8 * 8); the twin 4 * (8 * 25 + 2 * 28), 4 * (25 + 16)."""
    small_model(monkeypatch)
    run(monkeypatch, "--lengths", "25", "--repetitions", "2", "--json", str(tmp_path / "figures.json"))
    figures = json.loads((tmp_path / "figures.json").read_text())["lengths"]["25"]
    expected = {
        "ours": {"sampling": 81, "features": 66.75, "update": 243, "step": 390.75},
        "naive": {"sampling": 1024, "features": 164, "update": 492, "step": 1680},
        "sft": {"update": 75, "step": 75},
    }
    assert figures["tokens_by_formula"] == expected | {"reuse": expected["ours"]}
    reusing = figures["tokens_forwarded"].pop("reuse")
    assert figures["tokens_forwarded"] == expected
    assert all(reusing[phase] <= tokens for phase, tokens in expected["ours"].items())
    seconds = {name: phases["step"] for name, phases in figures["seconds"].items()}
    assert figures["naive_over_ours_seconds"] == {name: seconds["naive"] / seconds[name] for name in ("ours", "reuse")}
    assert figures["ours_over_sft_seconds"] == {name: seconds[name] / seconds["sft"] for name in ("ours", "reuse")}
    table = capsys.readouterr().out.splitlines()[1:]
    assert table[0].split()[:4] == ["T", "phase", "reuse", "tokens"]
    assert [line.split()[:6] for line in table[1:5]] == [
        ["25", "sampling", "off", "81", "81", "1,024"],
        ["25", "features", "off", "67", "67", "164"],
        ["25", "update", "off", "243", "243", "492"],
        ["25", "step", "off", "391", "391", "1,680"],
    ]
    assert [line.split()[1:3] for line in table[5:]] == [[phase, "on"] for phase in ("sampling", "features", "update", "step")]


def test_rollouts_follow_the_row_as_far_as_the_benchmark_says() -> None:
    """45 % of the tokens, 55 % live; a short row's few rollouts scatter."""
    racer = benchmark.contenders(benchmark.random_model(512))["reuse"]
    racer.meter.reset()
    prepared = racer.method.prepare(benchmark.ascending_row(512), 0)
    assert racer.method.metrics([prepared])["reused_share"] == pytest.approx(0.45, abs=0.06)


def test_completions_and_generate_say_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_model(monkeypatch)
    for name, value in {"COMPLETED_ROWS": (3,), "SHORTEST_PROMPT": 2, "LONGEST_PROMPT": 7, "NEW_TOKENS": 5}.items():
        monkeypatch.setattr(benchmark, name, value)
    run(monkeypatch, "--lengths", "--completions", "--repetitions", "1", "--json", str(tmp_path / "figures.json"))
    document = json.loads((tmp_path / "figures.json").read_text())
    figures = document["completions"]["3"]
    assert document["lengths"] == {}
    assert figures["equal_tokens_share"] == 1
    assert figures["ours_over_generate"] == figures["tokens_per_second"] / figures["generate_tokens_per_second"]
    _, header, line = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["rows", "new", "tokens"]
    assert line.split()[:2] == ["3", "5"]


def test_meter_charges_inner_phases_to_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    method = SimpleNamespace(tokens_forwarded=0.0)
    clock = iter([0.0, 1.0, 11.0, 111.0])
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(clock))
    meter = benchmark.Meter(method)
    meter.reset()
    with meter.phase("outer"):
        method.tokens_forwarded += 2
        with meter.phase("inner"):
            method.tokens_forwarded += 30
        method.tokens_forwarded += 400
    assert meter.seconds == {"outer": 101.0, "inner": 10.0}
    assert meter.tokens == {"outer": 402.0, "inner": 30.0}


def test_row_without_a_block_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "--lengths", "15")
    assert "--lengths 15 leaves no block; rows need at least 16 tokens." in capsys.readouterr().err
