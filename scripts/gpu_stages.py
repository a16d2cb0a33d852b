"""The stages of `gpu_check.py`, each in a process of its own. What a stage finds it records at once, so that a limit of
time takes nothing but what was still to come."""

import copy
import gc
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from benchmark_contenders import (
    FEATURES,
    OPTIMIZER,
    SAMPLER,
    Runs,
    Setting,
    blocks_of,
    contender,
    of_policy,
)
from benchmark_growth import arithmetic
from benchmark_models import Sizes, architecture, supervised_multiply_adds
from torch import Tensor
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM, PreTrainedModel

import ebft.geometry.attention as attention
import ebft.geometry.flex as flex
import ebft.models.logprobs as logprobs
import ebft.models.policy as policy_module
from ebft.cli.compose import compose
from ebft.config.schema import LoRAConfig, SamplerConfig, TrainConfig, UserError
from ebft.cost import memory
from ebft.geometry.attention import BranchContext, LayerAttention
from ebft.geometry.blocks import OwnTokens, find_blocks, make_branches
from ebft.models.adapters import Adapters
from ebft.models.feature_network import FeatureNetwork
from ebft.models.loading import load_architecture
from ebft.models.logprobs import Labels
from ebft.models.policy import LanguageModel
from ebft.models.quantization import quantize, round_to_bfloat16
from ebft.output.environment import environment
from ebft.output.files import atomic_write_text
from ebft.parallel.fsdp import clip_gradients
from ebft.run.profiling import DTYPES, matmul_peak, now_seconds
from ebft.train import budget
from ebft.train.optimization import Optimization

ROOT = Path(__file__).parents[1]
COPY_BYTES = {"cpu": 2**24, "cuda": 2**32}
FAMILY_GROUPS = 4  # processes that compare families side by side: most of their time goes into compiling
MEMORY_RUNS = ("sft", "ours", "reuse")


@dataclass(frozen=True)
class Place:
    """Where a stage runs, and how much of it."""

    device: str
    small: bool  # shapes for a rehearsal
    only: str = ""  # tests, by pytest's -k

    @property
    def model(self) -> str:
        return "toy" if self.small else "qwen2.5-1.5b"

    @property
    def others(self) -> tuple[str, ...]:
        return ("toy",) if self.small else ("qwen2.5-0.5b", "llama-3.2-1b")

    @property
    def length(self) -> int:
        return 32 if self.small else 1024

    @property
    def rows(self) -> int:
        return 2 if self.small else 16

    @property
    def max_tokens(self) -> int:
        """What 80 GB hold of the 1.5 B shape's activations beside its weights: two rows at a time."""
        return 320 if self.small else 10_240

    def setting(self, model: str, **changes: Any) -> Setting:
        dtype = "fp32" if self.small else "bf16"  # which many processors only imitate
        whole = Setting(model, self.device, dtype, SAMPLER.n_samples, self.rows, self.max_tokens, False, 1)
        return replace(whole, **changes)


class Record:
    """What a stage has found so far, in a file of its own."""

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, dict[str, Any]()

    def __call__(self, **found: Any) -> None:
        self.found |= found
        atomic_write_text(self.path, json.dumps(self.found, indent=2, default=float) + "\n")
        print("recorded", *found, flush=True)


def machine(record: Record, place: Place) -> None:
    """What there is: versions, driver, memory, the largest rates of arithmetic and of copying."""
    record(environment=environment(place.device), transformers_on=place.device)
    if place.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        driver = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        record(driver=driver, cuda=torch.version.cuda, free_bytes=free, total_bytes=total)
    dtypes = {"fp32": DTYPES["fp32"]} if place.small else DTYPES  # which many processors only imitate
    record(matmul_flops={name: matmul_peak(dtype, place.device) for name, dtype in dtypes.items()})
    source = torch.empty(COPY_BYTES[place.device], dtype=torch.uint8, device=place.device)
    target = torch.empty_like(source)
    times = []
    for _ in range(6):
        started = now_seconds(place.device)
        target.copy_(source)
        times.append(now_seconds(place.device) - started)
    record(copied_bytes_per_second=2 * len(source) / min(times))


