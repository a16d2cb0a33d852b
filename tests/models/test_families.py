"""The families that docs/models.md lists, each behind its window: rows, branches, sampling, features and completions
against plain transformers, which runs every text alone."""

import re
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel

from ebft.geometry.reuse import branches_of
from ebft.models.feature_network import FeatureNetwork
from ebft.models.logprobs import branch_labels, row_labels
from ebft.models.policy import LanguageModel
from ebft.models.self_check import self_check
from ebft.rollout.completions import Decoding, complete, prompts_batch
from ebft.rollout.sampler import sample
from ebft.types import Batch
from tests.helpers import (
    GROUPED,
    LAYOUTS,
    SIZES,
    VOCABULARY,
    blocks_of,
    context_of,
    existing,
    features,
    geometry,
    likely_text,
    log_probs_alone,
    model_of,
    random_batch,
    random_draws,
)
from tests.reference import embed_loop

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
WINDOW, STEPS = 5, 7  # rows have 23 tokens, documents of them 4 to 13; branches are longer than a window
PLAIN = GROUPED | {"pad_token_id": 0}
SLIDING = PLAIN | {"sliding_window": WINDOW}
MIXED = SLIDING | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
WIDE = {"head_dim": 10}
# experts are multiplied in one kernel, which wants rows of whole 16 bytes
EXPERTS = {
    "intermediate_size": 28,
    "moe_intermediate_size": 12,
    "shared_expert_intermediate_size": 20,
    "num_experts": 3,
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
}
GEMMA = MIXED | WIDE | {"query_pre_attn_scalar": 10, "hidden_activation": "gelu_pytorch_tanh"}
SETTINGS: dict[str, dict[str, Any]] = {
    "gemma": PLAIN | WIDE,
    "gemma2": GEMMA | {"attn_logit_softcapping": 1.7, "final_logit_softcapping": 3.0},
    "gemma3_text": GEMMA,
    "gpt_neox": SIZES | {"rotary_pct": 0.5},
    "llama": PLAIN,
    "ministral": MIXED | WIDE,
    "mistral": SLIDING,
    "mixtral": SLIDING | EXPERTS,
    "olmo2": PLAIN,
    "olmo3": MIXED,
    "phi3": SLIDING,
    "qwen2": MIXED | {"use_sliding_window": True},
    "qwen2_moe": MIXED | EXPERTS | {"use_sliding_window": True},
    "qwen3": MIXED | WIDE | {"use_sliding_window": True},
    "qwen3_moe": SLIDING | WIDE | EXPERTS | {"use_sliding_window": True},
    "smollm3": MIXED | {"use_sliding_window": True},
    "starcoder2": SLIDING,
}
FAST = ("gemma2", "qwen2_moe")  # stand for all in make test-fast
BY_FAMILY = pytest.mark.parametrize(
    "family", [family if family in FAST else pytest.param(family, marks=pytest.mark.slow) for family in SETTINGS]
)


def architecture(family: str, **changes: Any) -> PreTrainedConfig:
    config = CONFIG_MAPPING[family](**(SETTINGS[family] | changes))
    for setting in ("resid_pdrop", "embd_pdrop", "residual_dropout", "embedding_dropout", "attention_dropout"):
        if setting in config.to_dict():
            setattr(config, setting, 0.0)
    return config


def plain(family: str, **changes: Any) -> PreTrainedModel:
    return model_of(architecture(family, **changes))


@cache
def both(family: str) -> tuple[LanguageModel, PreTrainedModel]:
    """The same weights in ours and in plain transformers."""
    return LanguageModel(plain(family), "fp32"), plain(family)


def text_of(policy: LanguageModel) -> Batch:
    """Several documents a row, which rollouts follow for a while."""
    return likely_text(policy, random_batch(LAYOUTS["documents"]))


def test_the_readme_lists_the_families_that_are_tested() -> None:
    (listed,) = re.findall(r"by `model_type`:((?:\s+`\w+`)+)", PAGE.read_text(encoding="utf-8"))
    assert re.findall(r"`(\w+)`", listed) == sorted(SETTINGS)


@BY_FAMILY
def test_a_family_is_small_and_has_the_window_that_its_name_stands_for(family: str) -> None:
    policy, _ = both(family)
    assert policy.model.num_parameters() < 30_000
    assert policy.model.config.model_type == family
    if family not in ("gemma", "gpt_neox", "llama", "olmo2"):
        assert policy.model.config.sliding_window == WINDOW


@BY_FAMILY
def test_a_family_passes_the_check_at_loading(family: str) -> None:
    self_check(plain(family), family, num_positions=64, is_trained=True)


