"""The workload that a config announces, and the refusal of what finds no room, before any weights are loaded."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedConfig, T5Config

from ebft.config.schema import LoRAConfig, UserError
from ebft.cost import memory
from ebft.cost.workload import Network
from ebft.geometry.blocks import make_branches
from ebft.geometry.chunked import ChunkedBranches
from ebft.geometry.completions import SEATS
from ebft.models.adapters import Adapters, fingerprint
from ebft.models.loading import load_architecture
from ebft.rollout.completions import prompts_batch
from ebft.run import by_content
from ebft.train import budget, setup
from ebft.train.setup import prepare
from tests.debug_run import miniature, pairs
from tests.helpers import FAMILIES, architecture, geometry, plain_model, policy_of, random_batch, random_rollout
from tests.workloads import BRANCHED


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_parameters_are_those_of_the_built_model(family: str, tied: bool) -> None:
    model = plain_model(family, tie_word_embeddings=tied)
    network = budget.network(architecture(family, tie_word_embeddings=tied), "model.path=x", trust_remote_code=False)
    assert network.parameters == sum(parameter.numel() for parameter in model.parameters())
    layer = sum(parameter.numel() for parameter in model.base_model.layers[0].parameters())
    assert (
        layer <= network.layer_parameters <= layer + 24 * 2
    )  # the final norm, with a bias in one family, is spread over three layers
    assert (network.layers, network.hidden, network.intermediate, network.heads, network.vocabulary) == (
        3,
        24,
        29,
        6,
        31,
    )


@pytest.mark.parametrize(
    ("family", "query", "key"), [("llama", 24, 8), ("qwen2", 24, 8), ("qwen3", 60, 20), ("gpt_neox", 24, 24)]
)
def test_widths_of_all_heads(family: str, query: int, key: int) -> None:
    network = budget.network(architecture(family), "model.path=x", trust_remote_code=False)
    assert (network.query, network.key) == (query, key)


def test_counting_neither_changes_the_architecture_nor_draws() -> None:
    config, state = architecture(), torch.get_rng_state()
    before = config.to_dict()
    budget.network(config, "model.path=x", trust_remote_code=False)
    assert config.to_dict() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_is_counted_once_on_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBFT_CACHE", str(tmp_path))
    counted, original = [], budget.without_storage
    monkeypatch.setattr(budget, "without_storage", lambda *given: counted.append(given) or original(*given))

    def network(trust_remote_code: bool = False, **changes: Any) -> Network:
        return budget.network(architecture(**changes), "model.path=x", trust_remote_code)

    made = network()
    assert (network(), len(counted)) == (made, 1)
    (entry,) = (tmp_path / "networks").iterdir()
    assert network(num_hidden_layers=2).layers == 2
    assert (network(trust_remote_code=True), len(counted)) == (made, 3)  # code that may do anything is asked every time
    assert len([*entry.parent.iterdir()]) == 2
    entry.write_bytes(b"damaged" + entry.read_bytes()[7:])
    assert (network(), len(counted)) == (made, 4)
    monkeypatch.setattr(by_content, "versions", lambda: ["another torch"])
    assert (network(), len(counted)) == (made, 5)


def test_keys_of_several_types_in_an_architecture_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As model.config_overrides.id2label={0:a,x:b} makes them; numbers and words have no order."""
    monkeypatch.setenv("EBFT_CACHE", str(tmp_path))
    named = architecture()
    named.id2label = {0: "a", "x": "b"}
    assert budget.network(named, "model.path=x", False) == budget.network(architecture(), "model.path=x", False)


@pytest.mark.parametrize("n_samples", [1, 3, 4])
def test_the_cache_of_completions_is_as_large_as_counted(n_samples: int) -> None:
    """A third completion sits beside a free seat, whose tokens fill the cache like its own."""
    work = replace(
        BRANCHED,
        network=budget.network(architecture(), "model.path=x", False),
        row_tokens=2,
        branches=float(n_samples),
        branch_tokens=9,
        own_rows=True,
        seats=SEATS["cpu"],
    )
    rows = replace(work, branches=1.0, branch_tokens=0, own_rows=False)
    batch, blocks = prompts_batch([[3, 4]] * work.rows, [*range(work.rows)])
    _, context = policy_of().prefill_completions(batch, blocks, n_samples, work.branch_tokens)
    held = sum(x.numel() * x.element_size() for pair in context.cache.values() for x in pair)
    assert memory.estimate(work)["cache"] - memory.estimate(rows)["cache"] == held


