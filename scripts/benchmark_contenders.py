"""What `benchmark.py` lets run against each other: whole optimiser steps through `ebft.train.optimization`, with
seconds and tokens by phase, and the peak of memory."""

import copy
import gc
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from benchmark_models import LIGHT, build, rows
from jaxtyping import Float, Int
from naive import NaiveEBFT, NaiveExperience
from torch import Tensor
from transformers import PreTrainedModel

from ebft.config.methods import EBFTConfig
from ebft.config.schema import FeaturesConfig, Needs, OptimizerConfig, SamplerConfig
from ebft.cost.tokens import num_blocks, of_row
from ebft.methods import Loss, Method
from ebft.methods.base import Counts, Tally
from ebft.methods.ebft import EBFT
from ebft.methods.sft import SFT
from ebft.models.feature_network import FeatureNetwork
from ebft.models.policy import LanguageModel
from ebft.run.profiling import now_seconds
from ebft.train.budget import MICRO_BATCHES_TOGETHER
from ebft.train.optimization import Optimization, micro_batches
from ebft.types import Batch

METHOD = EBFTConfig(
    "ebft", rl_coef=1.0, ce_coef=0.1, alignment_coef=1.0, diversity_coef=1.0, advantage="rloo", reward=None
)
SAMPLER = SamplerConfig("all", n_samples=4, stride=8, context_length=8, generate_length=8, temperature=0.6, reuse=False)
FEATURES = FeaturesConfig([0.25, 0.5, 0.75], "last_token", "joint", "none", "policy", None, "replicated")
OPTIMIZER = OptimizerConfig(1e-6, [0.9, 0.95], 1e-8, 0.0, 1.0, "constant", 0.0, None)
OURS = ("ours", "reuse")
UNIT = "unit"


def blocks_of(length: int) -> int:
    """Of a full row."""
    return num_blocks(length, SAMPLER.context_length, SAMPLER.stride, SAMPLER.generate_length)


@dataclass(frozen=True)
class Setting:
    """What all contenders have in common; plain values, which travel to another process."""

    model: str
    device: str
    dtype: str
    n_samples: int
    num_documents: int  # rows a step, one micro-batch where `max_tokens` allows it
    max_tokens: (
        int | None
    )  # that hold activations at a time, as trainer.max_tokens_per_microbatch; the twin takes no notice
    compile: bool  # the layers, as trainer.compile; the twin and the unit stay as they are
    threads: int

    def sampler(self, reuse: bool) -> SamplerConfig:
        return replace(SAMPLER, n_samples=self.n_samples, reuse=reuse)

    def is_one_micro_batch(self, length: int) -> bool:
        """Whether the loop leaves a step's rows together."""
        row_tokens = length + blocks_of(length) * self.n_samples * SAMPLER.generate_length
        return len(micro_batches([row_tokens] * self.num_documents, self.num_documents, self.max_tokens)) == 1

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.dtype == "bf16")

    def build(self, longest: int) -> PreTrainedModel:
        return build(self.model, longest + SAMPLER.generate_length, SAMPLER.temperature, self.device)

    def rows(self, model: PreTrainedModel, length: int) -> Batch:
        return rows(self.model, model.config.vocab_size, length, self.num_documents)


class Meter:
    """Seconds and tokens by phase, of the last step; what an inner phase takes is not the outer one's."""

    def __init__(self, method: Method[Any], device: str) -> None:
        self._method, self._device, self._open = method, device, list[str]()
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
        now = now_seconds(self._device), self._method.tokens_forwarded
        if self._open:
            self.seconds[self._open[-1]] += now[0] - self._last[0]
            self.tokens[self._open[-1]] += now[1] - self._last[1]
        self._last = now


@dataclass(frozen=True)
class Cost:
    """Of one step, by phase, and the figures that the step returned."""

    tokens: dict[str, float]
    seconds: dict[str, float]
    figures: dict[str, float]


