"""What a step of RLVR and of supervised fine-tuning takes beside TRL's GRPOTrainer and SFTTrainer, in one run.

    pip install 'ebft[peers]'
    python scripts/benchmark_peers.py                        # a few minutes on two cores
    python scripts/benchmark_peers.py --threads 1 --json out.json

RLVR: 8 prompts, 4 completions of each, 64 new tokens, one update of all of them. SFT: 8 rows of 512 tokens, one
update. No network, no data: the random model `small` of `benchmark_models.py`, fp32 on the CPU, both sides from the
same weights, with the same prompts or rows and as many new tokens, for nothing ends a completion. TRL's settings are
its own but for what would make it another step: no KL term, as ours has none, activations kept, where it recomputes
them by default, and fp32 in place of bf16. A turn is a step of TRL's and one of ours behind it; the first turns warm
up. Figures are medians, of CPU seconds of the whole process and of the wall clock.
"""

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from benchmark import show
from benchmark_contenders import OPTIMIZER, SAMPLER
from benchmark_models import architecture, build
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback

from ebft.config.methods import RLVRConfig
from ebft.methods.rlvr import RLVR
from ebft.methods.sft import SFT
from ebft.models.policy import LanguageModel
from ebft.output.environment import environment
from ebft.tasks.base import Question, Verdict
from ebft.tasks.grader import Grader
from ebft.train.optimization import Optimization
from ebft.types import Batch

ROWS, PROMPT_TOKENS, ROW_TOKENS = 8, (64, 256), 512
NEW_TOKENS, N_SAMPLES, TEMPERATURE = 64, 4, 1.0
WARM_UP = 2  # turns
HEADER = ("step", "CPU s, ours", "TRL", "TRL / ours", "seconds, ours", "TRL", "TRL / ours")


def share_of_even(tokens: Sequence[int]) -> float:
    """The reward of both sides."""
    return sum(token % 2 == 0 for token in tokens) / max(1, len(tokens))


class EvenTokens:
    """Our verifier: a text is its token ids, with blanks between them."""

    def verify(self, text: str, question: Question) -> Verdict:
        score = share_of_even([int(word) for word in text.split()])
        return Verdict(score, passed=score == 1, kind="counted", ended=True)

    def verify_all(self, texts: Sequence[str], questions: Sequence[Question]) -> list[Verdict]:
        return [self.verify(*each) for each in zip(texts, questions, strict=True)]

    def metrics(self, texts: Sequence[str], questions: Sequence[Question]) -> dict[str, float]:
        return {}


def number_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Token i is written as the number i, so that text and tokens are the same thing; its end token is none of the
    model's."""
    vocabulary = {str(token): token for token in range(vocab_size)} | {"<end>": vocab_size}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")


def random_rows(count: int, length: int, vocab_size: int) -> torch.Tensor:
    return torch.randint(vocab_size, (count, length), generator=torch.Generator().manual_seed(0))


def batch_of(tokens: torch.Tensor, num_prompt_tokens: int) -> Batch:
    counted = (torch.arange(tokens.shape[1]) >= num_prompt_tokens).expand_as(tokens).contiguous()
    return Batch(tokens, torch.zeros_like(tokens), counted, counted, torch.arange(len(tokens)), masked=False)


def our_rlvr(model: PreTrainedModel, prompts: torch.Tensor) -> Callable[[int], object]:
    config = RLVRConfig("rlvr", "grpo", NEW_TOKENS, "zero", ce_coef=0.0, kl_coef=0.0, kl_estimator="k3", reward=None)
    sampler = replace(SAMPLER, n_samples=N_SAMPLES, temperature=TEMPERATURE, reuse=True)  # the default
    questions = [Question(key=str(row), prompt="", answer="", origin=f"row {row}") for row in range(len(prompts))]
    grader = Grader(EvenTokens(), questions, lambda _, said: [" ".join(map(str, tokens)) for tokens in said], ())
    policy = LanguageModel(model, "fp32")
    answered = torch.cat([prompts, prompts[:, :1]], dim=1)  # an answer, which RLVR leaves out
    return stepper(RLVR(config, sampler, policy, None, grader, seed=0), policy, batch_of(answered, prompts.shape[1]))


def our_sft(model: PreTrainedModel, rows: torch.Tensor) -> Callable[[int], object]:
    policy = LanguageModel(model, "fp32")
    return stepper(SFT(policy), policy, batch_of(rows, 0))


def stepper(method: Any, policy: LanguageModel, batch: Batch) -> Callable[[int], object]:
    optimization = Optimization(OPTIMIZER, policy, max_steps=1)
    return lambda step: optimization.step(method, batch, step, len(batch), None)


