"""Whole optimiser steps on a CUDA device: the CPU's rollouts and gradients, one question to the device, memory that
does not grow."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from ebft.config.methods import EBFTConfig
from ebft.config.schema import FeaturesConfig, OptimizerConfig, SamplerConfig
from ebft.methods import differentiate
from ebft.methods.ebft import EBFT, EBFTExperience
from ebft.models.feature_network import FeatureNetwork
from ebft.models.kernels import use_liger
from ebft.models.policy import LanguageModel
from ebft.train.optimization import Optimization
from ebft.types import Batch

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]  # what the compiler warns of is not ours
ROWS, T, VOCABULARY = 3, 149, 61
CONFIG = EBFTConfig(
    "ebft", rl_coef=1.0, ce_coef=0.1, alignment_coef=1.0, diversity_coef=1.0, advantage="rloo", reward=None
)
SAMPLER = SamplerConfig("all", n_samples=3, stride=7, context_length=5, generate_length=5, temperature=0.7, reuse=True)
FEATURES = FeaturesConfig([1, 2], "last_token", "joint", "none", "policy", None, "replicated")
OPTIMIZER = OptimizerConfig(1e-4, [0.9, 0.95], 1e-8, 0.0, 1.0, "constant", 0.0, None)


def llama() -> LlamaForCausalLM:
    """Next-token distributions far from uniform, so that rollouts follow rows of its own likeliest tokens."""
    torch.manual_seed(0)
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16, "num_hidden_layers": 3}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCABULARY, hidden_size=96, intermediate_size=124, initializer_range=0.2, **heads)
    )


def method_on(device: str, dtype: str = "fp32", liger: bool = False, compiled: bool = False, **sampler: object) -> EBFT:
    model, other = llama().to(device), llama().to(device)
    if liger:
        use_liger(model)
    policy, phi = LanguageModel(model, dtype), FeatureNetwork(other, FEATURES, dtype)
    if compiled:
        policy.decoder.compile()
        phi.decoder.compile()
    return EBFT(CONFIG, replace(SAMPLER, **sampler), policy, phi, seed=6, stop_tokens=())


def rows(documents: bool = False) -> Batch:
    """Half of the tokens are the model's likeliest."""
    draw = torch.Generator().manual_seed(5)
    tokens, follows = torch.randint(VOCABULARY, (ROWS, T), generator=draw), torch.rand(ROWS, T, generator=draw) < 0.5
    model = llama().eval()
    with torch.no_grad():
        for _ in range(5):
            tokens = torch.where(follows, model(input_ids=tokens).logits.argmax(-1).roll(1, dims=1), tokens)
    ids = (torch.arange(T) >= 83).long().expand(ROWS, -1) if documents else torch.zeros_like(tokens)
    every = torch.ones_like(tokens, dtype=torch.bool)
    return Batch(tokens, ids, every, every, torch.arange(ROWS), masked=documents)


def gradients_of(
    method: EBFT, batch: Batch, max_tokens: int | None = None, is_only_microbatch: bool = True
) -> tuple[EBFTExperience, Tensor]:
    method.policy.model.train()
    prepared = method.prepare(batch, 3, is_only_microbatch)
    differentiate(method, prepared, method.counts(prepared), max_tokens)
    return prepared, torch.cat([parameter.grad.flatten().cpu() for parameter in method.policy.model.parameters()])


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize(("is_only_microbatch", "max_tokens"), [(True, None), (False, None), (False, ROWS * (T + 64))])
def test_a_step_is_the_cpu_s(is_only_microbatch: bool, max_tokens: int | None, documents: bool, reuse: bool) -> None:
    """A draw within rounding of a step of its distribution may fall on the other side, once in a great while."""
    batch = rows(documents)
    expected, truth = gradients_of(method_on("cpu", reuse=reuse), batch, is_only_microbatch=False)
    found, gradient = gradients_of(method_on("cuda", reuse=reuse), batch, max_tokens, is_only_microbatch)
    same = (found.rollout.tokens.cpu() == expected.rollout.tokens).all(-1)
    assert same.float().mean() > 0.99
    torch.testing.assert_close(found.reward.cpu()[same], expected.reward[same], rtol=1e-2, atol=1e-2)
    assert torch.nn.functional.cosine_similarity(gradient, truth, dim=0) > 0.999


@pytest.mark.parametrize("kernels", [{"compiled": True}, {"liger": True}], ids=["compiled", "liger"])
def test_other_kernels_take_the_same_step(kernels: dict[str, bool]) -> None:
    if "liger" in kernels:
        pytest.importorskip("liger_kernel")
    _, expected = gradients_of(method_on("cuda"), rows())
    _, gradient = gradients_of(method_on("cuda", **kernels), rows())
    assert torch.nn.functional.cosine_similarity(gradient, expected, dim=0) > 0.999


@pytest.mark.parametrize("reuse", [False, True])
def test_the_device_is_waited_for_once(reuse: bool) -> None:
    """How far rollouts follow their rows; that is asked before the branches are forwarded."""
    method, batch = method_on("cuda", reuse=reuse), rows()
    method.phi.features = replace(FEATURES, whitening="none")
    gradients_of(method, batch)  # compiles
    method.policy.model.zero_grad()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            prepared = method.prepare(batch, 3, is_only_microbatch=True)
            differentiate(method, prepared, method.counts(prepared), None)
            method.metrics([prepared])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [warning for warning in caught if "synchronizing" in str(warning.message)]
    assert len(waits) == int(reuse), [f"{warning.filename}:{warning.lineno}" for warning in waits]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_memory_does_not_grow_over_two_hundred_steps(dtype: str) -> None:
    method = method_on("cuda", dtype)
    optimization, batch = Optimization(OPTIMIZER, method.policy, 200), rows()
    for step in range(200):
        if step == 20:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        optimization.step(method, batch, step, ROWS, ROWS * (T + 64))
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= 1.01 * held
