"""The naive twin and the product take the same step, and the benchmark counts what each forwards."""

import copy

import pytest
import torch
from naive import NaiveEBFT, layout
from transformers import LlamaConfig, LlamaForCausalLM

from ebft.config import EBFTConfig, FeaturesConfig, SamplerConfig
from ebft.methods.ebft import EBFT
from ebft.models import FeatureNetwork, LanguageModel
from ebft.types import Batch

ROWS, ROW_LENGTH, VOCABULARY, SAMPLES, STEPS, LAYERS = 2, 23, 31, 3, 5, 7
SAMPLER = SamplerConfig("all", n_samples=SAMPLES, stride=2, context_length=3, generate_length=STEPS, temperature=0.7)
FEATURES = FeaturesConfig([0.25, 0.5, 0.75], "last_token", "joint", "none", "policy", None)


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


@pytest.mark.parametrize(("ce_coef", "whitening"), [(0.0, "none"), (0.1, "paper")])
def test_naive_twin_takes_the_same_step(ce_coef: float, whitening: str) -> None:
    ours, naive = methods(ce_coef, whitening)
    batch = rows()
    fast, slow = ours.prepare(batch, step=5), naive.prepare(batch, step=5)
    assert torch.equal(fast.rollout.tokens, slow.tokens)
    torch.testing.assert_close(fast.rollout.log_probs, slow.log_probs, rtol=1e-5, atol=1e-5)
    embeddings = ours.phi.embeddings(batch, fast.rollout)
    torch.testing.assert_close(embeddings.rollout, slow.embeddings.rollout, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(embeddings.reference, slow.embeddings.reference, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fast.advantages, slow.advantages, rtol=1e-4, atol=1e-5)

    ours_loss, naive_loss = ours.loss(fast, ours.counts(fast)), naive.loss(slow, naive.counts(slow))
    torch.testing.assert_close(ours_loss.total, naive_loss.total, rtol=1e-5, atol=1e-5)
    ours_loss.total.backward()
    naive_loss.total.backward()
    for (name, mine), its in zip(ours.policy.model.named_parameters(), naive.model.parameters(), strict=True):
        assert mine.grad is not None and mine.grad.abs().max() > 1e-4, name
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-4, atol=1e-5, msg=name)
