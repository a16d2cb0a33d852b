"""The naive twin and the product take the same step, and the benchmark counts what each forwards."""

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import benchmark
import benchmark_completions
import benchmark_contenders
import benchmark_growth
import benchmark_models
import pytest
import torch
from benchmark_contenders import Meter, Setting, contender, race
from benchmark_models import Sizes, multiply_adds
from benchmark_profile import write_profiles
from naive import NaiveEBFT, layout
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from ebft.config.methods import EBFTConfig
from ebft.config.schema import FeaturesConfig, SamplerConfig
from ebft.methods import differentiate
from ebft.methods.ebft import EBFT
from ebft.models.feature_network import FeatureNetwork
from ebft.models.policy import LanguageModel
from ebft.run import profiling
from ebft.types import Batch

ROWS, ROW_LENGTH, VOCABULARY, LAYERS = 2, 23, 31, 7
SAMPLER = SamplerConfig("all", n_samples=3, stride=2, context_length=3, generate_length=5, temperature=0.7, reuse=False)


def methods(ce_coef: float, whitening: str) -> tuple[EBFT, NaiveEBFT]:
    torch.manual_seed(0)
    settings = {
        "hidden_size": 24,
        "intermediate_size": 37,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "initializer_range": 0.3,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, num_hidden_layers=LAYERS, **settings))
    features = FeaturesConfig([0.25, 0.5, 0.75], "last_token", "joint", whitening, "policy", None, "replicated")
    config = EBFTConfig(
        "ebft", rl_coef=1.3, ce_coef=ce_coef, alignment_coef=0.9, diversity_coef=1.1, advantage="rloo", reward=None
    )
    phi = FeatureNetwork(copy.deepcopy(model), features, "fp32")
    naive_policy = LanguageModel(copy.deepcopy(model), "fp32")
    naive = NaiveEBFT(config, SAMPLER, features, naive_policy, copy.deepcopy(model), seed=11)
    return EBFT(config, SAMPLER, LanguageModel(model, "fp32"), phi, seed=11, stop_tokens=()), naive


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


@pytest.mark.slow
@pytest.mark.parametrize("is_only_microbatch", [False, True])
@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize(("ce_coef", "whitening"), [(0.0, "none"), (0.1, "paper")])
def test_naive_twin_takes_the_same_step(ce_coef: float, whitening: str, reuse: bool, is_only_microbatch: bool) -> None:
    ours, naive = methods(ce_coef, whitening)
    ours.sampler = replace(SAMPLER, reuse=reuse)
    batch = rows()
    fast, slow = ours.prepare(batch, 5, is_only_microbatch), naive.prepare(batch, step=5)
    assert torch.equal(fast.rollout.tokens, slow.tokens)
    torch.testing.assert_close(fast.rollout.log_probs, slow.log_probs, rtol=1e-5, atol=1e-5)
    embeddings = ours.phi.embeddings(batch, fast.rollout, reuse)
    torch.testing.assert_close(embeddings.rollout, slow.embeddings.rollout, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(embeddings.reference, slow.embeddings.reference, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fast.advantages, slow.advantages, rtol=1e-5, atol=1e-5)

    ours_loss, naive_loss = (
        differentiate(ours, fast, ours.counts(fast), max_tokens=None)["loss"],
        naive.loss(slow, naive.counts(slow)).total,
    )
    torch.testing.assert_close(ours_loss, naive_loss, rtol=1e-5, atol=1e-5)
    naive_loss.backward()
    for (name, mine), its in zip(ours.policy.model.named_parameters(), naive.model.parameters(), strict=True):
        assert mine.grad.abs().max() > 1e-4, name
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-5, atol=1e-5, msg=name)


SMALL = Setting("small", "cpu", "fp32", n_samples=4, num_documents=1, max_tokens=None, compile=False, threads=1)


