"""What a step of EBFT costs on this machine: tokens forwarded, seconds by phase and peak memory, beside a naive twin
and supervised fine-tuning.

    python scripts/benchmark.py                              # T = 128, 256, 512, 1024; a few minutes on two cores
    python scripts/benchmark.py --lengths 128 --json out.json
    python scripts/benchmark.py --model tiny --documents 4   # the base that ships with the package, on text
    python scripts/benchmark.py --model qwen2.5-1.5b --device cuda --dtype bf16 --lengths 1024
    python scripts/benchmark.py --lengths --growth  # how seconds grow with T, rows and N, beside the arithmetic
    python scripts/benchmark.py --lengths 1024 --without-naive --profile profiles
    python scripts/benchmark.py --lengths --completions      # completions only, beside transformers' `generate`

No network, no data: weights are random, or the tiny base's (`benchmark_models.py`). Random models are made so that
rollouts follow their row for 45 % of their tokens; only reuse (`sampler.reuse`) takes notice. All run whole optimiser
steps through `ebft.train.optimization`, small and tiny models on a CPU in turn, so that what else the machine does
meets them alike. Seconds are the median over the repetitions, tokens and shares the mean. Phases:

    sampling    rollouts, rewards and advantages
    features    phi of rollouts and references
    update      forward, backward, clipping and AdamW; also the rows' forward that sampling reads, where the rows are
                one micro-batch

The formula is method.md section 9 at the share reused in the run, less the rows in sampling where they are one
micro-batch; a backward counts as two forwards. A unit is one plain forward of N copies of the rows. Utilisation is the
step's multiply-adds, from the same formula with attention and logits, over those that a large matrix product does in
its time. Peak memory is what a contender takes, weights included: of a CPU resident memory of a process of its own, of
a GPU what torch has allocated.

Completions are greedy and all of one length, of ragged prompts, which `generate` gets padded on the left and with its
static cache. Both decode the same batch in turn; a figure is the best over the repetitions. Where two tokens are
equally likely but for rounding, they may go different ways.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from benchmark_completions import COMPLETED_ROWS, LONGEST_PROMPT, NEW_TOKENS, completion_row, measure_completions
from benchmark_completions import HEADER as COMPLETIONS_HEADER
from benchmark_contenders import FEATURES, METHOD, OURS, SAMPLER, UNIT, Setting, peak_memory, race, tells_memory
from benchmark_growth import HEADER as GROWTH_HEADER
from benchmark_growth import LENGTHS as GROWTH_LENGTHS
from benchmark_growth import growth_row, in_order, measure_growth, work_of
from benchmark_models import MODELS, positions
from benchmark_profile import write_profiles
from transformers import PreTrainedModel

from ebft.output.environment import environment
from ebft.run.profiling import DTYPES, matmul_peak

PHASES = ("sampling", "features", "update")
HEADER = (
    "T",
    "phase",
    "reuse",
    "tokens",
    "formula",
    "naive tokens",
    "seconds",
    "naive seconds",
    "naive/ours",
    "units",
    "SFT steps",
)
WHOLE_HEADER = ("T", "contender", "share reused", "tokens/formula", "utilisation", "peak MiB", "of naive's")
LEFT_ALIGNED = ("phase", "contender", "grows")


def measure(
    model: PreTrainedModel, setting: Setting, length: int, repetitions: int, names: Sequence[str], peak: float
) -> dict[str, Any]:
    """All figures of one row length, by contender; `peak` is the device's in multiply-adds a second."""
    runs = race([*names, UNIT], model, setting, setting.rows(model, length), repetitions)
    unit = runs.pop(UNIT).seconds["step"]
    seconds = {name: run.seconds["step"] for name, run in runs.items()}
    counted = {name: work_of(model, setting, length, name, run) for name, run in runs.items()}
    work = {name: count for name, count in counted.items() if count is not None}
    return {
        "tokens_forwarded": {name: run.tokens for name, run in runs.items()},
        "tokens_by_formula": {name: run.formula for name, run in runs.items()},
        "tokens_over_formula": {name: run.tokens["step"] / run.formula["step"] for name, run in runs.items()},
        "reused_share": {name: run.reused_share for name, run in runs.items() if run.reused_share is not None},
        "seconds": {name: run.seconds for name, run in runs.items()},
        "unit_seconds": unit,
        "naive_over_ours_seconds": {name: seconds["naive"] / seconds[name] for name in OURS if "naive" in seconds},
        "ours_over_sft_seconds": {name: seconds[name] / seconds["sft"] for name in OURS},
        "multiply_adds": work,
        "utilisation": {name: count / seconds[name] / peak for name, count in work.items()},
        "peak_memory_bytes": {
            name: peak_memory(name, model, setting, length) for name in names if tells_memory(setting)
        },
    }


