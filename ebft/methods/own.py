"""A user's own reward of feature vectors, and a user's own method, behind `file.py:Name`."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ebft.config import doors
from ebft.config.methods import OwnMethodConfig
from ebft.config.schema import MethodConfig, RunFailure, UserError
from ebft.methods.base import Counts, Ingredients, Loss, Tally
from ebft.types import Batch, Embeddings

Reward = Callable[[Embeddings], Float[Tensor, "B N K"]]

KEY = "method.reward"
RESERVED = ("loss", "grad_norm", "lr")  # figures of every method
PARTS = ("of", "prepare", "counts", "losses", "row_tokens", "metrics", "tokens_forwarded")  # of `base.Method`, and `of`


def own_reward(reference: str, device: str | torch.device) -> Reward:
    """A function of `Embeddings` to [B N K] that is checked whenever it is called, and has passed a trial on
    the run's device.

    Raises UserError, with the user's traceback where there is one, for what does not.
    """
    with torch.random.fork_rng(devices=[]):  # random weights in the file are the same in every run and resume
        torch.manual_seed(0)
        function = doors.load(reference, KEY)
    if isinstance(function, type) or not callable(function):
        kind = "a class" if isinstance(function, type) else type(function).__name__
        raise UserError(f"{KEY}={reference} is {kind}; it must be a function of Embeddings.")

    def checked(embeddings: Embeddings) -> Float[Tensor, "B N K"]:
        try:
            with torch.no_grad():
                reward = function(embeddings)
                reward = reward.to(embeddings.rollout.device) if isinstance(reward, Tensor) else reward
        except doors.FAULTS as error:
            raise RunFailure(doors.explained(error, f"{KEY}={reference} failed")) from error
        shape = embeddings.rollout.shape[:3]
        if not isinstance(reward, Tensor) or reward.shape != shape:
            returned = list(reward.shape) if isinstance(reward, Tensor) else type(reward).__name__
            raise RunFailure(f"{KEY}={reference} must return [B N K] = {list(shape)}, and returned {returned}.")
        if not reward.is_floating_point() or not bool(reward.isfinite().all()):
            found = "NaN or infinity" if reward.is_floating_point() else str(reward.dtype)
            raise RunFailure(f"{KEY}={reference} must return finite floating-point numbers, and returned {found}.")
        return reward.detach().float()

    draw = torch.Generator().manual_seed(0)
    rollout, reference_vectors = torch.randn(2, 3, 5, 7, generator=draw), torch.randn(2, 5, 7, generator=draw)
    normalize = torch.nn.functional.normalize
    trial = Embeddings(normalize(rollout, dim=-1).to(device), normalize(reference_vectors, dim=-1).to(device))
    before = [x._version for x in (trial.rollout, trial.reference)]
    try:
        checked(trial)
    except RunFailure as error:  # nothing runs yet
        raise UserError(str(error)) from error
    if before != [x._version for x in (trial.rollout, trial.reference)]:
        raise UserError(f"{KEY}={reference} writes into the embeddings that it is given; work on a copy.")
    return checked


def own_method(code: str) -> Any:
    """The class of a user's method, whose `Config` derives from OwnMethodConfig. Raises UserError for another."""
    cls = doors.load(code, "method.code")
    own_config(cls, code)
    if missing := [part for part in PARTS if not hasattr(cls, part)]:
        lacking = ", ".join(f"`{part}`" for part in missing)
        raise UserError(f"method.code={code} lacks {lacking}; docs/own.md says what each is for.")
    return cls


