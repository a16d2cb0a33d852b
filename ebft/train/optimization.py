"""One optimiser step over micro-batches, the schedule, and the running average of the weights."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn
from torch.autograd.profiler import record_function
from torch.optim.lr_scheduler import LambdaLR

from ebft.config.schema import OptimizerConfig
from ebft.methods import Method, differentiate
from ebft.methods.base import Counts, Cut, Tally, prepare_all
from ebft.models.policy import LanguageModel
from ebft.parallel.fsdp import clip_gradients, is_sharded, named_tensors
from ebft.parallel.world import SINGLE_PROCESS, World
from ebft.run import tensors as stored
from ebft.types import Batch

MODEL, MOMENTS, AVERAGE = "model.", "optimizer.", "average."  # what the names of stored tensors begin with


class NonFiniteError(RuntimeError):
    """A loss or gradient became infinite or not a number."""


def micro_batches(row_tokens: list[int], max_rows: int, max_tokens: int | None) -> list[Cut]:
    """Cuts of a batch, first row and the one behind the last: as many rows as both limits allow, each counted like
    their longest; at least one."""
    cuts, start = [], 0
    for stop in range(1, len(row_tokens) + 1):
        rows = stop + 1 - start
        full = stop == len(row_tokens) or rows > max_rows
        if full or (max_tokens is not None and rows * max(row_tokens[start : stop + 1]) > max_tokens):
            cuts.append((start, stop))
            start = stop
    return cuts


def rate_factor(config: OptimizerConfig, max_steps: int) -> Callable[[int], float]:
    """Step, counted from 0 -> its share of optimizer.lr, above 0 for each of `max_steps` steps.

    The shares are those of transformers' `get_scheduler` (whose module takes seconds to import), where there is a
    warm-up one step ahead: it begins a warm-up of w steps with 0, i / w, ours with (i + 1) / w and is as much longer,
    and without one a decay still has something left at its last step.
    """
    warmup = math.ceil(config.warmup_fraction * max_steps)
    ahead = 1 if warmup else 0

    def factor(step: int) -> float:
        place = step + ahead
        if config.schedule == "constant":
            return 1.0
        if place < warmup:
            return place / warmup
        done = (place - warmup) / max(1, max_steps + ahead - warmup)
        decays = {"constant_with_warmup": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
        return max(0.0, decays[config.schedule])

    return factor


class Average:
    """Running average of a module's parameters, decay * average + (1 - decay) * weights after every step; the first
    step's weights begin it."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        self.weights: dict[str, torch.Tensor] = {}  # none before the first step

    @torch.no_grad()
    def update(self) -> None:
        for name, parameter in self.module.named_parameters():
            if name in self.weights:
                self.weights[name].lerp_(parameter, 1 - self.decay)
            else:
                self.weights[name] = parameter.clone()

    def swap(self) -> dict[str, torch.Tensor]:
        """Give the module its average, if there is one yet. Returns what it had."""
        own = {name: parameter.detach().clone() for name, parameter in self.module.named_parameters()}
        self.put_back(self.weights)
        return own

    @torch.no_grad()
    def put_back(self, weights: dict[str, torch.Tensor]) -> None:
        for name, parameter in self.module.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])