def phase_rows(length: int, figures: dict[str, Any]) -> list[list[str]]:
    """The table's lines of one row length."""
    tokens, seconds = figures["tokens_forwarded"], figures["seconds"]
    has_twin, sft = "naive" in seconds, seconds["sft"]["step"]

    def line(name: str, phase: str) -> list[str]:
        ours = seconds[name][phase]
        naive = seconds["naive"][phase] if has_twin else None
        return [
            str(length),
            phase,
            "on" if name == "reuse" else "off",
            f"{tokens[name][phase]:,.0f}",
            f"{figures['tokens_by_formula'][name][phase]:,.0f}",
            f"{tokens['naive'][phase]:,.0f}" if has_twin else "-",
            f"{ours:.3f}",
            "-" if naive is None else f"{naive:.3f}",
            "-" if naive is None else f"{naive / ours:.1f}",
            f"{ours / figures['unit_seconds']:.1f}",
            f"{ours / sft:.1f}",
        ]

    return [line(name, phase) for name in OURS for phase in (*PHASES, "step")]


def whole_rows(length: int, figures: dict[str, Any]) -> list[list[str]]:
    """What is said of whole steps only."""
    memory = figures["peak_memory_bytes"]

    def line(name: str) -> list[str]:
        share, used, peak = figures["reused_share"].get(name), figures["utilisation"].get(name), memory.get(name)
        return [
            str(length),
            name,
            "-" if share is None else f"{share:.3f}",
            f"{figures['tokens_over_formula'][name]:.3f}",
            "-" if used is None else f"{used:.0%}",
            "-" if peak is None else f"{peak / 2**20:,.0f}",
            "-" if peak is None or "naive" not in memory else f"{peak / memory['naive']:.2f}",
        ]

    return [line(name) for name in figures["tokens_over_formula"]]