class Contender:
    """A method with its optimiser, stepped on the same rows again and again."""

    def __init__(
        self, method: Method[Any], policy: LanguageModel, setting: Setting, watched: Sequence[tuple[Any, str, str]]
    ) -> None:
        self.method, self.optimization = method, Optimization(OPTIMIZER, policy, max_steps=1)
        self.setting, self.meter = setting, Meter(method, setting.device)
        for owner, function, phase in watched:
            self.meter.watch(owner, function, phase)

    def step(self, batch: Batch, step: int) -> Cost:
        self.meter.reset()
        with self.meter.phase("update"):
            figures = self.optimization.step(
                self.method, batch, step, self.setting.num_documents, self.setting.max_tokens
            )
        return Cost(dict(self.meter.tokens), dict(self.meter.seconds), figures)

    def formula(self, batch: Batch, reused_share: float) -> dict[str, float]:
        """Tokens by phase as in method.md section 9, where `reused_share` of the rollouts' tokens need no forward; of
        rows that are the step's only micro-batch not those of their forward in sampling."""
        length = batch.tokens.shape[1]
        blocks = blocks_of(length)
        per_row = announced(self.method, length, (1 - reused_share) * blocks, self.setting.is_one_micro_batch(length))
        return with_total({phase: len(batch) * tokens for phase, tokens in per_row.items()})


def announced(method: Any, row_length: int, num_blocks: float, row_is_kept: bool) -> dict[str, float]:
    """What a row with so many blocks costs in each phase."""
    if isinstance(method, NaiveEBFT):
        return method.tokens_per_row(row_length, num_blocks)
    if not isinstance(method, EBFT):
        return of_row(Needs(), 0, row_length, 0.0)
    assert isinstance(method.phi, FeatureNetwork)
    needs, n_samples = method.config.needs(method.sampler), method.sampler.n_samples
    return of_row(needs, n_samples, row_length, num_blocks, method.phi.decoder.depth, row_is_kept)


class PlainForward:
    """One forward of N copies of the rows with all logits: the unit of the other figures."""

    def __init__(self, model: PreTrainedModel, setting: Setting) -> None:
        self.model, self.setting = model, setting

    @torch.no_grad()
    def step(self, batch: Batch, step: int) -> Cost:
        copies = batch.tokens.repeat(self.setting.n_samples, 1).to(self.setting.device)
        start = now_seconds(self.setting.device)
        with self.setting.autocast():
            self.model(input_ids=copies, use_cache=False)
        return Cost({"forward": copies.numel()}, {"forward": now_seconds(self.setting.device) - start}, {})

    def formula(self, batch: Batch, reused_share: float) -> dict[str, float]:
        return with_total({"forward": self.setting.n_samples * batch.tokens.numel()})


class Twin(NaiveEBFT):
    """The naive twin on the product's device and in its precision."""

    def __init__(self, setting: Setting, policy: LanguageModel, phi: PreTrainedModel) -> None:
        super().__init__(METHOD, setting.sampler(False), FEATURES, policy, phi, seed=0)
        self.setting = setting
        if setting.dtype == "bf16":  # parameters only, as in the product
            for parameter in phi.parameters():
                parameter.data = parameter.data.to(torch.bfloat16)

    def prepare(self, batch: Batch, step: int, is_only_microbatch: bool) -> NaiveExperience:  # type: ignore[override]
        with torch.device(self.setting.device):
            return super().prepare(batch.to(torch.device(self.setting.device)), step)

    def sample(
        self, row: Tensor, anchors: Tensor, draws: Float[Tensor, "B N K G"]
    ) -> tuple[Int[Tensor, "B N K G"], Float[Tensor, "B N K G"]]:
        return super().sample(row, anchors, draws.to(row.device))

    def losses(self, prepared: NaiveExperience, totals: Counts, max_tokens: int | None) -> Iterator[Loss]:
        yield self.loss(prepared, totals)

    def row_tokens(self, batch: Batch) -> list[int]:
        return [0] * len(batch)

    def metrics(self, prepared: list[NaiveExperience]) -> dict[str, Tally]:  # type: ignore[override]
        return {}

    def logits(self, row: Tensor, anchors: Tensor, tokens: Int[Tensor, "B N K G"]) -> Float[Tensor, "B N S V"]:
        return super().logits(row, anchors, tokens).float()

    def forward(
        self, module: PreTrainedModel, row: Tensor, anchors: Tensor, tokens: Int[Tensor, "B N K G"], **settings: bool
    ) -> Any:
        with torch.device(self.setting.device), self.setting.autocast():
            return super().forward(module, row, anchors, tokens, **settings)


def contender(name: str, model: PreTrainedModel, setting: Setting) -> Contender | PlainForward:
    """Takes the model for itself."""
    model = model.to(setting.device)
    if name == UNIT:
        return PlainForward(model, setting)
    policy = LanguageModel(model, setting.dtype)
    if setting.compile and name != "naive":
        policy.decoder.compile()
    if name == "naive":
        twin = Twin(setting, policy, copy.deepcopy(model))
        return Contender(twin, policy, setting, [(twin, "prepare", "sampling"), (twin, "embeddings", "features")])
    return of_policy(name, policy, lambda: FeatureNetwork(copy.deepcopy(model), FEATURES, setting.dtype), setting)