class Optimization:
    """AdamW, its schedule and the optional weight average of one run."""

    def __init__(
        self, config: OptimizerConfig, policy: LanguageModel, max_steps: int, world: World = SINGLE_PROCESS
    ) -> None:
        self.config, self.policy, self.world = config, policy, world
        self.parameters = [parameter for parameter in policy.trained.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=config.lr,
            betas=(config.betas[0], config.betas[1]),
            eps=config.eps,
            weight_decay=config.weight_decay,
        )
        self.schedule = LambdaLR(self.optimizer, rate_factor(config, max_steps))
        self.average = None if config.ema_decay is None else Average(policy.trained, config.ema_decay)

    def step(
        self, method: Method, batch: Batch, step: int, micro_batch_size: int, max_tokens: int | None
    ) -> dict[str, float]:
        """Prepare every micro-batch, add up the denominators, differentiate, clip, update. Raises NonFiniteError before
        anything changes.

        `batch` is this process's share of the optimiser batch; denominators, gradients and figures are those of the
        whole. A micro-batch has at most `micro_batch_size` rows, and `max_tokens` with all their rollouts if it has
        several rows.
        """
        row_tokens = method.row_tokens(batch)
        if max_tokens is not None:  # all processes cut alike
            row_tokens = self.world.all_reduce_max(row_tokens)
        cuts = micro_batches(row_tokens, micro_batch_size, max_tokens)
        values = self._differentiate(method, batch, cuts, step, max_tokens)
        with record_function("optimizer"):
            self._update(values)
        return values

    def _differentiate(
        self, method: Method, batch: Batch, cuts: list[Cut], step: int, max_tokens: int | None
    ) -> dict[str, float]:
        """Leaves clipped gradients, and nothing else of the micro-batches. Returns their figures."""
        self.policy.model.train()
        with record_function("prepare"):
            prepared = prepare_all(method, batch, cuts, step)
        totals = self._totals([method.counts(part) for part in prepared])
        losses: dict[str, torch.Tensor] = {}
        with record_function("update"):
            for part in prepared:
                for name, value in differentiate(method, part, totals, max_tokens).items():
                    losses[name] = losses.get(name, 0) + value
            self.world.all_reduce_gradients(
                x for x in self.parameters if not is_sharded(x)
            )  # shards have added up on the way
        norm = clip_gradients(self.parameters, self.config.max_grad_norm)
        return self._figures(losses, norm, method.metrics(prepared))

    def _totals(self, counts: list[Counts]) -> Counts:
        """The denominators and other sums, added up over all micro-batches of all processes; whole numbers stay so."""
        sums = self.world.all_reduce(torch.stack([torch.stack([*count.values()]) for count in counts]).sum(0))
        return {name: total.to(counts[0][name].dtype) for name, total in zip(counts[0], sums, strict=True)}

    def _figures(
        self, losses: dict[str, torch.Tensor], norm: torch.Tensor, tallies: dict[str, Tally]
    ) -> dict[str, float]:
        """The step's figures over the whole optimiser batch; the only time in a step that the program waits for the
        device, rollouts aside."""
        shares = torch.cat([torch.stack([*losses.values()]).double(), *(tally.sums for tally in tallies.values())])
        *sums, grad_norm = torch.cat([self.world.all_reduce(shares), norm[None]]).tolist()
        values = dict(zip(losses, sums, strict=False)) | {"grad_norm": grad_norm}
        for place, (name, tally) in enumerate(tallies.items()):
            figure = tally.figure(*sums[len(losses) + 3 * place :][:3])
            if figure is not None:
                values[name] = figure
        return values

    def _update(self, values: dict[str, float]) -> None:
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            raise NonFiniteError(", ".join(f"{name} is {values[name]}" for name in broken))
        values["lr"] = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        if self.average is not None:
            self.average.update()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The policy with its averaged weights, if there is an average; its own come back afterwards."""
        if self.average is None:
            yield
            return
        own = self.average.swap()
        try:
            yield
        finally:
            self.average.put_back(own)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights, moments and average by name, or this process's shards of them."""
        found = {f"{MODEL}{name}": value for name, value in named_tensors(self.policy.trained).items()}
        for name, parameter in self.policy.trained.named_parameters():
            found |= {f"{MOMENTS}{name}.{key}": value for key, value in self.optimizer.state.get(parameter, {}).items()}
        return found | {
            f"{AVERAGE}{name}": value for name, value in ({} if self.average is None else self.average.weights).items()
        }

    def state(self) -> dict[str, Any]:
        """The rest, which is small."""
        return {"schedule": self.schedule.state_dict(), "averages": self.average is not None}

    def restore(self, state: dict[str, Any], folder: Path) -> None:
        """Weights, moments and the place in the schedule come from a checkpoint, every setting from the config: a run
        may have become longer."""
        there = stored.shapes(folder)
        for name, parameter in self.policy.trained.named_parameters():
            if f"{MOMENTS}{name}.exp_avg" in there:
                moments = {key: torch.zeros_like(parameter, requires_grad=False) for key in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[parameter] = {"step": torch.tensor(0.0)} | moments
            if self.average is not None and f"{AVERAGE}{name}" in there:
                self.average.weights[name] = torch.zeros_like(parameter, requires_grad=False)
        stored.read_into(folder, self.tensors(), self.world)
        self.schedule.last_epoch = state["schedule"]["last_epoch"]
        for group, factor in zip(self.optimizer.param_groups, self.schedule.lr_lambdas, strict=True):
            group["lr"] = group["initial_lr"] * factor(self.schedule.last_epoch)

    def load_weights(self, folder: Path) -> None:
        """The weights, and the average if there was one, of another step of this run, to be exported: moments and
        schedule stay, so nothing can be trained from here."""
        there = stored.shapes(folder)
        if self.average is not None:
            names = [name for name in self.average.weights if f"{AVERAGE}{name}" in there]
            self.average.weights = {name: self.average.weights[name] for name in names}
        weights = {name: value for name, value in self.tensors().items() if not name.startswith(MOMENTS)}
        stored.read_into(folder, weights, self.world)


def save_batch(batch: Batch, file: BinaryIO) -> None:
    """Keep the batch that broke a run, for a look at it."""
    torch.save({name: getattr(batch, name) for name in Batch.__dataclass_fields__}, file)