@pytest.mark.slow
def test_what_is_no_language_model_is_named() -> None:
    with pytest.raises(
        UserError,
        match=r"^model.path=x \(t5\) is no causal language model that AutoModelForCausalLM loads: Unrecognized",
    ):
        budget.network(T5Config(), "model.path=x", trust_remote_code=False)


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["[1]", "[0]", "[2]", "[0.5,1.0]"])
def test_the_feature_network_is_counted_as_it_is_kept(tmp_path: Path, layers: str) -> None:
    run = prepare(miniature(tmp_path, "method=ebft", f"features.feature_layers={layers}"))
    kept = sum(parameter.numel() for parameter in run.evaluator.phi.decoder.module.parameters())
    assert run.workload.feature_parameters == pytest.approx(kept, abs=2 * 48)  # but for the final norm


@pytest.mark.slow
def test_a_feature_network_of_another_model_is_counted_as_its_own(tmp_path: Path) -> None:
    config = miniature(
        tmp_path, "method=ebft", "features.network=checkpoint", "features.path=tiny", "features.feature_layers=[1]"
    )
    tiny = load_architecture(replace(config.model, config_overrides={}))
    run = prepare(config)
    kept = sum(parameter.numel() for parameter in run.evaluator.phi.decoder.module.parameters())
    assert run.workload.feature_parameters == pytest.approx(kept, abs=tiny.hidden_size)
    assert run.workload.network.hidden == 48


def debug_architecture(folder: Path) -> PreTrainedConfig:
    return load_architecture(miniature(folder).model)


@pytest.mark.slow
def test_the_workload_of_block_rollouts(tmp_path: Path) -> None:
    """Anchors from 7 to 23 - 3, which read 13.5 tokens on average; branches of 2 own tokens go 32 at a time."""
    config = miniature(tmp_path, "method=ebft", "optimizer.ema_decay=0.5", "sampler.reuse=false")
    work = budget.workload(config, debug_architecture(tmp_path), 2.5, "cpu")
    assert (work.rows, work.row_tokens, work.branches, work.branch_tokens) == (2, 23, 5.0, 2)
    assert (work.reach, work.chunk_tokens, work.own_rows) == (13.5, 64, False)
    assert (work.averaged, work.has_reference, work.is_bound, work.steps_at_once) == (True, False, False, False)
    assert work.tokens == 2 * (23 + 5 * 2)
    assert (work.documents, work.keeps_rows) == (3, False)
    whole = budget.workload(
        miniature(tmp_path, "method=ebft", "trainer.micro_batch_size=3"), debug_architecture(tmp_path), 2.5, "cpu"
    )
    assert (whole.rows, whole.keeps_rows) == (3, True)
    shared = budget.workload(config, debug_architecture(tmp_path), 2.5, "cpu", num_processes=3)
    assert (shared.documents, shared.rows, shared.keeps_rows) == (1, 1, True)


@pytest.mark.slow
def test_the_workload_of_completions(tmp_path: Path) -> None:
    config = miniature(
        tmp_path,
        "method=rlvr",
        *pairs(tmp_path),
        "method.max_new_tokens=12",
        "method.kl_coef=0.1",
        "trainer.dtype=bf16",
    )
    work = budget.workload(config, debug_architecture(tmp_path), 1.0, "cuda")
    assert (work.branches, work.branch_tokens, work.reach, work.chunk_tokens, work.own_rows) == (2.0, 11, 23.0, 0, True)
    assert (work.averaged, work.has_reference, work.is_bound, work.bf16, work.steps_at_once) == (
        False,
        True,
        True,
        True,
        True,
    )