def tests(record: Record, place: Place) -> None:
    """`tests/gpu`, several at a time."""
    report = record.path.with_suffix(".xml")
    workers = "2" if place.small else "10"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/gpu",
        "-n",
        workers,
        "--dist",
        "worksteal",
        "--tb=short",
        "-k",
        place.only,
    ]
    with subprocess.Popen(
        [
            *command,
            "-p",
            "no:cacheprovider",
            "-p",
            "no:benchmark",
            f"--junitxml={report}",
            "-o",
            "junit_logging=no",
            "--durations=15",
            "-vv",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:
            print(line, end="", flush=True)
    print("exit status", running.returncode, flush=True)
    if report.exists():
        text = report.read_text(encoding="utf-8")
        counts = {
            name: int(re.findall(rf'{name}="(\d+)"', text)[0]) for name in ("tests", "failures", "errors", "skipped")
        }
        record(**counts, exit_status=running.returncode)
    if running.returncode:
        sys.exit(running.returncode)


def parity(record: Record, place: Place) -> None:
    """Every family of the README: this device's log-probs, gradients, rollouts and features beside the CPU's."""
    from tests.models.test_families import SETTINGS

    names = sorted(SETTINGS)[:2] if place.small else sorted(SETTINGS)
    workers = 1 if place.small else FAMILY_GROUPS
    pool = torch.multiprocessing.get_context("spawn").Pool(workers)
    with pool:
        jobs = [(family, dtype, place.device) for dtype in DTYPES for family in names]
        found: dict[str, dict[str, Any]] = {dtype: {} for dtype in DTYPES}
        for (family, dtype, _), figures in zip(jobs, pool.imap(compared, jobs), strict=True):
            found[dtype][family] = figures
            record(**found)
    broken = [
        f"{family} {dtype}: {figures['error']}"
        for dtype in found
        for family, figures in found[dtype].items()
        if "error" in figures
    ]
    if broken:
        sys.exit("\n".join(broken))


def compared(job: tuple[str, str, str]) -> dict[str, Any]:
    """One family in one precision. An error is told, so that the others still run."""
    family, dtype, device = job
    torch.set_num_threads(2)
    try:
        return _compared(family, dtype, device)
    except Exception as error:  # whatever a family raises on this device is what is looked for
        return {"error": f"{type(error).__name__}: {str(error)[:2000]}"}


def _compared(family: str, dtype: str, device: str) -> dict[str, Any]:
    from ebft.geometry.reuse import branches_of
    from ebft.models.logprobs import branch_labels, row_labels
    from ebft.rollout.sampler import sample
    from tests.helpers import LAYOUTS, blocks_of, features, geometry, likely_text, random_batch, random_draws
    from tests.models.test_families import STEPS, plain

    started = time.perf_counter()
    config = geometry(n_samples=2, generate_length=STEPS, reuse=True)
    sides = {}
    batch = likely_text(LanguageModel(plain(family), "fp32"), random_batch(LAYOUTS["documents"]))
    blocks = blocks_of(batch, config)
    draws = random_draws(batch, blocks, config)
    rollouts = None
    for side in ("cpu", device):
        policy = LanguageModel(plain(family).to(side), dtype)
        phi = FeatureNetwork(plain(family).to(side), features(), dtype)
        where = torch.device(side)
        here, found = batch.to(where), blocks.to(where)
        drawn, _ = sample(policy, here, found, draws.to(where), config.temperature, (), True)
        if rollouts is None:
            rollouts = drawn
        same = replace(
            rollouts,
            blocks=found,
            tokens=rollouts.tokens.to(where),
            log_probs=rollouts.log_probs.to(where),
            valid=rollouts.valid.to(where),
        )
        branches = branches_of(here, same.predicting, True)
        labels = branch_labels(here, same, branches, config.temperature), row_labels(here)
        scored, text = policy.log_probs(policy.flat_hidden(here, branches), *labels)
        wanted = scored[labels[0].wanted]
        (wanted.sum() + text[labels[1].wanted].sum()).backward()
        gradient = torch.cat([p.grad.flatten().float().cpu() for p in policy.model.parameters() if p.grad is not None])
        made = phi.embeddings(here, same, reuse=True).rollout[found.valid[:, None].expand(same.tokens.shape[:3])]
        sides[side] = drawn.tokens.cpu(), wanted.detach().cpu(), gradient, made.detach().float().cpu()
        if device == "cpu":
            sides["again"] = sides["cpu"]
            break
    (tokens, scores, gradient, made), (tokens_2, scores_2, gradient_2, made_2) = sides.values()
    return {
        "largest_log_prob_difference": float((scores - scores_2).abs().max()),
        "gradient_cosine": _cosine(gradient, gradient_2),
        "gradient_norm_ratio": float(gradient_2.norm() / gradient.norm()),
        "feature_cosine": _cosine(made.flatten(), made_2.flatten()),
        "equal_rollouts": float((tokens == tokens_2).all(-1).float().mean()),
        "seconds": time.perf_counter() - started,
    }


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))


