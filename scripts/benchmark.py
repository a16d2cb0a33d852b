"""What a step of EBFT costs on this machine: tokens forwarded and seconds by phase, beside a naive twin and supervised fine-tuning.

    python scripts/benchmark.py                              # T = 128, 256, 512, 1024; a few minutes on two cores
    python scripts/benchmark.py --lengths 128 --json out.json
    python scripts/benchmark.py --lengths --completions      # completions only, beside transformers' `generate`

One document per step and a random 8-layer, 256-wide Llama: no network, no data. Its head makes the row's next token the likeliest everywhere, so
likely that rollouts follow the row for 45 % of their tokens; only reuse (`sampler.reuse`) takes notice. All run whole optimiser steps through
`ebft.optimization`, in turn, so that what else the machine does meets them alike; a figure is the median over the repetitions. Phases:

    sampling    rollouts, rewards and advantages
    features    phi of rollouts and references
    update      forward, backward, clipping and AdamW

The formula is method.md section 9, without reuse; a backward counts as two forwards. A unit is one plain forward of N copies of the row.

Completions are greedy and all of one length, of ragged prompts, which `generate` gets padded on the left and with its static cache. Both decode the
same batch in turn; a figure is the best over the repetitions. Where two tokens are equally likely but for rounding, they may go different ways.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from naive import NaiveEBFT
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from ebft.completions import Decoding, complete, prompts_batch
from ebft.config import EBFTConfig, FeaturesConfig, OptimizerConfig, SamplerConfig
from ebft.cost import num_blocks
from ebft.environment import environment
from ebft.methods import Method
from ebft.methods.ebft import EBFT
from ebft.methods.sft import SFT
from ebft.models import FeatureNetwork, LanguageModel
from ebft.optimization import Optimization
from ebft.types import Batch

MODEL = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 8, "vocab_size": 2048}
METHOD = EBFTConfig("ebft", rl_coef=1.0, ce_coef=0.1, alignment_coef=1.0, diversity_coef=1.0, advantage="rloo")
SAMPLER = SamplerConfig("all", n_samples=4, stride=8, context_length=8, generate_length=8, temperature=0.6, reuse=False)
FEATURES = FeaturesConfig([0.25, 0.5, 0.75], "last_token", "joint", "none", "policy", None)
OPTIMIZER = OptimizerConfig(1e-6, [0.9, 0.95], 1e-8, 0.0, 1.0, "constant", 0.0, None)
PHASES = ("sampling", "features", "update")
OURS = ("ours", "reuse")
COMPLETED_ROWS = (1, 8, 32)
SHORTEST_PROMPT, LONGEST_PROMPT, NEW_TOKENS = 16, 64, 64
SHARPNESS = 0.587  # standard deviation of the wrong tokens' logits at the sampling temperature; the right token's is 16 times that
HEADER = ("T", "phase", "reuse", "tokens", "formula", "naive tokens", "seconds", "naive seconds", "naive/ours", "units", "SFT steps")
COMPLETIONS_HEADER = ("rows", "new tokens", "tokens/s", "generate tokens/s", "ours/generate", "equal tokens")


class Meter:
    """Seconds and tokens by phase, of the last step; what an inner phase takes is not the outer one's."""

    def __init__(self, method: Method[Any]) -> None:
        self._method, self._open = method, list[str]()
        self._last = 0.0, 0.0

    def watch(self, owner: Any, function: str, phase: str) -> None:
        """Charge every call of `owner.function` to `phase`."""
        original = getattr(owner, function)

        def watched(*arguments: Any) -> Any:
            with self.phase(phase):
                return original(*arguments)

        setattr(owner, function, watched)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._charge()
        self._open.append(name)
        yield
        self._charge()
        self._open.pop()

    def reset(self) -> None:
        self.seconds, self.tokens = defaultdict[str, float](float), defaultdict[str, float](float)

    def _charge(self) -> None:
        now = time.perf_counter(), self._method.tokens_forwarded
        if self._open:
            self.seconds[self._open[-1]] += now[0] - self._last[0]
            self.tokens[self._open[-1]] += now[1] - self._last[1]
        self._last = now


@dataclass(frozen=True)
class Cost:
    """Of one step, by phase."""

    tokens: dict[str, float]
    seconds: dict[str, float]


class Contender:
    """A method with its optimiser, stepped on the same row again and again."""

    def __init__(self, method: Method[Any], policy: LanguageModel, watched: Sequence[tuple[Any, str, str]]) -> None:
        self.method, self.optimization, self.meter = method, Optimization(OPTIMIZER, policy, max_steps=1), Meter(method)
        for owner, function, phase in watched:
            self.meter.watch(owner, function, phase)

    def step(self, batch: Batch, step: int) -> Cost:
        self.meter.reset()
        with self.meter.phase("update"):
            self.optimization.step(self.method, batch, step, micro_batch_size=1)
        return Cost(dict(self.meter.tokens), dict(self.meter.seconds))