def of_policy(name: str, policy: LanguageModel, phi_of: Callable[[], FeatureNetwork], setting: Setting) -> Contender:
    """Supervised fine-tuning, or ours with the feature network that `phi_of` makes."""
    if name == "sft":
        return Contender(SFT(policy), policy, setting, [])
    phi = phi_of()
    if setting.compile:
        phi.decoder.compile()
    method = EBFT(METHOD, setting.sampler(name == "reuse"), policy, phi, 0, (), MICRO_BATCHES_TOGETHER[setting.device])
    watched = [(method, "prepare", "sampling"), (policy, "kept_forward", "update"), (phi, "embeddings", "features")]
    return Contender(method, policy, setting, watched)


@dataclass(frozen=True)
class Runs:
    """What the steps of a contender came to: median seconds, and means of tokens and reused share, with the formula's
    tokens at that share."""

    seconds: dict[str, float]
    tokens: dict[str, float]
    formula: dict[str, float]
    reused_share: float | None

    @classmethod
    def of(cls, costs: Sequence[Cost], racer: Contender | PlainForward, batch: Batch) -> "Runs":
        shares = [cost.figures["reused_share"] for cost in costs if "reused_share" in cost.figures]
        share = statistics.mean(shares) if shares else None
        seconds = by_phase(statistics.median, [cost.seconds for cost in costs])
        return cls(
            seconds,
            by_phase(statistics.mean, [cost.tokens for cost in costs]),
            racer.formula(batch, share or 0.0),
            share,
        )


def by_phase(middle: Any, runs: Sequence[dict[str, float]]) -> dict[str, float]:
    totals = [with_total(run) for run in runs]
    return {phase: middle([run[phase] for run in totals]) for phase in totals[0]}


def with_total(phases: dict[str, float]) -> dict[str, float]:
    return phases | {"step": sum(phases.values())}


def race(
    names: Sequence[str], model: PreTrainedModel, setting: Setting, batch: Batch, repetitions: int
) -> dict[str, Runs]:
    """Each has its own copy of the same weights. Light models on a CPU step in turn, so that what else the machine does
    meets them alike; others come one after the other, because memory may not hold them all. A turn is two steps, of
    which the second counts: the first brings back what the others' turns drove out of memory and caches."""
    in_turn = setting.device == "cpu" and setting.model in LIGHT
    if len(names) > 1 and not in_turn:
        return {name: race([name], model, setting, batch, repetitions)[name] for name in names}
    racers = {name: contender(name, copy.deepcopy(model), setting) for name in names}
    costs = [{name: _turn(racer, batch, turn) for name, racer in racers.items()} for turn in range(repetitions)]
    runs = {name: Runs.of([cost[name] for cost in costs], racer, batch) for name, racer in racers.items()}
    del racers
    gc.collect()  # a watched method refers to itself
    return runs


def _turn(racer: Contender | PlainForward, batch: Batch, turn: int) -> Cost:
    racer.step(batch, 2 * turn)
    return racer.step(batch, 2 * turn + 1)


def tells_memory(setting: Setting) -> bool:
    """Of a CPU not where layers are compiled, for the compiler would count."""
    return setting.device == "cuda" or (sys.platform == "linux" and not setting.compile)


def peak_memory(name: str, model: PreTrainedModel, setting: Setting, length: int) -> int:
    """Bytes at the peak of two steps, the optimiser's state being there from the second on: weights, phi, gradients,
    moments and activations.

    Of a CUDA device what torch has allocated. Of a CPU the rise of resident memory in a process of its own, above what
    it holds after its imports; Linux alone tells.
    """
    if setting.device == "cuda":
        return _allocated_rise(name, model, setting, length)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(resident_rise, name, setting, length).result()


def _allocated_rise(name: str, model: PreTrainedModel, setting: Setting, length: int) -> int:
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    two_steps(name, copy.deepcopy(model), setting, length)
    return torch.cuda.max_memory_allocated() - before


def resident_rise(name: str, setting: Setting, length: int) -> int:
    torch.set_num_threads(setting.threads)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _resident("VmRSS")
    two_steps(name, setting.build(length), setting, length)
    return _resident("VmHWM") - before


def _resident(entry: str) -> int:
    found = re.search(rf"^{entry}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def two_steps(name: str, model: PreTrainedModel, setting: Setting, length: int) -> None:
    racer, batch = contender(name, model, setting), setting.rows(model, length)
    for step in range(2):
        racer.step(batch, step)
