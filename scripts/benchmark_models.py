"""The models that `benchmark.py` steps, their rows, and what their forwards cost in multiply-adds.

`tiny` is the base that ships with the package, on rows of the standard library's text. All others have random weights,
which know no text; so that reuse has something to reuse, they are made to repeat themselves and get rows that do.
Embeddings are so large that layers hardly turn them. With a head of its own (`small`, and `toy` for rehearsals) the
likeliest token is the one above the latest, and a row counts up; where the head is the embeddings, as in the published
models, it is the latest token again, and a row is one token throughout.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch.nn.functional import normalize
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from ebft.config.schema import SamplerConfig, StdlibDataConfig
from ebft.cost.tokens import num_blocks
from ebft.models.named import TINY
from ebft.types import Batch

SMALL = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "vocab_size": 2048,
    "eos_token_id": None,
}
TOY = SMALL | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "vocab_size": 256,
    "num_attention_heads": 4,
}
QWEN = {"vocab_size": 151936, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "tie_word_embeddings": True}
QWEN_ROPE = {"rope_type": "default", "rope_theta": 1e6}
LLAMA_ROPE = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SHAPES: dict[str, tuple[Callable[..., PreTrainedConfig], dict[str, Any]]] = {
    "toy": (LlamaConfig, TOY),
    "small": (LlamaConfig, SMALL),
    "smollm2-135m": (
        LlamaConfig,
        {
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
        }
        | {"num_key_value_heads": 3, "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "eos_token_id": None}
        | {"max_position_embeddings": 8192, "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}},
    ),
    "qwen2.5-0.5b": (
        Qwen2Config,
        QWEN
        | {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
        | {"max_position_embeddings": 32768, "rope_parameters": QWEN_ROPE},
    ),
    "qwen2.5-1.5b": (
        Qwen2Config,
        QWEN
        | {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12}
        | {"max_position_embeddings": 131072, "rope_parameters": QWEN_ROPE},
    ),
    "llama-3.2-1b": (
        LlamaConfig,
        {
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "head_dim": 64,
        }
        | {"num_key_value_heads": 8, "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "eos_token_id": None}
        | {
            "max_position_embeddings": 131072,
            "rope_parameters": LLAMA_ROPE | {"original_max_position_embeddings": 8192},
        },
    ),
}
MODELS = (*SHAPES, "tiny")
LIGHT = ("toy", "small", "tiny")  # models of which memory holds many copies
# probability of the row's next token behind the row: its first 8 powers have the mean 0.45, which leaves 55 % live
FOLLOWED = 0.82
EMBEDDING_SCALE = 32.0  # 28 layers of the initial weights add about 5


def positions(name: str) -> float:
    """The longest row that a model takes; `small` is made as long as it needs to be."""
    settings = json.loads((TINY / "config.json").read_text()) if name == "tiny" else SHAPES[name][1]
    return settings.get("max_position_embeddings", math.inf)


def architecture(name: str, longest: int) -> PreTrainedConfig:
    make, settings = SHAPES[name]
    return make(**({"max_position_embeddings": longest} | settings))


def build(name: str, longest: int, temperature: float, device: str = "cpu") -> PreTrainedModel:
    """In fp32; random weights are always the same on a device. `temperature` is that of the rollouts."""
    if name == "tiny":
        transformers.utils.logging.disable_progress_bar()
        model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
        model.generation_config.eos_token_id = None
        return model.eval().to(device)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(architecture(name, longest), dtype=torch.float32).eval()
        make_repetitive(model, temperature)
    return model


@torch.no_grad()
def make_repetitive(model: PreTrainedModel, temperature: float) -> None:
    """The likeliest token is the latest, or the one above it, with probability `FOLLOWED` at the temperature.

    Embeddings point in random directions in d dimensions, all of length sqrt(d) times their scale. Their products, over
    that length and scale, are sqrt(d) with themselves and normal with each other. With s times that as logits, exp(s
    sqrt(d)) stands against V exp(s^2 / 2) in the mean, and s follows from the odds.
    """
    embeddings, head, width = (
        model.get_input_embeddings().weight,
        model.get_output_embeddings().weight,
        model.config.hidden_size,
    )
    embeddings.copy_(normalize(torch.randn_like(embeddings), dim=-1) * EMBEDDING_SCALE * width**0.5)
    odds = math.log(model.config.vocab_size * FOLLOWED / (1 - FOLLOWED))
    scale = width**0.5 - (width - 2 * odds) ** 0.5
    model.base_model.norm.weight.fill_(scale * temperature / width**0.5 / EMBEDDING_SCALE)
    if head is not embeddings:
        head.copy_(embeddings.roll(1, dims=0))


def rows(name: str, vocab_size: int, length: int, num_documents: int) -> Batch:
    """Rows that the model's rollouts follow: counting up, or one token throughout; of `tiny`, text."""
    if name == "tiny":
        return text_rows(length, num_documents)
    first = torch.arange(num_documents)[:, None]
    tokens = (
        (first * length + torch.arange(length)) % vocab_size
        if name in ("toy", "small")
        else first.expand(-1, length).contiguous()
    )
    every = torch.ones_like(tokens, dtype=torch.bool)
    return Batch(tokens, torch.zeros_like(tokens), every, every, torch.arange(num_documents), masked=False)