def step(record: Record, place: Place) -> None:
    """Whole steps of the 1.5 B shape: ours without reuse and with it, supervised, and the naive twin on one row."""
    _steps(record, place, place.model, ("ours", "sft", "reuse", "naive"))


def shapes(record: Record, place: Place) -> None:
    """The same of the other shapes, without the twin."""
    for name in place.others:
        _steps(_Nested(record, name), place, name, ("ours", "sft", "reuse"))


class _Nested(Record):
    """A part of another record."""

    def __init__(self, whole: Record, name: str) -> None:
        self.whole, self.name, self.found = whole, name, {}

    def __call__(self, **found: Any) -> None:
        self.found |= found
        self.whole(**{self.name: self.found})


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
    _forget(setting.device)
    before = _allocated(setting.device)
    racer, batch = contender(name, copy.deepcopy(model), setting), setting.rows(model, length)
    try:
        started = now_seconds(setting.device)
        racer.step(batch, 0)
        warm_up = now_seconds(setting.device) - started
        racer.step(batch, 1)
        _restart_peak(setting.device)
        graphs = counters["stats"]["unique_graphs"]
        costs = [racer.step(batch, 2 + turn) for turn in range(counted)]
    except torch.cuda.OutOfMemoryError as error:
        return {"out_of_memory": str(error)[:300]}
    runs = Runs.of(costs, racer, batch)
    seconds = [sum(cost.seconds.values()) for cost in costs]
    work = _work(name, model, setting, length, runs)
    return {
        "rows": setting.num_documents,
        "seconds": runs.seconds,
        "step_seconds": seconds,
        "warm_up_seconds": warm_up,
        "tokens": runs.tokens,
        "reused_share": runs.reused_share,
        "multiply_adds": work,
        "utilization": None if work is None else work / statistics.median(seconds) / peak,
        "peak_bytes": _peak(setting.device) - before,
        "graphs_after_warm_up": counters["stats"]["unique_graphs"] - graphs,
    }


def _work(name: str, model: PreTrainedModel, setting: Setting, length: int, runs: Runs) -> float | None:
    """Multiply-adds of a step; the twin's are not counted."""
    if name == "sft":
        return setting.num_documents * supervised_multiply_adds(Sizes.of(model), length)
    return arithmetic(model, setting, length, name, runs) if name in ("ours", "reuse") else None


def _forget(device: str) -> None:
    gc.collect()  # a watched method refers to itself
    if device == "cuda":
        torch.cuda.empty_cache()


def _restart_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _allocated(device: str) -> int:
    return torch.cuda.memory_allocated() if device == "cuda" else 0


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else 0


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
        held.append(_allocated(place.device))
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
    quantized = ["none", *(["nf4"] if place.device == "cuda" and _has("bitsandbytes") else [])]
    for kind in quantized:
        for name in ("sft", "ours"):
            config = config_of(setting, length, name, *shape, *lora, f"model.adapter.quantize={kind}")
            record(**{f"lora_{kind}_{name}": _held_by_lora(config, setting, length, name)})
    whole = config_of(setting, length, "ours", *shape)
    record(whole=_refused(whole, setting, length))


def _has(package: str) -> bool:
    return find_spec(package) is not None


def _refused(config: TrainConfig, setting: Setting, length: int) -> str:
    if setting.device != "cuda":
        return "asked of CUDA devices only"
    work = budget.workload(config, load_architecture(config.model), float(blocks_of(length)), "cuda")
    try:
        budget.check_room(config, work, 1)
    except UserError as error:
        return str(error)
    return "fits"