def show(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A rich table on a terminal, aligned columns elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table()
        for name in header:
            table.add_column(name, justify="left" if name in LEFT_ALIGNED else "right")
        for row in rows:
            table.add_row(*row, end_section=row[1] == "step")
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = zip(header, row, widths, strict=True)
        print(
            "  ".join(cell.ljust(width) if name in LEFT_ALIGNED else cell.rjust(width) for name, cell, width in cells)
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small", metavar="NAME", help=", ".join(MODELS))
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="default: cuda if there is one",
    )
    parser.add_argument(
        "--dtype", choices=("fp32", "bf16"), default="fp32", help="bf16: as trainer.dtype, weights stay in fp32"
    )
    parser.add_argument(
        "--lengths",
        type=int,
        nargs="*",
        default=[128, 256, 512, 1024],
        metavar="T",
        help="tokens per row; none for no step",
    )
    parser.add_argument("--documents", type=int, default=1, metavar="B", help="rows a step, in one micro-batch")
    parser.add_argument("--samples", type=int, default=SAMPLER.n_samples, metavar="N", help="rollouts at every anchor")
    parser.add_argument(
        "--max-tokens",
        type=int,
        metavar="M",
        help="that hold activations at a time, as trainer.max_tokens_per_microbatch",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the layers of all but the twin, as trainer.compile; a minute each to warm up",
    )
    parser.add_argument("--without-naive", action="store_true", help="leave the naive twin out, where rows are long")
    parser.add_argument(
        "--growth", action="store_true", help="measure how a step grows with T, rows and N as well, without the twin"
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="DIR",
        help="write a table of operators of a step of the longest length to DIR as well",
    )
    parser.add_argument(
        "--completions", action="store_true", help="measure completions beside transformers' generate as well"
    )
    parser.add_argument(
        "--repetitions", type=int, default=3, help="counted steps of each contender, each after one that warms up"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch; all cores by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the same figures, and the machine's, to FILE")
    arguments = parser.parse_args()
    complaint = mistake(arguments)
    if complaint is not None:
        parser.error(complaint)
    return arguments


def mistake(arguments: argparse.Namespace) -> str | None:
    """What the command line asks for and cannot have, in a sentence."""
    shortest, longest = SAMPLER.context_length + SAMPLER.generate_length, max(rows_to_come(arguments), default=0)
    if arguments.model not in MODELS:
        return f"--model {arguments.model} is not known; choose from {', '.join(MODELS)}."
    if arguments.device == "cuda" and not torch.cuda.is_available():
        return "--device cuda, but torch finds no CUDA device here; use --device cpu."
    if arguments.lengths and min(arguments.lengths) < shortest:
        return f"--lengths {min(arguments.lengths)} leaves no block; rows need at least {shortest} tokens."
    if arguments.max_tokens is not None and arguments.max_tokens < longest + SAMPLER.generate_length:
        least = longest + SAMPLER.generate_length
        return (
            f"--max-tokens {arguments.max_tokens} is below the {least} of a row of {longest} with one rollout; "
            "raise it."
        )
    if longest > positions(arguments.model):
        limit = positions(arguments.model)
        return (
            f"Rows of {longest} tokens are over the {limit} positions of --model {arguments.model}; "
            "shorten --lengths or leave out --growth."
        )
    if min(arguments.repetitions, arguments.threads, arguments.documents) < 1 or arguments.samples < 2:
        return "--repetitions, --threads and --documents must be at least 1, and --samples at least 2."
    if arguments.completions and arguments.dtype == "bf16":
        return (
            "--completions with --dtype bf16 has nothing to stand beside: transformers' static cache does not run "
            "under autocast; use fp32."
        )
    if arguments.profile is not None and not arguments.lengths:
        return "--profile takes a step of the longest of --lengths; name one."
    return None


def rows_to_come(arguments: argparse.Namespace) -> list[int]:
    return [*arguments.lengths, *(GROWTH_LENGTHS if arguments.growth else ())]


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    sizes = arguments.samples, arguments.documents, arguments.max_tokens
    setting = Setting(arguments.model, arguments.device, arguments.dtype, *sizes, arguments.compile, arguments.threads)
    model = setting.build(max([*rows_to_come(arguments), LONGEST_PROMPT + NEW_TOKENS]))
    figures, machine = everything(model, setting, arguments), environment(arguments.device)
    compiled = ", compiled" if setting.compile else ""
    print(
        f"{machine['device']}, {setting.threads} threads, {setting.model}, {setting.dtype}{compiled}, N = "
        f"{setting.n_samples}, "
        f"B = {setting.num_documents}"
    )
    for header, rows in tables(figures):
        if rows:
            show(header, rows)
    if arguments.profile is not None:
        print(*write_profiles(arguments.profile, setting, max(arguments.lengths)), sep="\n")
    if arguments.json is not None:
        settings = {"setting": asdict(setting), "model": model.config.to_diff_dict(), "method": asdict(METHOD)}
        geometry = {"sampler": asdict(setting.sampler(False)), "features": asdict(FEATURES)}
        document = {"machine": machine, "repetitions": arguments.repetitions, **settings, **geometry, **figures}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


def everything(model: PreTrainedModel, setting: Setting, arguments: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, as in the JSON file."""
    names = [name for name in (*OURS, "naive", "sft") if name != "naive" or not arguments.without_naive]
    peak, lengths, growth, completions = matmul_peak(DTYPES[setting.dtype], setting.device) / 2, {}, [], {}
    for length in arguments.lengths:
        report(f"T = {length}")
        lengths[length] = measure(model, setting, length, arguments.repetitions, names, peak)
    for line in measure_growth(model, setting, arguments.repetitions) if arguments.growth else ():
        report(f"{line['grows']} grows: T = {line['T']}, {line['rows']} rows, N = {line['N']}, {line['contender']}")
        growth.append(line)
    for num_rows in COMPLETED_ROWS if arguments.completions else ():
        report(f"completions of {num_rows} prompts")
        completions[num_rows] = measure_completions(model, setting, num_rows, arguments.repetitions)
    return {
        "matmul_multiply_adds_per_second": peak,
        "lengths": lengths,
        "growth": in_order(growth),
        "completions": completions,
    }


def report(progress: str) -> None:
    print(f"{progress} ...", file=sys.stderr, flush=True)


def tables(figures: dict[str, Any]) -> list[tuple[Sequence[str], list[list[str]]]]:
    lengths, completions = figures["lengths"].items(), figures["completions"].items()
    return [
        (HEADER, [row for length, found in lengths for row in phase_rows(length, found)]),
        (WHOLE_HEADER, [row for length, found in lengths for row in whole_rows(length, found)]),
        (GROWTH_HEADER, [growth_row(line) for line in figures["growth"]]),
        (COMPLETIONS_HEADER, [completion_row(num_rows, found) for num_rows, found in completions]),
    ]


if __name__ == "__main__":
    main()