@pytest.fixture
def _smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 16-wide model, small products for the peak, and no processes of their own for its memory."""
    for name, size in {"hidden_size": 16, "intermediate_size": 29, "vocab_size": 31}.items():
        monkeypatch.setitem(benchmark_models.SHAPES["small"][1], name, size)
    monkeypatch.setitem(profiling.MATMUL_WIDTH, "cpu", 61)
    monkeypatch.setattr(benchmark, "peak_memory", lambda name, *_: 3 * 2**20 if name == "naive" else 2**20)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--threads", "1", "--device", "cpu", *arguments])
    benchmark.main()


@pytest.mark.usefixtures("_smaller")
def test_formula_gives_the_rows_of_section_9() -> None:
    """Less the row in sampling where it is the only micro-batch: a limit of tokens cuts two rows apart, but not one."""
    batch = SMALL.rows(SMALL.build(1024), 1024)
    ours, naive, sft = (
        contender(name, SMALL.build(1024), SMALL).formula(batch, 0.0) for name in ("ours", "naive", "sft")
    )
    assert ours == {"sampling": 3556, "features": 3816, "update": 13740, "step": 21112}
    limited = replace(SMALL, max_tokens=1408)
    assert contender("ours", SMALL.build(1024), limited).formula(batch, 0.0) == ours
    two = replace(limited, num_documents=2)
    apart = contender("ours", SMALL.build(1024), two).formula(two.rows(SMALL.build(1024), 1024), 0.0)
    assert apart == {"sampling": 2 * 4580, "features": 2 * 3816, "update": 2 * 13740, "step": 2 * 22136}
    assert naive == {"sampling": 46992, "features": 8160, "update": 24480, "step": 79632}
    assert sft == {"update": 3072, "step": 3072}


@pytest.mark.usefixtures("_smaller")
def test_formula_at_a_share_is_the_last_row_of_section_9() -> None:
    """55 % live: 1024 + 0.55 * 3556 and 0.75 * (1024 + 0.55 * 4064) of each of 3 rows, which are cut apart."""
    setting = replace(SMALL, num_documents=3, max_tokens=5100)
    reuse = contender("reuse", setting.build(1024), setting).formula(setting.rows(setting.build(1024), 1024), 0.45)
    assert reuse == pytest.approx({"sampling": 8939.4, "features": 7333.2, "update": 26818.2, "step": 43090.8})


@pytest.mark.slow
@pytest.mark.usefixtures("_smaller")
def test_benchmark_counts_what_it_forwards(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """T = 25 has K = 2 blocks of N = 4 rollouts of 8: ours 8 * 7, 0.75 * (25 + 8 * 8), 3 * (25 + 8 * 7); the twin 4 *
    (8 * 25 + 2 * 28), 4 * (25 + 16)."""
    run(monkeypatch, "--lengths", "25", "--repetitions", "2", "--json", str(tmp_path / "figures.json"))
    figures = json.loads((tmp_path / "figures.json").read_text())["lengths"]["25"]
    expected = {
        "ours": {"sampling": 56, "features": 66.75, "update": 243, "step": 365.75},
        "naive": {"sampling": 1024, "features": 164, "update": 492, "step": 1680},
        "sft": {"update": 75, "step": 75},
    }
    reusing, formula = (figures[name].pop("reuse") for name in ("tokens_forwarded", "tokens_by_formula"))
    assert figures["tokens_forwarded"] == figures["tokens_by_formula"] == expected
    assert all(reusing[phase] <= tokens for phase, tokens in expected["ours"].items())
    assert figures["reused_share"]["ours"] == 0
    live = 1 - figures["reused_share"]["reuse"]
    assert formula["features"] == pytest.approx(0.75 * (25 + 64 * live))
    assert figures["tokens_over_formula"]["reuse"] == reusing["step"] / formula["step"]
    seconds = {name: phases["step"] for name, phases in figures["seconds"].items()}
    assert figures["naive_over_ours_seconds"] == {name: seconds["naive"] / seconds[name] for name in ("ours", "reuse")}
    assert figures["ours_over_sft_seconds"] == {name: seconds[name] / seconds["sft"] for name in ("ours", "reuse")}
    assert figures["peak_memory_bytes"] == {"ours": 2**20, "reuse": 2**20, "naive": 3 * 2**20, "sft": 2**20}
    table = capsys.readouterr().out.splitlines()[1:]
    assert table[0].split()[:4] == ["T", "phase", "reuse", "tokens"]
    assert [line.split()[:6] for line in table[1:5]] == [
        ["25", "sampling", "off", "56", "56", "1,024"],
        ["25", "features", "off", "67", "67", "164"],
        ["25", "update", "off", "243", "243", "492"],
        ["25", "step", "off", "366", "366", "1,680"],
    ]
    assert [line.split()[1:3] for line in table[5:9]] == [
        [phase, "on"] for phase in ("sampling", "features", "update", "step")
    ]
    assert [line.split()[1] for line in table[10:]] == ["ours", "reuse", "naive", "sft"]
    assert table[10].split() == ["25", "ours", "0.000", "1.000", f"{figures['utilisation']['ours']:.0%}", "1", "0.33"]


@pytest.mark.slow
@pytest.mark.usefixtures("_smaller")
def test_benchmark_without_the_twin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 2 rows of T = 25 with 3 rollouts at both anchors: 2 * 6 * 7, and the rows in the update."""
    options = ("--without-naive", "--documents", "2", "--samples", "3", "--dtype", "bf16")
    run(monkeypatch, "--lengths", "25", "--repetitions", "1", "--json", str(tmp_path / "figures.json"), *options)
    document = json.loads((tmp_path / "figures.json").read_text())
    assert document["setting"] == {
        "model": "small",
        "device": "cpu",
        "dtype": "bf16",
        "n_samples": 3,
        "num_documents": 2,
        "max_tokens": None,
        "compile": False,
        "threads": 1,
    }
    figures = document["lengths"]["25"]
    assert figures["tokens_forwarded"]["ours"]["sampling"] == 84
    assert figures["naive_over_ours_seconds"] == {}
    assert capsys.readouterr().out.splitlines()[2].split()[5:8] == [
        "-",
        f"{figures['seconds']['ours']['sampling']:.3f}",
        "-",
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("_smaller")
def test_twin_in_bf16_has_the_product_loss() -> None:
    setting = replace(SMALL, dtype="bf16", num_documents=2)
    batch = setting.rows(setting.build(25), 25)
    mine, its = (
        contender(name, setting.build(25), setting).step(batch, 0).figures["cross_entropy"]
        for name in ("ours", "naive")
    )
    assert mine == pytest.approx(its, rel=1e-2)


@pytest.mark.slow
def test_rollouts_follow_the_row_as_far_as_the_benchmark_says() -> None:
    """45 % of the tokens, 55 % live; a short row's few rollouts scatter."""
    setting = replace(SMALL, max_tokens=768)  # at a time, which spares the worker 400 MB
    racer = contender("reuse", setting.build(512), setting)
    share = racer.step(setting.rows(setting.build(512), 512), 0).figures["reused_share"]
    assert share == pytest.approx(0.45, abs=0.06)


@pytest.mark.slow
def test_rollouts_follow_a_row_of_one_token_where_the_head_is_the_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    make, settings = benchmark_models.SHAPES["qwen2.5-0.5b"]
    shrunk = settings | {"hidden_size": 196, "intermediate_size": 37, "num_hidden_layers": 5, "vocab_size": 3001}
    monkeypatch.setitem(benchmark_models.SHAPES, "qwen2.5-0.5b", (make, shrunk))
    setting = replace(SMALL, model="qwen2.5-0.5b")
    model = setting.build(512)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    runs = race(["reuse", "unit"], model, setting, setting.rows(model, 512), repetitions=1)
    assert runs["reuse"].reused_share == pytest.approx(0.45, abs=0.06)
    assert runs["unit"].tokens == {"forward": 4 * 512, "step": 4 * 512}


@pytest.mark.parametrize(
    ("name", "num_parameters"),
    [("qwen2.5-0.5b", 494_032_768), ("qwen2.5-1.5b", 1_543_714_304), ("llama-3.2-1b", 1_235_814_400)],
)
def test_shapes_have_the_published_number_of_parameters(name: str, num_parameters: int) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(benchmark_models.architecture(name, longest=17))
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters


@pytest.mark.slow
def test_tiny_gets_rows_of_text() -> None:
    batch = benchmark_models.rows("tiny", 2048, length=37, num_documents=3)
    assert batch.tokens.shape == (3, 37)
    assert len({tuple(row) for row in batch.tokens.tolist()}) == 3
    assert len(batch.tokens.unique()) > 37


@pytest.mark.usefixtures("_smaller")
def test_sizes_are_those_of_the_matrices() -> None:
    """8 layers of 4 * 16 * 16 + 3 * 16 * 29 weights; a pair takes 2 * 16 multiply-adds in each."""
    assert Sizes.of(SMALL.build(25)) == Sizes(token=8 * 2416, logits=16 * 31, pair=8 * 32)


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("reuse", [False, True])
def test_multiply_adds_are_those_of_every_token(reuse: bool, kept: bool) -> None:
    """Each token through the layers, each pair that sees the other, each position that predicts."""
    sizes, sampler, length, anchors = (
        Sizes(token=101, logits=1009, pair=11),
        replace(SAMPLER, reuse=reuse),
        23,
        range(3, 19, 2),
    )

    def forward(steps: int, row: int = length) -> int:
        seen = [position + 1 for position in range(row)]
        seen += [anchor + step + 1 for anchor in anchors for _ in range(3) for step in range(steps)]
        return 101 * len(seen) + 11 * sum(seen)

    branches = 3 * len(anchors) * 4
    sampling = forward(4, row=0 if kept else length) + 1009 * (len(anchors) * (5 if reuse else 1) + branches)
    expected = sampling + 0.75 * forward(5) + 3 * (forward(4) + 1009 * (length + branches))
    assert multiply_adds(sizes, sampler, length, depth=0.75, live=1.0, row_is_kept=kept) == expected


@pytest.mark.slow
@pytest.mark.usefixtures("_smaller")
def test_growth_stands_beside_its_arithmetic(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"LENGTHS": (25, 33), "DOCUMENTS": (1, 2), "SAMPLES": (3,), "LENGTH_OF_OTHERS": 25}.items():
        monkeypatch.setattr(benchmark_growth, name, value)
    run(monkeypatch, "--lengths", "--growth", "--repetitions", "1", "--json", str(tmp_path / "figures.json"))
    document = json.loads((tmp_path / "figures.json").read_text())
    lines = [line for line in document["growth"] if line["contender"] == "ours"]
    assert len(document["growth"]) == 2 * len(lines)
    assert [(line["grows"], line["T"], line["rows"], line["N"]) for line in lines] == [
        ("T", 25, 1, 4),
        ("T", 33, 1, 4),
        ("rows", 25, 1, 4),
        ("rows", 25, 2, 4),
        ("N", 25, 1, 3),
    ]
    assert [line["tokens_forwarded"] for line in lines] == [365.75, 531.75, 365.75, 731.5, 297.75]
    assert lines[0]["seconds_over_multiply_adds"] == 1
    assert [line["seconds_over_line_before"] for line in lines] == [
        None,
        lines[1]["seconds"] / lines[0]["seconds"],
        None,
        lines[3]["seconds"] / lines[2]["seconds"],
        None,
    ]
    assert lines[3]["multiply_adds"] == 2 * lines[2]["multiply_adds"]
    table = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[:5] for line in table[1:4]] == [
        ["T", "25", "1", "4", "off"],
        ["T", "33", "1", "4", "off"],
        ["T", "25", "1", "4", "on"],
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("_smaller")
def test_profile_names_the_operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(benchmark_models.SHAPES["small"][1], "num_hidden_layers", 4)
    files = write_profiles(tmp_path / "profile", SMALL, 17)
    assert [file.name for file in files] == ["ours.md", "reuse.md"]
    for file in files:
        heading, _, header, _, *rows = file.read_text().splitlines()
        assert heading.startswith(
            f"`{file.stem}`, small, fp32, T = 17. Operators of step 1 by their own time on the CPU"
        )
        assert header == "| operator | calls | own | share | total |"
        assert len(rows) == 10
        names = ("`aten::", "`autograd::", "Backward", "`Optimizer", "`detach")
        assert [row for row in rows if not any(name in row for name in names)] == []


@pytest.mark.slow
def test_peak_memory_is_of_weights_gradients_and_moments() -> None:
    """9.4 M parameters: 16 bytes each, and little beside them."""
    setting = replace(SMALL, num_documents=2)
    model = setting.build(25)
    held = 16 * sum(parameter.numel() for parameter in model.parameters())
    assert held * 0.95 < benchmark_contenders.peak_memory("sft", model, setting, 25) < held * 2


@pytest.mark.slow
@pytest.mark.usefixtures("_smaller")
def test_completions_and_generate_say_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "COMPLETED_ROWS", (3,))
    for name, value in {"SHORTEST_PROMPT": 2, "LONGEST_PROMPT": 7, "NEW_TOKENS": 5}.items():
        monkeypatch.setattr(benchmark_completions, name, value)
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
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: next(clock))
    meter = Meter(method, "cpu")
    meter.reset()
    with meter.phase("outer"):
        method.tokens_forwarded += 2
        with meter.phase("inner"):
            method.tokens_forwarded += 30
        method.tokens_forwarded += 400
    assert meter.seconds == {"outer": 101.0, "inner": 10.0}
    assert meter.tokens == {"outer": 402.0, "inner": 30.0}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--lengths", "15"], "--lengths 15 leaves no block; rows need at least 16 tokens."),
        (
            ["--lengths", "25", "31", "--max-tokens", "38"],
            "--max-tokens 38 is below the 39 of a row of 31 with one rollout; raise it.",
        ),
        (
            ["--model", "gpt-5"],
            "--model gpt-5 is not known; choose from toy, small, smollm2-135m, qwen2.5-0.5b, qwen2.5-1.5b, "
            "llama-3.2-1b, tiny.",
        ),
        (["--device", "cuda"], "--device cuda, but torch finds no CUDA device here; use --device cpu."),
        (
            ["--model", "tiny", "--growth"],
            "Rows of 4096 tokens are over the 2048 positions of --model tiny; shorten --lengths or leave out --growth.",
        ),
        (["--samples", "1"], "--repetitions, --threads and --documents must be at least 1, and --samples at least 2."),
        (
            ["--completions", "--dtype", "bf16"],
            "--completions with --dtype bf16 has nothing to stand beside: transformers' static cache does not run "
            "under autocast; use fp32.",
        ),
        (["--lengths", "--profile", "x"], "--profile takes a step of the longest of --lengths; name one."),
    ],
)
def test_mistakes_are_refused(
    arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        run(monkeypatch, *arguments)
    assert sentence in capsys.readouterr().err
