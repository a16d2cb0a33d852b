"""Whole steps on a GPU: seconds, memory beside the plan, and what changes over many of them."""

import copy
import statistics
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from benchmark_contenders import FEATURES, SAMPLER, Runs, Setting, blocks_of, contender, of_policy
from benchmark_growth import work_of
from benchmark_models import architecture
from gpu_record import Nested, Place, Record, allocated, forget, has, instead, peak_of, restart_peak
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM, PreTrainedModel

import ebft.geometry.attention as attention
from ebft.cli.compose import compose
from ebft.config.schema import LoRAConfig, TrainConfig, UserError
from ebft.cost import memory
from ebft.models.adapters import Adapters
from ebft.models.feature_network import FeatureNetwork
from ebft.models.loading import load_architecture
from ebft.models.policy import LanguageModel
from ebft.models.quantization import quantize, round_to_bfloat16
from ebft.run.profiling import DTYPES, matmul_peak, now_seconds
from ebft.train import budget

MEMORY_RUNS = ("sft", "ours", "reuse")


def step(record: Record, place: Place) -> None:
    """Whole steps of the 1.5 B shape: ours without reuse and with it, supervised, and the naive twin on one row."""
    _steps(record, place, place.model, ("ours", "sft", "reuse", "naive"))


def shapes(record: Record, place: Place) -> None:
    """The same of the other shapes, without the twin."""
    for name in place.others:
        _steps(Nested(record, name), place, name, ("ours", "sft", "reuse"))


def _steps(record: Record, place: Place, name: str, names: tuple[str, ...]) -> None:
    setting = place.setting(name)
    model = setting.build(place.length)
    peak = matmul_peak(DTYPES[setting.dtype], setting.device) / 2
    record(
        setting={
            "rows": setting.num_documents,
            "length": place.length,
            "max_tokens": setting.max_tokens,
            "dtype": setting.dtype,
        },
        matmul_multiply_adds_per_second=peak,
        planned_bytes={run: planned_bytes(setting, place.length, run) for run in MEMORY_RUNS},
    )
    for contestant in names:
        here = replace(setting, num_documents=1) if contestant == "naive" else setting
        record(**{contestant: raced(contestant, model, here, place.length, peak)})


def raced(
    name: str, model: PreTrainedModel, setting: Setting, length: int, peak: float, counted: int = 3
) -> dict[str, Any]:
    """Seconds by phase, tokens, share of the peak, and the peak of memory of a contender's steps; where memory does not
    suffice, that."""
    forget(setting.device)
    before = allocated(setting.device)
    racer, batch = contender(name, copy.deepcopy(model), setting), setting.rows(model, length)
    try:
        started = now_seconds(setting.device)
        racer.step(batch, 0)
        warm_up = now_seconds(setting.device) - started
        racer.step(batch, 1)
        restart_peak(setting.device)
        graphs = counters["stats"]["unique_graphs"]
        costs = [racer.step(batch, 2 + turn) for turn in range(counted)]
    except torch.cuda.OutOfMemoryError as error:
        return {"out_of_memory": str(error)[:300]}
    runs = Runs.of(costs, racer, batch)
    seconds = [sum(cost.seconds.values()) for cost in costs]
    work = work_of(model, setting, length, name, runs)
    return {
        "rows": setting.num_documents,
        "seconds": runs.seconds,
        "step_seconds": seconds,
        "warm_up_seconds": warm_up,
        "tokens": runs.tokens,
        "reused_share": runs.reused_share,
        "multiply_adds": work,
        "utilization": None if work is None else work / statistics.median(seconds) / peak,
        "peak_bytes": peak_of(setting.device) - before,
        "graphs_after_warm_up": counters["stats"]["unique_graphs"] - graphs,
    }


def config_of(setting: Setting, length: int, name: str, *overrides: str) -> TrainConfig:
    """The run that a contender stands for."""
    sampler = SAMPLER
    common = [
        "data=stdlib",
        "eval.context_length=8",
        f"data.sequence_length={length}",
        f"trainer.batch_size={setting.num_documents}",
        f"trainer.micro_batch_size={setting.num_documents}",
        f"trainer.max_tokens_per_microbatch={setting.max_tokens}",
        f"trainer.dtype={setting.dtype}",
    ]
    if name == "sft":
        return compose(["method=sft", *common, *overrides])
    geometry = [
        f"sampler.n_samples={setting.n_samples}",
        f"sampler.stride={sampler.stride}",
        f"sampler.context_length={sampler.context_length}",
        f"sampler.generate_length={sampler.generate_length}",
        f"sampler.reuse={str(name == 'reuse').lower()}",
    ]
    return compose(["method=ebft", *common, *geometry, *overrides])