def contenders(model: LlamaForCausalLM) -> dict[str, Contender]:
    """Each has its own copy of the same weights."""
    naive, supervised = (LanguageModel(copy.deepcopy(model), "fp32") for _ in range(2))
    twin = NaiveEBFT(METHOD, SAMPLER, FEATURES, naive, copy.deepcopy(model), seed=0)
    return {
        "ours": contender(model, SAMPLER),
        "reuse": contender(model, replace(SAMPLER, reuse=True)),
        "naive": Contender(twin, naive, [(twin, "prepare", "sampling"), (twin, "embeddings", "features")]),
        "sft": Contender(SFT(supervised), supervised, []),
    }


def contender(model: LlamaForCausalLM, sampler: SamplerConfig) -> Contender:
    policy, phi = LanguageModel(copy.deepcopy(model), "fp32"), FeatureNetwork(copy.deepcopy(model), FEATURES, "fp32")
    method = EBFT(METHOD, sampler, policy, phi, seed=0, stop_token=None)
    return Contender(method, policy, [(method, "prepare", "sampling"), (phi, "embeddings", "features")])


def measure(model: LlamaForCausalLM, length: int, repetitions: int) -> dict[str, Any]:
    """All figures of one row length; the first step of each contender warms up and is not counted."""
    batch = ascending_row(length)
    racers = contenders(model)
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in racers}
    units = []
    for step in range(repetitions + 1):
        costs = {name: racer.step(batch, step) for name, racer in racers.items()}
        units.append(unit_seconds(model, batch))
        if step:
            for name, cost in costs.items():
                seconds[name].append(cost.seconds)
    medians = {name: median_by_phase(runs) for name, runs in seconds.items()}
    blocks = num_blocks(length, SAMPLER.context_length, SAMPLER.stride, SAMPLER.generate_length)
    return {
        "tokens_forwarded": {name: with_total(cost.tokens) for name, cost in costs.items()},
        "tokens_by_formula": {name: with_total(racer.method.tokens_per_row(length, blocks)) for name, racer in racers.items()},
        "seconds": medians,
        "unit_seconds": statistics.median(units[1:]),
        "naive_over_ours_seconds": {name: medians["naive"]["step"] / medians[name]["step"] for name in OURS},
        "ours_over_sft_seconds": {name: medians[name]["step"] / medians["sft"]["step"] for name in OURS},
    }


def random_model(longest: int) -> LlamaForCausalLM:
    """A model whose likeliest token is the one above the latest: its head has the embeddings, so large that layers hardly turn them, one token up."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**MODEL, eos_token_id=None, max_position_embeddings=longest + SAMPLER.generate_length)).eval()
    embeddings, width = model.get_input_embeddings().weight.data, MODEL["hidden_size"]
    torch.nn.init.normal_(embeddings)
    model.get_output_embeddings().weight.data = embeddings.roll(1, dims=0) * SHARPNESS * SAMPLER.temperature / width**0.5
    return model


def ascending_row(length: int) -> Batch:
    tokens = torch.arange(length)[None] % MODEL["vocab_size"]
    every = torch.ones_like(tokens, dtype=torch.bool)
    return Batch(tokens, torch.zeros_like(tokens), every, every, torch.zeros(1, dtype=torch.long), masked=False)


@torch.no_grad()
def unit_seconds(model: LlamaForCausalLM, batch: Batch) -> float:
    start = time.perf_counter()
    model(input_ids=batch.tokens.expand(SAMPLER.n_samples, -1), use_cache=False)
    return time.perf_counter() - start


def median_by_phase(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    return {phase: statistics.median(run[phase] for run in map(with_total, runs)) for phase in with_total(runs[0])}


def with_total(phases: dict[str, float]) -> dict[str, float]:
    return phases | {"step": sum(phases.values())}


def measure_completions(model: LlamaForCausalLM, num_rows: int, repetitions: int) -> dict[str, float]:
    """Both decoders on one batch; the first run of each warms up and is not counted."""
    ours, generate = decoders(model, random_prompts(num_rows))
    seconds = []
    for _ in range(repetitions + 1):
        start = time.perf_counter()
        tokens = ours()
        turn = time.perf_counter()
        generated = generate()
        seconds.append((turn - start, time.perf_counter() - turn))
    best, best_generate = (num_rows * NEW_TOKENS / min(runs) for runs in zip(*seconds[1:], strict=True))
    return {
        "tokens_per_second": best,
        "generate_tokens_per_second": best_generate,
        "ours_over_generate": best / best_generate,
        "equal_tokens_share": (tokens == generated).float().mean().item(),
    }


def decoders(model: LlamaForCausalLM, prompts: list[list[int]]) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Greedy tokens of every prompt, `NEW_TOKENS` each, by `complete` and by `generate`."""
    policy, (batch, blocks) = LanguageModel(copy.deepcopy(model), "fp32"), prompts_batch(prompts, range(len(prompts)))
    width = max(map(len, prompts))
    padded = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0, "cache_implementation": "static"}

    def ours() -> Tensor:
        return complete(policy, batch, blocks, 1, NEW_TOKENS, Decoding(0.0, 1.0), "benchmark", None).rollout.tokens[:, 0, 0]

    def generate() -> Tensor:
        return model.generate(padded, attention_mask=mask, **settings)[:, width:]

    return ours, generate


