"""Random models of several families, batches of several layouts, and one branch at a time through plain
transformers."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from ebft.config.schema import FeaturesConfig, SamplerConfig
from ebft.geometry.blocks import find_blocks
from ebft.methods import Method, differentiate
from ebft.methods.base import Tally
from ebft.models.feature_network import FeatureNetwork
from ebft.models.policy import LanguageModel
from ebft.types import Batch, Blocks, Rollout
from tests.reference import batch_of

VOCABULARY, LAYERS, T = 31, 3, 23
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 29,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 6,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,  # large enough for attention and next-token distributions far from uniform
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
GROUPED = SIZES | {"num_key_value_heads": 2}  # three query heads share one of keys and values
CONFIGS: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, GROUPED),
    "qwen2": (Qwen2Config, GROUPED),
    "qwen3": (Qwen3Config, GROUPED | {"head_dim": 10}),
    "gemma": (GemmaConfig, GROUPED | {"head_dim": 10, "pad_token_id": 0}),
    "gpt_neox": (GPTNeoXConfig, SIZES | {"rotary_pct": 0.5}),
}
FAMILIES = list(CONFIGS)
LAYOUTS = {
    "plain": [[0] * T, [0] * T],
    "documents": [[0] * 11 + [1] * 12, [0] * 4 + [1] * 13 + [-1] * 6],
    "padded": [[0] * T, [0] * 13 + [-1] * 10],
}


def architecture(family: str = "llama", **changes: Any) -> PreTrainedConfig:
    cls, settings = CONFIGS[family]
    return cls(**(settings | changes))


def model_of(config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()


def plain_model(family: str = "llama", seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A model as transformers runs it; the same seed gives the same weights."""
    return model_of(architecture(family, **changes), seed)


def policy_of(family: str = "llama", seed: int = 0, dtype: str = "fp32", **changes: Any) -> LanguageModel:
    return LanguageModel(plain_model(family, seed, **changes), dtype)


def phi_of(family: str = "llama", seed: int = 0, dtype: str = "fp32", **changes: Any) -> FeatureNetwork:
    return FeatureNetwork(plain_model(family, seed), features(**changes), dtype)


def features(**changes: Any) -> FeaturesConfig:
    return replace(FeaturesConfig([1, 2], "last_token", "joint", "none", "policy", None, "replicated"), **changes)


def geometry(**changes: Any) -> SamplerConfig:
    config = SamplerConfig(
        anchors="all", n_samples=3, stride=5, context_length=2, generate_length=4, temperature=0.7, reuse=False
    )
    return replace(config, **changes)


def random_batch(document_ids: list[list[int]], completion: list[list[bool]] | None = None, seed: int = 5) -> Batch:
    batch = batch_of(document_ids, completion)
    draw = torch.Generator().manual_seed(seed)
    return replace(batch, tokens=torch.randint(VOCABULARY, batch.tokens.shape, generator=draw))


def blocks_of(batch: Batch, config: SamplerConfig) -> Blocks:
    return find_blocks(batch, config.anchors, config.context_length, config.stride, config.generate_length)


def random_draws(batch: Batch, blocks: Blocks, config: SamplerConfig, seed: int = 3) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(len(batch), config.n_samples, blocks.anchors.shape[1], config.generate_length, generator=draw)


def optimiser_step(
    method: Method[Any], batch: Batch, size: int, max_tokens: int | None = None
) -> tuple[list[Any], dict[str, Tensor], dict[str, Tensor]]:
    """Experiences, summed losses and gradients of a batch cut into micro-batches of `size` rows, as the loop takes
    them."""
    prepared = [
        method.prepare(batch.rows(start, start + size), step=3, is_only_microbatch=size >= len(batch))
        for start in range(0, len(batch), size)
    ]
    counts = [method.counts(part) for part in prepared]
    totals = {name: torch.stack([count[name] for count in counts]).sum() for name in counts[0]}
    values: dict[str, Tensor] = {}
    for part in prepared:
        for name, value in differentiate(method, part, totals, max_tokens).items():
            values[name] = values.get(name, torch.zeros(())) + value
    return prepared, values, {name: parameter.grad for name, parameter in method.policy.model.named_parameters()}


def random_rollout(batch: Batch, config: SamplerConfig, seed: int = 9) -> Rollout:
    """Rollouts that nobody sampled, without log-probs."""
    blocks = blocks_of(batch, config)
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(
        VOCABULARY, (len(batch), config.n_samples, blocks.anchors.shape[1], config.generate_length), generator=draw
    )
    return Rollout(blocks, tokens, torch.zeros(tokens.shape), blocks.valid[:, None, :, None].expand(tokens.shape))


def likely_text(policy: LanguageModel, batch: Batch, share: float = 0.8) -> Batch:
    """Rows of which that share of tokens is the policy's likeliest, so that rollouts follow them for a while."""
    follows = torch.rand(batch.tokens.shape, generator=torch.Generator().manual_seed(13)) < share
    follows[:, 0] = False
    with policy.inference_mode():
        for _ in range(T):
            likeliest = policy.logits(policy.row_hidden(batch)).argmax(-1).roll(1, dims=1)
            batch = replace(batch, tokens=torch.where(follows, likeliest, batch.tokens))
    return replace(batch, tokens=batch.tokens.clone())  # out of inference mode


def partly_the_row(batch: Batch, rollout: Rollout, seed: int = 17) -> Rollout:
    """The same rollouts, but beginning with 0 to all of their row's tokens, ending anywhere, and often twins."""
    draw, (num_rows, _, _, num_steps) = torch.Generator().manual_seed(seed), rollout.tokens.shape
    matches, stops = (torch.randint(num_steps + 1, rollout.tokens.shape[:3], generator=draw) for _ in range(2))
    place = (rollout.blocks.anchors[..., None] + torch.arange(num_steps)).clamp_max(batch.tokens.shape[1] - 1)
    reference = batch.tokens.gather(1, place.flatten(1)).view(num_rows, 1, -1, num_steps)
    tokens = torch.where(torch.arange(num_steps) < matches[..., None], reference, rollout.tokens % 3)
    return replace(rollout, tokens=tokens, valid=rollout.valid & (torch.arange(num_steps) < stops[..., None]))


def existing(blocks: Blocks) -> Iterator[tuple[int, int]]:
    """(row, block) of every block that exists."""
    rows, columns = blocks.anchors.shape
    return ((b, k) for b, k in product(range(rows), range(columns)) if blocks.valid[b, k])


def context_of(batch: Batch, row: int, anchor: int) -> Tensor:
    """The tokens that a block conditions on: what stands before its anchor in the same document."""
    ids = batch.document_ids[row, :anchor]
    return batch.tokens[row, :anchor][ids == ids[-1]]


@torch.no_grad()
def log_probs_alone(model: PreTrainedModel, context: Tensor, continuation: Tensor, temperature: float) -> Tensor:
    """Log-probs of one continuation, forwarded alone after its context."""
    logits = model(input_ids=torch.cat([context, continuation])[None]).logits[0, len(context) - 1 : -1]
    return (logits / temperature).log_softmax(-1).gather(1, continuation[:, None]).squeeze(1)


def figures(tallies: dict[str, Tally]) -> dict[str, float]:
    """What the loop makes of one process's tallies."""
    values = {name: tally.figure(*tally.sums.tolist()) for name, tally in tallies.items()}
    return {name: value for name, value in values.items() if value is not None}
