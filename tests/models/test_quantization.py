"""A base in four bits, executed on the CPU by bitsandbytes. A run refuses that, and nobody has executed it on a GPU:
tests/gpu/test_adapters.py waits for one."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from ebft.cli.compose import compose
from ebft.config.schema import LoRAConfig, TrainConfig
from ebft.models.adapters import BASE, Adapters, fingerprint
from ebft.models.loading import load_architecture, load_feature_network, load_policy
from ebft.models.policy import LanguageModel
from ebft.models.quantization import linear_modules, quantize, round_to_bfloat16, unpacked
from ebft.types import Batch
from tests.helpers import FAMILIES, LAYOUTS, plain_model, random_batch

pytest.importorskip("peft")
bitsandbytes = pytest.importorskip("bitsandbytes")

LORA = LoRAConfig("lora", targets=None, rank=5, alpha=7.0, rslora=False, dropout=0.0, quantize="nf4")
BLOCK = 64  # weights with one scale
HALF_A_GAP = 0.16  # the widest gap of nf4 is from -1 to -0.696 of the scale, and the scale has eight bits


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Some CPUs would have the weights in yet another order after the first forward. What bitsandbytes would compile
    for a CPU, in a quarter of a minute, is run as it is written."""
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: False)
    with torch.compiler.set_stance("force_eager"):
        yield


def packed(family: str = "llama", **changes: object) -> PreTrainedModel:
    model = plain_model(family, **changes)
    quantize(model)
    return model


def packed_modules(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)}


def adapted(dtype: str = "fp32") -> LanguageModel:
    base, model = fingerprint(plain_model()), packed()
    if dtype == "bf16":
        round_to_bfloat16(model)
    return LanguageModel(model, dtype, Adapters(model, base, LORA, "model.path=x", seed=3))


def hidden_of(policy: LanguageModel, batch: Batch) -> Tensor:
    with torch.no_grad():
        return policy.row_hidden(batch)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_linear_modules_of_the_layers_are_packed_and_nothing_else_changes(family: str, tied: bool) -> None:
    model, plain = (make(family, tie_word_embeddings=tied) for make in (packed, plain_model))
    assert packed_modules(model).keys() == linear_modules(plain).keys() != set()
    inside = {f"{name}.weight" for name in linear_modules(plain)}
    for (name, weight), (other, expected) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        assert name == other
        if name not in inside:
            assert torch.equal(weight, expected)
            continue
        assert (weight.dtype, weight.numel()) == (torch.uint8, -(-expected.numel() // 2))
        blocks = torch.nn.functional.pad(expected.flatten(), (0, -expected.numel() % BLOCK)).view(-1, BLOCK)
        limit = HALF_A_GAP * blocks.abs().amax(1, keepdim=True).expand_as(blocks).flatten()[: expected.numel()]
        assert ((unpacked(weight) - expected).flatten().abs() <= limit).all()


def test_the_model_keeps_its_config_its_name_and_how_it_generates() -> None:
    """transformers writes into the config that the model is in four bits, and the merged model is not."""
    model = plain_model()
    model.config.name_or_path = model.name_or_path = "org/small"
    model.generation_config = GenerationConfig(top_k=7)
    config, state = model.config.to_dict(), torch.get_rng_state()
    quantize(model)
    assert (model.config.to_dict(), model.name_or_path, model.generation_config.top_k) == (config, "org/small", 7)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_adapters_over_four_bits_are_trained_and_leave_them_alone(dtype: str) -> None:
    policy, alone, batch = adapted(dtype), packed(), random_batch(LAYOUTS["plain"])
    if dtype == "bf16":
        round_to_bfloat16(alone)
    frozen = {name: weight.clone() for name, weight in policy.model.named_parameters() if not weight.requires_grad}
    policy.model.train()
    optimizer = torch.optim.SGD(policy.trained.parameters(), lr=1.0)
    for _ in range(2):  # in the first A has no gradient, because B is 0
        optimizer.zero_grad()
        policy.row_hidden(batch)[..., 3].float().mean().backward()
        optimizer.step()
    assert all(weight.grad is not None and weight.grad.any() for weight in policy.trained.parameters())
    assert all(torch.equal(policy.model.get_parameter(name), weight) for name, weight in frozen.items())
    expected = hidden_of(LanguageModel(alone, dtype), batch)
    assert not torch.equal(hidden_of(policy, batch), expected)
    with torch.no_grad():
        assert torch.equal(policy.base().row_hidden(batch), expected)


@pytest.mark.slow
def test_the_merged_model_is_a_plain_one_with_the_same_logits(tmp_path: Path) -> None:
    policy, batch = adapted(), random_batch(LAYOUTS["plain"])
    with torch.no_grad():
        for weight in policy.trained.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(11)))
    assert policy.adapters is not None
    merged = policy.adapters.merged()
    assert merged is not None
    merged.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (loaded.dtype, "quantization_config" in loaded.config.to_dict()) == (torch.float32, False)
    with torch.no_grad():
        expected, found = (model.logits(hidden_of(model, batch)) for model in (policy, LanguageModel(loaded, "fp32")))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def config() -> TrainConfig:
    """Of a random model whose adapters have a base in four bits, with a feature network of its own."""
    sizes = ["data.sequence_length=23", "sampler.generate_length=5", "eval.horizons=[1,2,5]", "eval.context_length=7"]
    lora = ["model/adapter=lora", "model.adapter.quantize=nf4", "trainer.dtype=bf16"]
    return compose(["model=debug", "features.feature_layers=[1,2]", "features.network=random", *lora, *sizes])


@pytest.mark.slow
def test_a_policy_is_packed_and_a_feature_network_of_its_own_is_not(config: TrainConfig) -> None:
    """The fingerprint is that of the base before it was packed, so that its checkpoints fit the base in more bits."""
    shape = load_architecture(config.model)
    policy, phi = (load(config, shape, "cpu") for load in (load_policy, load_feature_network))
    assert (len(packed_modules(policy.model)), len(packed_modules(phi.decoder.module))) == (7 * 4, 0)
    assert {module.compute_dtype for module in packed_modules(policy.model).values()} == {torch.bfloat16}
    assert policy.model.model.embed_tokens.weight.dtype == torch.bfloat16
    plain = replace(config, model=replace(config.model, adapter=replace(config.model.adapter, quantize="none")))
    assert policy.trained.get_buffer(BASE) == load_policy(plain, shape, "cpu").trained.get_buffer(BASE)