@pytest.mark.slow
def test_the_workload_of_rows(tmp_path: Path) -> None:
    config = miniature(tmp_path, "method=sft", "trainer.gradient_checkpointing=true")
    work = budget.workload(config, debug_architecture(tmp_path), 3.0, "cpu")
    assert (work.tokens, work.branches, work.branch_tokens, work.checkpointing, work.is_bound) == (
        46,
        0,
        0,
        True,
        False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("generate_length", [2, 5, 8])
def test_chunks_are_those_of_attention(tmp_path: Path, generate_length: int) -> None:
    batch = random_batch([[0] * 23] * 2)
    rollout = random_rollout(batch, geometry(stride=1, generate_length=generate_length))
    chunks = ChunkedBranches.of(batch.document_ids, make_branches(rollout.blocks, rollout.tokens[..., :-1]))
    config = miniature(tmp_path, "method=ebft", f"sampler.generate_length={generate_length}")
    assert budget.workload(config, debug_architecture(tmp_path), 1.0, "cpu").chunk_tokens == chunks.chunk_tokens


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("every", [False, True])
def test_adapters_are_counted_as_they_are_built(tmp_path: Path, family: str, every: bool) -> None:
    """Neither feature network nor reference is kept beside the policy."""
    config = miniature(tmp_path, "method=rlvr", *pairs(tmp_path), "method.kl_coef=0.1")
    one = "dense_h_to_4h" if family == "gpt_neox" else "up_proj"
    adapter = LoRAConfig(
        "lora", None if every else [one], rank=3, alpha=5.0, rslora=False, dropout=0.0, quantize="none"
    )
    config = replace(config, model=replace(config.model, adapter=adapter))
    work = budget.workload(config, architecture(family), 1.0, "cpu")
    model = plain_model(family)
    built = Adapters(model, fingerprint(model), adapter, "model.path=x", seed=3)
    assert work.adapters == sum(weight.numel() for weight in built.trained.parameters())
    assert (work.phi_is_base, work.has_reference, work.quantized) == (True, False, False)


@pytest.mark.slow
def test_a_feature_network_of_its_own_is_kept_beside_adapters(tmp_path: Path) -> None:
    config = miniature(tmp_path, "method=ebft", "model/adapter=lora", "features.network=random")
    assert not budget.workload(config, debug_architecture(tmp_path), 1.0, "cpu").phi_is_base


# Room


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Stands for a CUDA device on which 3,000 of 70,000 bytes are free, and 11,000 are torch's own, 5,000 of them in
    use."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (3_000, 70_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 11_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 5_000)
    return monkeypatch


@pytest.mark.slow
def test_room_is_what_the_device_has_left_and_what_torch_holds_unused(
    tmp_path: Path, device: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    device.setattr(memory, "refusal", lambda work, capacity, *_: asked.append(capacity))
    config = miniature(tmp_path)
    budget.check_room(config, budget.workload(config, debug_architecture(tmp_path), 1.0, "cuda"), 1, "cuda")
    assert asked == [9_000]


@pytest.mark.slow
def test_a_cpu_has_this_machine_s_memory(tmp_path: Path) -> None:
    """And of limits that are far away a refusal tries a thousand, not all."""
    config = miniature(tmp_path)
    architecture = debug_architecture(tmp_path)
    assert budget.lack_of_room(config, budget.workload(config, architecture, 1.0, "cpu"), 1, "cpu") is None
    many = miniature(tmp_path, "sampler.n_samples=99999999999")
    message = budget.lack_of_room(many, budget.workload(many, architecture, 1.0, "cpu"), 1, "cpu")
    assert message is not None
    assert "GiB for it; " in message


def test_what_finds_no_room_is_refused_before_weights_are_loaded(tmp_path: Path, device: pytest.MonkeyPatch) -> None:
    device.setattr(setup, "choose_device", lambda config: "cuda")
    device.setattr(setup, "load_policy", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(
        UserError, match=r"^A step needs about 0\.0 GiB in its update, and the device has 0\.0 GiB for it; neither "
    ):
        prepare(miniature(tmp_path, "method=sft"))
