"""Adapters on a CUDA device, over a base in float32, bfloat16 and four bits."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ebft.config.methods import EBFTConfig
from ebft.config.schema import FeaturesConfig, LoRAConfig, OptimizerConfig, SamplerConfig
from ebft.methods.ebft import EBFT
from ebft.models.adapters import Adapters, fingerprint
from ebft.models.feature_network import FeatureNetwork
from ebft.models.policy import LanguageModel
from ebft.models.quantization import quantize, round_to_bfloat16
from ebft.train.optimization import Optimization
from ebft.types import Batch

pytest.importorskip("peft")
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]
ROWS, T, VOCABULARY = 3, 149, 61
CONFIG = EBFTConfig(
    "ebft", rl_coef=1.0, ce_coef=0.1, alignment_coef=1.0, diversity_coef=1.0, advantage="rloo", reward=None
)
SAMPLER = SamplerConfig("all", n_samples=3, stride=7, context_length=5, generate_length=5, temperature=0.7, reuse=True)
FEATURES = FeaturesConfig([1, 2], "last_token", "joint", "none", "policy", None, "replicated")
OPTIMIZER = OptimizerConfig(1e-2, [0.9, 0.95], 1e-8, 0.0, 1.0, "constant", 0.0, None)


def llama(packed: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 32, "num_hidden_layers": 3}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCABULARY, hidden_size=192, intermediate_size=320, initializer_range=0.1, **heads)
    )
    if packed:
        quantize(model)
    return model.to("cuda")


def adapted(dtype: str, packed: bool) -> LanguageModel:
    base, model = fingerprint(llama(False)), llama(packed)
    if dtype == "bf16":
        round_to_bfloat16(model)
    config = LoRAConfig("lora", None, 7, 11.0, False, 0.0, "nf4" if packed else "none")
    return LanguageModel(model, dtype, Adapters(model, base, config, "model.path=x", seed=3))


def rows() -> Batch:
    tokens = torch.randint(VOCABULARY, (ROWS, T), generator=torch.Generator().manual_seed(5))
    every = torch.ones_like(tokens, dtype=torch.bool)
    return Batch(tokens, torch.zeros_like(tokens), every, every, torch.arange(ROWS), masked=False)


@pytest.mark.parametrize(("dtype", "packed"), [("fp32", False), ("bf16", False), ("fp32", True), ("bf16", True)])
def test_steps_move_the_adapters_and_not_the_features(dtype: str, packed: bool) -> None:
    """Of rollouts that do not change: those before the steps."""
    if packed:
        pytest.importorskip("bitsandbytes")
    policy = adapted(dtype, packed)
    phi = FeatureNetwork(policy.model, FEATURES, dtype, policy.adapters)
    method = EBFT(CONFIG, SAMPLER, policy, phi, seed=6, stop_tokens=())
    copy = llama(packed)
    if dtype == "bf16":
        round_to_bfloat16(copy)
    frozen = LanguageModel(copy, dtype)
    batch, before = rows().to(torch.device("cuda")), [weight.clone() for weight in policy.trained.parameters()]
    rollout = method.prepare(rows(), 0, is_only_microbatch=False).rollout
    optimization = Optimization(OPTIMIZER, policy, max_steps=3)
    found = [phi.continuations(batch, rollout, reuse=True)]
    for step in range(3):
        optimization.step(method, rows(), step, ROWS, None)
    found.append(phi.continuations(batch, rollout, reuse=True))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert all(not torch.equal(a, b) for a, b in zip(before, policy.trained.parameters(), strict=True))
    with torch.inference_mode():
        assert torch.equal(policy.base().row_hidden(batch), frozen.row_hidden(batch))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_packed_weights_are_merged_as_numbers(dtype: str) -> None:
    """Logits of the adapters over four bits are those of the merged model, a float32 model on the CPU."""
    pytest.importorskip("bitsandbytes")
    policy = adapted(dtype, packed=True)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in policy.trained.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    assert policy.adapters is not None
    merged = LanguageModel(policy.adapters.merged(), "fp32")
    with torch.inference_mode():
        expected = policy.logits(policy.row_hidden(rows().to(torch.device("cuda")))).cpu()
        found = merged.logits(merged.row_hidden(rows()))
    assert (found - expected).norm() < (1e-3 if dtype == "fp32" else 3e-2) * expected.norm()


def test_four_bits_hold_less() -> None:
    pytest.importorskip("bitsandbytes")
    held = []
    for packed in (False, True):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        model = llama(packed)
        held.append(torch.cuda.memory_allocated() - before)
        del model
    assert held[1] < held[0] / 4