def text_rows(length: int, num_documents: int) -> Batch:
    """Packed rows of the training side of `data=stdlib`, evenly spread over its first modules by hash."""
    from ebft.data import Tokenization, load

    config = StdlibDataConfig(
        source="stdlib",
        sequence_length=length,
        layout="packed",
        document_masking=False,
        loss_tokens="all",
        bos="auto",
        end_token=None,
        task=None,
        validation_fraction=0.1,
        validation_part="all",
        bad_rows="refuse",
        max_train_documents=64,
        max_validation_documents=1,
    )
    tokens = Tokenization.of(config, AutoTokenizer.from_pretrained(TINY))
    found = load(config, tokens, train_questions=False, validation_questions=False).train
    assert num_documents <= len(found), f"{len(found)} rows"
    return found.batch([place * len(found) // num_documents for place in range(num_documents)])


@dataclass(frozen=True)
class Sizes:
    """Multiply-adds of a forward through all layers."""

    token: int  # in the layers' matrices
    logits: int  # of one position
    pair: int  # of one token that sees one token, in scores and in the weighted sum

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Sizes":
        config, layers = model.config, model.base_model.layers
        token = sum(weight.numel() for weight in layers.parameters() if weight.ndim == 2)
        width = sum(layer.self_attn.o_proj.in_features for layer in layers)
        return cls(token, config.vocab_size * config.hidden_size, 2 * width)


def multiply_adds(
    sizes: Sizes, sampler: SamplerConfig, length: int, depth: float, live: float, row_is_kept: bool
) -> float:
    """Of one step of EBFT on one row, `live` of whose rollouts' tokens are forwarded; a backward counts as two
    forwards. A row whose forward is kept for the update has none of its own in sampling.

    Tokens as in method.md section 9. A row has T (T + 1) / 2 pairs, a branch's token as many as its position and one.
    Logits are those that the product takes: in the update of the whole row and of the branches; in sampling of the row
    where a token of a block can follow, of the first alone without reuse, and of the branches.
    """
    blocks, steps = (
        num_blocks(length, sampler.context_length, sampler.stride, sampler.generate_length),
        sampler.generate_length - 1,
    )
    branches = live * blocks * sampler.n_samples

    row = sizes.token * length + sizes.pair * length * (length + 1) / 2

    def forward(own: int) -> float:
        mean_anchor = sampler.context_length + sampler.stride * (blocks - 1) / 2
        return row + branches * own * (sizes.token + sizes.pair * (mean_anchor + (own + 1) / 2))

    along_row = blocks * (sampler.generate_length if sampler.reuse else 1)
    sampling = forward(steps) - (row if row_is_kept else 0) + sizes.logits * (along_row + branches * steps)
    update = 3 * (forward(steps) + sizes.logits * (length + branches * steps))
    return sampling + depth * forward(sampler.generate_length) + update


def supervised_multiply_adds(sizes: Sizes, length: int) -> float:
    """Of one step of supervised fine-tuning on one row."""
    return 3 * (length * (sizes.token + sizes.logits) + sizes.pair * length * (length + 1) / 2)