def random_prompts(num_rows: int) -> list[list[int]]:
    lengths, draw = torch.linspace(LONGEST_PROMPT, SHORTEST_PROMPT, num_rows).long().tolist(), torch.Generator().manual_seed(0)
    return [torch.randint(MODEL["vocab_size"], (length,), generator=draw).tolist() for length in lengths]


def rows_of(length: int, figures: dict[str, Any]) -> list[list[str]]:
    """The table's lines of one row length."""
    tokens, seconds = figures["tokens_forwarded"], figures["seconds"]
    sft = seconds["sft"]["step"]

    def line(name: str, phase: str) -> list[str]:
        ours, naive = seconds[name][phase], seconds["naive"][phase]
        counts = (tokens[name][phase], figures["tokens_by_formula"][name][phase], tokens["naive"][phase])
        ratios = (naive / ours, ours / figures["unit_seconds"], ours / sft)
        reuse = "on" if name == "reuse" else "off"
        return [
            str(length),
            phase,
            reuse,
            *(f"{count:,.0f}" for count in counts),
            f"{ours:.3f}",
            f"{naive:.3f}",
            *(f"{ratio:.1f}" for ratio in ratios),
        ]

    return [line(name, phase) for name in OURS for phase in (*PHASES, "step")]


def completion_row(num_rows: int, figures: dict[str, float]) -> list[str]:
    speeds = (f"{figures[name]:,.0f}" for name in ("tokens_per_second", "generate_tokens_per_second"))
    shares = (f"{figures[name]:.2f}" for name in ("ours_over_generate", "equal_tokens_share"))
    return [str(num_rows), str(NEW_TOKENS), *speeds, *shares]


def show(header: Sequence[str], rows: Sequence[Sequence[str]], where: str) -> None:
    """A rich table on a terminal, aligned columns elsewhere."""
    print(where)
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table()
        for name in header:
            table.add_column(name, justify="left" if name == "phase" else "right")
        for row in rows:
            table.add_row(*row, end_section=row[1] == "step")
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = zip(header, row, widths, strict=True)
        print("  ".join(cell.ljust(width) if name == "phase" else cell.rjust(width) for name, cell, width in cells))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="*", default=[128, 256, 512, 1024], metavar="T", help="tokens per row; none for no step")
    parser.add_argument("--completions", action="store_true", help="measure completions beside transformers' generate as well")
    parser.add_argument("--repetitions", type=int, default=3, help="counted steps of each contender, after one that warms up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch; all cores by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the same figures, and the machine's, to FILE")
    arguments = parser.parse_args()
    shortest = SAMPLER.context_length + SAMPLER.generate_length
    if arguments.lengths and min(arguments.lengths) < shortest:
        parser.error(f"--lengths {min(arguments.lengths)} leaves no block; rows need at least {shortest} tokens.")
    if min(arguments.repetitions, arguments.threads) < 1:
        parser.error("--repetitions and --threads must be at least 1.")
    return arguments


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    model = random_model(max([*arguments.lengths, LONGEST_PROMPT + NEW_TOKENS]))
    lengths, completions = {}, {}
    for length in arguments.lengths:
        print(f"T = {length} ...", file=sys.stderr, flush=True)
        lengths[length] = measure(model, length, arguments.repetitions)
    for num_rows in COMPLETED_ROWS if arguments.completions else ():
        print(f"completions of {num_rows} prompts ...", file=sys.stderr, flush=True)
        completions[num_rows] = measure_completions(model, num_rows, arguments.repetitions)
    machine = environment("cpu")
    where = f"{machine['device']}, {arguments.threads} threads"
    if lengths:
        show(HEADER, [row for length, figures in lengths.items() for row in rows_of(length, figures)], where)
    if completions:
        show(COMPLETIONS_HEADER, [completion_row(num_rows, figures) for num_rows, figures in completions.items()], where)
    if arguments.json is not None:
        settings = {"model": MODEL, "method": asdict(METHOD), "sampler": asdict(SAMPLER), "features": asdict(FEATURES)}
        document = {"machine": machine, "repetitions": arguments.repetitions, **settings, "lengths": lengths, "completions": completions}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