@BY_FAMILY
def test_rows_of_documents_equal_every_document_alone(family: str) -> None:
    policy, model = both(family)
    batch = random_batch(LAYOUTS["documents"])
    with torch.no_grad():
        (found,) = policy.log_probs(policy.row_hidden(batch), row_labels(batch))
    for b, ids in enumerate(batch.document_ids):
        for document in ids[ids >= 0].unique().tolist():
            (inside,) = (ids == document).nonzero(as_tuple=True)
            tokens = batch.tokens[b, inside]
            expected = log_probs_alone(model, tokens[:1], tokens[1:], 1.0)
            torch.testing.assert_close(found[b, inside[:-1]], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reuse", [False, True])
@BY_FAMILY
def test_rollouts_are_scored_as_drawn_as_trained_and_as_alone(family: str, reuse: bool) -> None:
    policy, model = both(family)
    config, batch = geometry(n_samples=2, generate_length=STEPS, reuse=reuse), text_of(policy)
    blocks = blocks_of(batch, config)
    draws = random_draws(batch, blocks, config)
    rollout, _ = sample(policy, batch, blocks, draws, config.temperature, (), reuse)
    branches = branches_of(batch, rollout.predicting, reuse)
    labels = branch_labels(batch, rollout, branches, config.temperature)
    with torch.no_grad():
        (trained,) = policy.log_probs(policy.flat_hidden(batch, branches), labels)
    trained = rollout.like_tokens(trained)
    torch.testing.assert_close(trained[rollout.valid], rollout.log_probs[rollout.valid], rtol=1e-5, atol=1e-5)
    for (b, k), n in product(existing(blocks), range(2)):
        context = context_of(batch, b, int(blocks.anchors[b, k]))
        expected = log_probs_alone(model, context, rollout.tokens[b, n, k], config.temperature)
        torch.testing.assert_close(rollout.log_probs[b, n, k], expected, rtol=1e-5, atol=1e-5)


@BY_FAMILY
def test_features_are_those_of_every_continuation_alone(family: str) -> None:
    policy, model = both(family)
    config, batch = geometry(n_samples=2, generate_length=STEPS), text_of(policy)
    blocks = blocks_of(batch, config)
    rollout, _ = sample(policy, batch, blocks, random_draws(batch, blocks, config), 1.0, (), False)
    made = FeatureNetwork(plain(family), features(), "fp32").embeddings(batch, rollout, reuse=True)
    for b, k in existing(blocks):
        context, whole = context_of(batch, b, int(blocks.anchors[b, k])), torch.ones(STEPS, dtype=torch.bool)
        for n in range(2):
            tokens = torch.cat([context, rollout.tokens[b, n, k]])[None]
            with torch.no_grad():
                states = model(input_ids=tokens, output_hidden_states=True).hidden_states
            hidden = torch.stack([states[1][0], states[2][0]], dim=1)[len(context) :]
            expected = embed_loop(hidden, whole, "last_token", "joint").float()
            torch.testing.assert_close(made.rollout[b, n, k], expected, rtol=1e-4, atol=1e-5)


@BY_FAMILY
def test_greedy_completions_are_those_of_generate(family: str) -> None:
    """Prompts shorter and longer than the window, side by side; `generate` gets each alone, with the cache of its own
    for sliding layers."""
    policy, model = both(family)
    draw, new = torch.Generator().manual_seed(4), 17
    prompts = [torch.randint(VOCABULARY, (length,), generator=draw) for length in (7, 1, 13)]
    batch, blocks = prompts_batch([prompt.tolist() for prompt in prompts], [1, 2, 3])
    done = complete(policy, batch, blocks, 1, new, Decoding(0.0, 1.0), "0/eval", ()).rollout
    settings = {"max_new_tokens": new, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    for b, prompt in enumerate(prompts):
        generated = model.generate(prompt[None], attention_mask=torch.ones(1, len(prompt)), **settings)
        assert done.tokens[b, 0, 0].tolist() == generated[0, len(prompt) :].tolist()
        expected = log_probs_alone(model, prompt, done.tokens[b, 0, 0], 1.0)
        torch.testing.assert_close(done.log_probs[b, 0, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["gemma2", "mistral", "qwen2_moe"])
def test_a_window_changes_what_a_family_says(family: str) -> None:
    """Otherwise the tests above would show nothing. Of these, Mistral's own code hands its window to attention, and
    that of Qwen2's experts only makes a mask of it."""
    batch = random_batch(LAYOUTS["plain"])
    wide = LanguageModel(plain(family, sliding_window=64), "fp32")
    with torch.no_grad():
        difference = (wide.row_hidden(batch) - both(family)[0].row_hidden(batch)).abs().amax((0, 2))
    assert (difference[:WINDOW] < 1e-5).all()
    assert difference[WINDOW + 1 :].min() > 1e-3


@pytest.mark.parametrize("family", ["gemma2", "mistral", "phi3"])
def test_gradients_are_those_of_every_text_alone(family: str) -> None:
    policy, model = LanguageModel(plain(family), "fp32"), plain(family)
    config, batch = geometry(n_samples=2, generate_length=STEPS), random_batch(LAYOUTS["documents"])
    blocks = blocks_of(batch, config)
    rollout, _ = sample(policy, batch, blocks, random_draws(batch, blocks, config), 1.0, (), False)
    rollout = replace(rollout, matches=None)
    branches = branches_of(batch, rollout.predicting, False)
    (found,) = policy.log_probs(policy.flat_hidden(batch, branches), branch_labels(batch, rollout, branches, 1.0))
    rollout.like_tokens(found)[rollout.valid].sum().backward()
    log_probs: list[Tensor] = []
    for (b, k), n in product(existing(blocks), range(2)):
        context, tokens = context_of(batch, b, int(blocks.anchors[b, k])), rollout.tokens[b, n, k]
        logits = model(input_ids=torch.cat([context, tokens])[None]).logits[0, len(context) - 1 : -1]
        log_probs.append(logits.log_softmax(-1).gather(1, tokens[:, None]))
    torch.cat(log_probs).sum().backward()
    slow = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, parameter in policy.model.named_parameters():
        assert parameter.grad is not None
        expected = slow[name]
        torch.testing.assert_close(
            parameter.grad, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()), msg=name
        )