def _held_by_lora(config: TrainConfig, setting: Setting, length: int, name: str) -> dict[str, Any]:
    adapter = config.model.adapter
    assert isinstance(adapter, LoRAConfig)
    shape = load_architecture(config.model)
    work = budget.workload(config, shape, 0.0 if name == "sft" else float(blocks_of(length)), setting.device)
    planned = memory.unsharded(work)[1]
    _forget(setting.device)
    before = _allocated(setting.device)
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
    loaded = _peak(setting.device)
    _restart_peak(setting.device)
    started = now_seconds(setting.device)
    racer.step(batch, 1)
    return {
        "planned_bytes": planned,
        "planned_sum": sum(planned.values()),
        "peak_bytes": _peak(setting.device) - before,
        "first_peak_bytes": loaded - before,
        "seconds": now_seconds(setting.device) - started,
    }


def pieces(record: Record, place: Place) -> None:
    """Seconds of the parts of an update of two rows of the 1.5 B shape, forward and backward: attention of branches in
    its kernels' options and in chunks, layers, logits, optimiser."""
    setting = place.setting(place.model, num_documents=2)
    model = setting.build(place.length)
    policy = LanguageModel(model, setting.dtype)
    heads = model.config.num_attention_heads, model.config.num_key_value_heads
    head_dim = model.config.hidden_size // heads[0]
    batch = setting.rows(model, place.length).to(policy.device)
    sampler = setting.sampler(False)
    blocks = find_blocks(setting.rows(model, place.length), *_geometry(sampler)).to(policy.device)
    tokens = batch.tokens[:, None, None, :1].expand(
        -1, sampler.n_samples, blocks.anchors.shape[1], sampler.generate_length - 1
    )
    branches = make_branches(blocks, tokens)
    time_of = partial(_seconds, place.device)

    def attention_of(num_rows: int) -> Callable[[], None]:
        rows, dtype = batch.rows(0, num_rows), DTYPES[setting.dtype]
        own = branches.tokens.shape[1]
        sizes = (heads[0], own), (heads[1], place.length), (heads[1], place.length), (heads[1], own), (heads[1], own)
        query, *others = (
            torch.randn(num_rows, number, length, head_dim, device=policy.device, dtype=dtype, requires_grad=True)
            for number, length in sizes
        )
        tokens, anchors, steps = (x[:num_rows] for x in (branches.tokens, branches.anchors, branches.steps))
        cut = OwnTokens(tokens, anchors, steps, branches.reach, branches.depth)
        context = BranchContext.of(rows, cut, {0: (others[0], others[1])})
        weight = torch.randn(num_rows, own, heads[0], head_dim, device=policy.device, dtype=dtype)

        def run() -> None:
            out = context.attend(LayerAttention(0, head_dim**-0.5), query, others[2], others[3])
            (out * weight).sum().backward()

        return run

    record(attention=time_of(attention_of(2)), attention_of_one_row=time_of(attention_of(1)))
    with _instead(attention, FLEX_FROM=2**31):
        record(attention_in_chunks=time_of(attention_of(2)))
    row = policy.decoder.forward_rows(batch).detached()
    leaves = {layer: (key.requires_grad_(), value.requires_grad_()) for layer, (key, value) in row.cache.items()}

    def of_branches() -> None:
        policy.decoder.run(
            branches.tokens, branches.positions, BranchContext.of(batch, branches, leaves)
        ).sum().backward()

    def of_rows() -> None:
        policy.row_hidden(batch).sum().backward()

    hidden = torch.randn(
        2, branches.tokens.shape[1], model.config.hidden_size, device=policy.device, requires_grad=True
    )
    index = torch.arange(hidden.shape[1], device=policy.device).expand(2, -1)
    labels = Labels(index, torch.zeros_like(index), torch.ones_like(index, dtype=torch.bool), 0.6, index.numel())

    def of_logits() -> None:
        policy.log_probs(hidden, labels)[0].sum().backward()

    record(branches=time_of(of_branches), rows=time_of(of_rows), tokens=[branches.tokens.numel(), batch.tokens.numel()])
    for power in (25, 27, 28, 29):
        with _instead(policy_module, LOGITS_AT_A_TIME={"cpu": 2**power, "cuda": 2**power}):
            record(**{f"logits_2^{power}": time_of(of_logits)})
    with _instead(logprobs, FUSED=False):
        record(logits_unfused=time_of(of_logits))
    for number, kernel in enumerate(KERNELS):
        with _instead(flex, KERNEL_OPTIONS=kernel):
            try:
                record(**{f"kernel_{number}": {"options": kernel, **time_of(attention_of(2))}})
            except Exception as error:  # an option that this device or version does not take
                record(**{f"kernel_{number}": {"options": kernel, "error": str(error)[-300:]}})
    optimization = Optimization(OPTIMIZER, policy, 1)

    def of_optimizer() -> None:
        clip_gradients(optimization.parameters, 1.0)
        optimization.optimizer.step()

    record(optimizer=time_of(of_optimizer))
    policy.decoder.compile()
    record(compiled_branches=time_of(of_branches), compiled_rows=time_of(of_rows))