@dataclass
class Turns(TrainerCallback):
    """Times every step of a trainer, and one of ours behind it."""

    ours: Callable[[int], object]
    seconds: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {"ours": [], "trl": []})

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.started = clocks()

    def on_step_end(self, arguments: Any, state: Any, *_: Any, **__: Any) -> None:
        turned = clocks()
        self.ours(state.global_step)
        for name, (start, end) in {"trl": (self.started, turned), "ours": (turned, clocks())}.items():
            self.seconds[name].append((end[0] - start[0], end[1] - start[1]))
        print(f"step {state.global_step} of {state.max_steps} ...", file=sys.stderr, flush=True)


def clocks() -> tuple[float, float]:
    """CPU seconds of this process with all its threads, and seconds."""
    return time.process_time(), time.perf_counter()


def settings(folder: str, steps: int) -> dict[str, Any]:
    """Of both of TRL's trainers."""
    return {
        "output_dir": folder,
        "max_steps": steps,
        "learning_rate": OPTIMIZER.lr,
        "lr_scheduler_type": "constant",
        "max_grad_norm": OPTIMIZER.max_grad_norm,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }


def trl_grpo(model: PreTrainedModel, prompts: torch.Tensor, turns: Turns, folder: str, steps: int) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        assert all(len(tokens) == NEW_TOKENS for tokens in completion_ids)
        return [share_of_even(tokens) for tokens in completion_ids]

    config = GRPOConfig(
        **settings(folder, steps),
        per_device_train_batch_size=len(prompts) * N_SAMPLES,
        num_generations=N_SAMPLES,
        max_completion_length=NEW_TOKENS,
        temperature=TEMPERATURE,
        beta=0.0,
        loss_type="grpo",
    )
    texts = Dataset.from_dict({"prompt": [" ".join(map(str, row)) for row in prompts.tolist()]})
    tokenizer = number_tokenizer(model.config.vocab_size)
    return GRPOTrainer(model, reward, config, texts, processing_class=tokenizer, callbacks=[turns])


def trl_sft(model: PreTrainedModel, rows: torch.Tensor, turns: Turns, folder: str, steps: int) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(**settings(folder, steps), per_device_train_batch_size=len(rows), max_length=rows.shape[1])
    data = Dataset.from_dict({"input_ids": rows.tolist()})
    tokenizer = number_tokenizer(model.config.vocab_size)
    return SFTTrainer(model, config, train_dataset=data, processing_class=tokenizer, callbacks=[turns])


def race(ours: Any, theirs: Any, tokens: torch.Tensor, repetitions: int) -> dict[str, Any]:
    """Medians of CPU seconds and seconds of a step of both."""
    model = build("small", tokens.shape[1] + NEW_TOKENS, TEMPERATURE)
    turns = Turns(ours(copy.deepcopy(model), tokens))
    with tempfile.TemporaryDirectory() as folder:
        theirs(model, tokens, turns, folder, WARM_UP + repetitions).train()
    counted = {name: list(zip(*runs[WARM_UP:], strict=True)) for name, runs in turns.seconds.items()}
    cpu, wall = ({name: statistics.median(runs[clock]) for name, runs in counted.items()} for clock in (0, 1))
    return {
        "cpu_seconds": cpu,
        "seconds": wall,
        "trl_over_ours_cpu_seconds": cpu["trl"] / cpu["ours"],
        "trl_over_ours_seconds": wall["trl"] / wall["ours"],
    }


def line_of(name: str, figures: dict[str, Any]) -> list[str]:
    """A line of the table."""
    cells = [name]
    for clock in ("cpu_seconds", "seconds"):
        sides = (figures[clock][side] for side in ("ours", "trl"))
        cells += [*(f"{side:.2f}" for side in sides), f"{figures[f'trl_over_ours_{clock}']:.2f}"]
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5, help="counted steps of each side")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch; all cores by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the same figures, and the machine's, to FILE")
    arguments = parser.parse_args()
    if min(arguments.repetitions, arguments.threads) < 1:
        parser.error("--repetitions and --threads must be at least 1.")
    if find_spec("trl") is None:
        parser.error("TRL is not installed; pip install 'ebft[peers]'.")
    torch.set_num_threads(arguments.threads)
    vocab_size = architecture("small", ROW_TOKENS).vocab_size
    figures = {
        f"RLVR, prompts of {length} tokens": race(
            our_rlvr, trl_grpo, random_rows(ROWS, length, vocab_size), arguments.repetitions
        )
        for length in PROMPT_TOKENS
    }
    figures["SFT"] = race(our_sft, trl_sft, random_rows(ROWS, ROW_TOKENS, vocab_size), arguments.repetitions)
    machine = environment("cpu") | {"trl": version("trl"), "threads": arguments.threads}
    print(f"{machine['device']}, {arguments.threads} threads, TRL {machine['trl']}")
    show(HEADER, [line_of(*each) for each in figures.items()])
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"machine": machine, "steps": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
