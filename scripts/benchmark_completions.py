"""Completions of ragged prompts, greedy and all of one length, beside transformers' `generate` with its static
cache."""

import copy
from collections.abc import Callable

import torch
from benchmark_contenders import Setting, now_seconds
from torch import Tensor
from transformers import PreTrainedModel

from ebft.models.policy import LanguageModel
from ebft.rollout.completions import Decoding, complete, prompts_batch

COMPLETED_ROWS = (1, 8, 32)
SHORTEST_PROMPT, LONGEST_PROMPT, NEW_TOKENS = 16, 64, 64
HEADER = ("rows", "new tokens", "tokens/s", "generate tokens/s", "ours/generate", "equal tokens")


def measure_completions(model: PreTrainedModel, setting: Setting, num_rows: int, repetitions: int) -> dict[str, float]:
    """Both decoders on one batch; the first run of each warms up and is not counted."""
    ours, generate = decoders(model, setting, random_prompts(num_rows, model.config.vocab_size))
    seconds = []
    for _ in range(repetitions + 1):
        start = now_seconds(setting.device)
        tokens = ours()
        turn = now_seconds(setting.device)
        generated = generate()
        seconds.append((turn - start, now_seconds(setting.device) - turn))
    best, best_generate = (num_rows * NEW_TOKENS / min(runs) for runs in zip(*seconds[1:], strict=True))
    return {
        "tokens_per_second": best,
        "generate_tokens_per_second": best_generate,
        "ours_over_generate": best / best_generate,
        "equal_tokens_share": (tokens == generated).float().mean().item(),
    }


def decoders(
    model: PreTrainedModel, setting: Setting, prompts: list[list[int]]
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Greedy tokens of every prompt, `NEW_TOKENS` each, by `complete` and by `generate`."""
    mine, its = (copy.deepcopy(model).to(setting.device) for _ in range(2))
    policy, (batch, blocks) = LanguageModel(mine, setting.dtype), prompts_batch(prompts, range(len(prompts)))
    device = torch.device(setting.device)
    batch, blocks = batch.to(device), blocks.to(device)
    width = max(map(len, prompts))
    padded = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=setting.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=setting.device)
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0, "cache_implementation": "static"}

    def ours() -> Tensor:
        return complete(policy, batch, blocks, 1, NEW_TOKENS, Decoding(0.0, 1.0), "benchmark", ()).rollout.tokens[
            :, 0, 0
        ]

    def generate() -> Tensor:
        return its.generate(padded, attention_mask=mask, **settings)[:, width:]

    return ours, generate


def random_prompts(num_rows: int, vocab_size: int) -> list[list[int]]:
    lengths, draw = (
        torch.linspace(LONGEST_PROMPT, SHORTEST_PROMPT, num_rows).long().tolist(),
        torch.Generator().manual_seed(0),
    )
    return [torch.randint(vocab_size, (length,), generator=draw).tolist() for length in lengths]


def completion_row(num_rows: int, figures: dict[str, float]) -> list[str]:
    speeds = (f"{figures[name]:,.0f}" for name in ("tokens_per_second", "generate_tokens_per_second"))
    shares = (f"{figures[name]:.2f}" for name in ("ours_over_generate", "equal_tokens_share"))
    return [str(num_rows), str(NEW_TOKENS), *speeds, *shares]