KERNELS: list[dict[str, int | bool]] = [
    {"BLOCKS_ARE_CONTIGUOUS": True},
    {"BLOCK_M1": 32, "BLOCK_N1": 64, "BLOCK_M2": 64, "BLOCK_N2": 32},
    {"BLOCK_M1": 64, "BLOCK_N1": 64, "BLOCK_M2": 64, "BLOCK_N2": 64},
    {"BLOCK_M1": 64, "BLOCK_N1": 128, "BLOCK_M2": 128, "BLOCK_N2": 64},
    {"bwd_num_warps": 8},
    {"bwd_num_stages": 2},
]


def _geometry(sampler: SamplerConfig) -> tuple[str, int, int, int]:
    return sampler.anchors, sampler.context_length, sampler.stride, sampler.generate_length


def _seconds(device: str, run: Callable[[], None], repetitions: int = 7) -> dict[str, float]:
    """Median of a few runs after two, the first of which compiles."""
    started = now_seconds(device)
    run()
    first = now_seconds(device) - started
    run()
    times = []
    for _ in range(repetitions):
        started = now_seconds(device)
        run()
        times.append(now_seconds(device) - started)
    return {"seconds": statistics.median(times), "first_seconds": first}


@contextmanager
def _instead(module: Any, **values: Any) -> Iterator[None]:
    """Other values of a module's constants inside the block."""
    before = {name: getattr(module, name) for name in values}
    try:
        for name, value in values.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def real(record: Record, place: Place) -> None:
    """Runs of `ebft-train` on a real model and real data, where `scripts/gpu_bundle.py --weights` brought them."""
    parts = sorted(WEIGHTS.glob("part.*"))
    if not parts:
        record(skipped="no weights travelled")
        return
    folder = record.path.parent / "real"
    folder.mkdir(exist_ok=True)
    model = folder / "model.gguf"
    with open(model, "wb") as whole:
        for part in parts:
            whole.write(part.read_bytes())
    (data,) = WEIGHTS.glob("*.jsonl.gz")
    for method in ("sft", "ebft"):
        run = folder / method
        settings = [f"method={method}", f"model.path={model}", f"data.path={data}", f"trainer.device={place.device}"]
        command = [sys.executable, "-m", "ebft.cli.train", *settings, *REAL_RUN, f"hydra.run.dir={run}"]
        subprocess.run(command, check=True, cwd=ROOT)
        record(**{method: json.loads((run / "summary.json").read_text(encoding="utf-8"))})


WEIGHTS = ROOT / ".gpu-weights"
REAL_RUN = [
    *("model=hf", "data=mbpp", "data.sequence_length=512", "data.bad_rows=drop", "data.drop_failing_references=false"),
    *("data.task=none", "trainer.max_steps=60", "trainer.batch_size=8", "trainer.micro_batch_size=8"),
    *("trainer.dtype=bf16", "optimizer.lr=1e-5", "eval=quick", "eval.num_documents=128", "eval.micro_batch_size=32"),
    "tracker=none",
]


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
            with _instead(attention, FLEX_FROM=least):
                record(**{f"{way}_{length}": raced("ours", model, here, length, peak=1.0, counted=2)})


STAGES: dict[str, Callable[[Record, Place], None]] = {
    stage.__name__: stage for stage in (machine, tests, parity, step, steady, held, real, pieces, lengths, shapes)
}