class OwnMethod:
    """A user's method as the loop sees it: what goes wrong in it ends the run with the user's traceback and one
    sentence, and what it hands on is what the loop expects."""

    def __init__(self, own: Any, code: str) -> None:
        self.own, self.code = own, code
        self._named_parts: set[str] = set()  # of losses so far

    def _must(self, rule: str) -> RunFailure:
        return RunFailure(f"method.code={self.code} must {rule}")

    @contextmanager
    def _guarded(self, part: str) -> Iterator[None]:
        """Raises RunFailure for an exception of the user's code; refusals of this program pass through."""
        try:
            yield
        except (RunFailure, UserError):
            raise
        except doors.FAULTS as error:
            raise RunFailure(doors.explained(error, f"method.code={self.code} failed in {part}")) from error

    def prepare(self, batch: Batch, step: int, is_only_microbatch: bool) -> Any:
        with self._guarded("prepare"):
            return self.own.prepare(batch, step, is_only_microbatch)

    def counts(self, prepared: Any) -> Counts:
        with self._guarded("counts"):
            found: Counts = self.own.counts(prepared)
        if not isinstance(found, dict) or not found:
            raise self._must("return {name: tensor of no dimensions} from counts, the denominators of its losses.")
        for name, count in found.items():
            if not isinstance(count, Tensor) or count.ndim:
                raise self._must(f"give counts[{name!r}] as a tensor of no dimensions.")
        return found

    def losses(self, prepared: Any, totals: Counts, max_tokens: int | None) -> Iterator[Loss]:
        end = object()
        with self._guarded("losses"):
            yielded = self.own.losses(prepared, totals, max_tokens)
            found = iter(yielded if isinstance(yielded, Iterable) else [yielded])
            loss: Any = next(found, None)  # one at least
        while loss is not end:
            self._check_loss(loss)
            yield loss
            with self._guarded("losses"):
                loss = next(found, end)

    def _check_loss(self, loss: Any) -> None:
        if not isinstance(loss, Loss) or loss.total.ndim or not loss.total.requires_grad:
            raise self._must("yield Loss(total, parts) in losses, total a tensor of no dimensions with a gradient.")
        if not isinstance(loss.parts, dict) or not all(
            isinstance(x, Tensor) and not x.ndim for x in loss.parts.values()
        ):
            raise self._must("yield Loss(total, parts) in losses, parts {name: tensor of no dimensions}.")
        self._check_names(loss.parts, "a part of its loss")
        self._named_parts |= loss.parts.keys()

    def _check_names(self, names: Collection[str], what: str, taken: Collection[str] = ()) -> None:
        if clash := [name for name in names if name in (*RESERVED, *taken)]:
            raise self._must(f"call {what} something other than {clash[0]}, which is another figure of the step.")

    def row_tokens(self, batch: Batch) -> list[int]:
        with self._guarded("row_tokens"):
            found: list[int] = self.own.row_tokens(batch)
        if not isinstance(found, list) or [type(count) for count in found] != [int] * len(batch):
            raise self._must("return a list of whole numbers from row_tokens, one for every row of the batch.")
        return found

    def metrics(self, prepared: list[Any]) -> dict[str, Tally]:
        with self._guarded("metrics"):
            found: dict[str, Tally] = self.own.metrics(prepared)
        if not isinstance(found, dict) or not all(isinstance(tally, Tally) for tally in found.values()):
            raise self._must("return {name: Tally.of(values, counted)} from metrics.")
        self._check_names(found, "a metric", self._named_parts)
        return found

    @property
    def tokens_forwarded(self) -> float:
        with self._guarded("tokens_forwarded"):
            return float(self.own.tokens_forwarded)


def build_own(given: Ingredients, code: str) -> OwnMethod:
    """Raises UserError, with the user's traceback, where it cannot be built."""
    cls = own_method(code)
    try:
        own = cls.of(given)
    except doors.FAULTS as error:
        raise UserError(doors.explained(error, f"method.code={code} cannot be built by `of`")) from error
    if missing := [part for part in PARTS[1:-1] if not hasattr(own, part)]:
        raise UserError(f"method.code={code}: `of` returned {type(own).__name__}, which has no `{missing[0]}`.")
    return OwnMethod(own, code)


def own_config(cls: Any, code: str) -> type[OwnMethodConfig]:
    """Raises UserError for a class without settings, and for settings that do not say what the method needs."""
    config = getattr(cls, "Config", None)
    if not isinstance(config, type) or not issubclass(config, OwnMethodConfig):
        raise UserError(
            f"method.code={code} has no Config that derives from OwnMethodConfig (ebft.config.methods); set it to the "
            "dataclass with the method's keys."
        )
    if "__annotations__" in vars(config) and "__dataclass_fields__" not in vars(config):
        raise UserError(f"method.code={code}: {config.__name__} is no dataclass; put @dataclass(frozen=True) above it.")
    if config.needs is MethodConfig.needs:
        raise UserError(f"method.code={code}: {config.__name__} does not say what it needs; give it a method `needs`.")
    return config