def planned_bytes(setting: Setting, length: int, name: str) -> dict[str, int]:
    """What the plan says that a step holds, by part."""
    config, shape = config_of(setting, length, name), architecture(setting.model, length)
    work = budget.workload(config, shape, 0.0 if name == "sft" else float(blocks_of(length)), setting.device)
    return memory.unsharded(work)[1]


def steady(record: Record, place: Place) -> None:
    """Two hundred steps over rows of mixed lengths, with reuse: memory held, graphs compiled, seconds."""
    setting = place.setting("toy" if place.small else "small", max_tokens=None, num_documents=3)
    lengths = [32, 24, 28] if place.small else [512, 300, 700, 411, 640, 555, 222, 680]
    model = setting.build(max(lengths))
    racer = contender("reuse", model, setting)
    batches = [setting.rows(model, length) for length in lengths]
    held, graphs, seconds = [], [], []
    for number in range(12 if place.small else 200):
        started = now_seconds(place.device)
        racer.step(batches[number % len(batches)], number)
        seconds.append(now_seconds(place.device) - started)
        held.append(allocated(place.device))
        graphs.append(int(counters["stats"]["unique_graphs"]))
        if number % 10 == 9:
            record(
                lengths=lengths,
                steps=number + 1,
                held_bytes=held,
                graphs=graphs,
                first_seconds=seconds[: 2 * len(lengths)],
                median_seconds=statistics.median(seconds),
            )


def held(record: Record, place: Place) -> None:
    """Memory beside the plan for a 7 B shape under LoRA, and what is said of what does not fit."""
    shape = ["model=debug"] if place.small else ["model=llama_7b"]
    setting = place.setting(place.model, max_tokens=320 if place.small else 5_120, num_documents=2)
    length = place.length
    lora = ["model/adapter=lora", "optimizer=lora"]
    quantized = ["none", *(["nf4"] if place.device == "cuda" and has("bitsandbytes") else [])]
    for kind in quantized:
        for name in ("sft", "ours"):
            config = config_of(setting, length, name, *shape, *lora, f"model.adapter.quantize={kind}")
            record(**{f"lora_{kind}_{name}": _held_by_lora(config, setting, length, name)})
    whole = config_of(setting, length, "ours", *shape)
    record(whole=_refused(whole, setting, length))


def _refused(config: TrainConfig, setting: Setting, length: int) -> str:
    if setting.device != "cuda":
        return "asked of CUDA devices only"
    work = budget.workload(config, load_architecture(config.model), float(blocks_of(length)), "cuda")
    try:
        budget.check_room(config, work, 1, setting.device)
    except UserError as error:
        return str(error)
    return "fits"


def _held_by_lora(config: TrainConfig, setting: Setting, length: int, name: str) -> dict[str, Any]:
    adapter = config.model.adapter
    assert isinstance(adapter, LoRAConfig)
    shape = load_architecture(config.model)
    work = budget.workload(config, shape, 0.0 if name == "sft" else float(blocks_of(length)), setting.device)
    planned = memory.unsharded(work)[1]
    forget(setting.device)
    before = allocated(setting.device)
    torch.manual_seed(0)
    with torch.device(setting.device):
        model = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16).eval()
    if adapter.quantize != "none":
        quantize(model)
        model = model.to(setting.device)
    round_to_bfloat16(model)
    policy = LanguageModel(model, "bf16", Adapters(model, torch.tensor(0), adapter, "model.path=x", seed=0))
    racer = of_policy(name, policy, partial(FeatureNetwork, model, FEATURES, "bf16", policy.adapters), setting)
    batch = setting.rows(model, length)
    racer.step(batch, 0)
    loaded = peak_of(setting.device)
    restart_peak(setting.device)
    started = now_seconds(setting.device)
    racer.step(batch, 1)
    return {
        "planned_bytes": planned,
        "planned_sum": sum(planned.values()),
        "peak_bytes": peak_of(setting.device) - before,
        "first_peak_bytes": loaded - before,
        "seconds": now_seconds(setting.device) - started,
    }


def lengths(record: Record, place: Place) -> None:
    """Flex attention beside chunks, at row lengths of which a step has as many tokens."""
    name = "toy" if place.small else "qwen2.5-0.5b"
    all_lengths = (24, 32) if place.small else (256, 512, 1024, 2048)
    tokens = place.length * place.rows // 2
    setting = place.setting(name)
    model = setting.build(max(all_lengths))
    for length in all_lengths:
        here = replace(setting, num_documents=max(1, tokens // length), max_tokens=max(place.max_tokens, 6 * length))
        for way, least in (("flex", 0), ("chunks", 2**31)):
            with instead(attention, FLEX_FROM=least):
                record(**{f"{way}_{length}": raced("ours", model, here, length, peak=1.0, counted=2)})
