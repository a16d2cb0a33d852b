"""A user's own reward of feature vectors, and a user's own method, behind `file.py:Name`."""

from collections.abc import Callable, Iterator
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
PARTS = ("of", "prepare", "counts", "losses", "row_tokens", "metrics", "tokens_forwarded")  # of `base.Method`, and `of`


def own_reward(reference: str) -> Reward:
    """A function of `Embeddings` to [B N K] that is checked whenever it is called, and has passed a trial.

    Raises UserError, with the user's traceback where there is one, for what does not.
    """
    function = doors.load(reference, KEY)
    if not callable(function):
        raise UserError(f"{KEY}={reference} is {type(function).__name__}; it must be a function of Embeddings.")

    def checked(embeddings: Embeddings) -> Float[Tensor, "B N K"]:
        try:
            with torch.no_grad():
                reward = function(embeddings)
        except Exception as error:  # of the user's own code
            raise RunFailure(doors.explained(error, f"{KEY}={reference} failed")) from error
        shape = embeddings.rollout.shape[:3]
        if not isinstance(reward, Tensor) or reward.shape != shape:
            returned = list(reward.shape) if isinstance(reward, Tensor) else type(reward).__name__
            raise RunFailure(f"{KEY}={reference} must return [B N K] = {list(shape)}, and returned {returned}.")
        if not reward.is_floating_point() or not bool(reward.isfinite().all()):
            raise RunFailure(f"{KEY}={reference} must return finite floating-point numbers; it returned others.")
        return reward.detach()

    draw = torch.Generator().manual_seed(0)
    rollout, reference_vectors = torch.randn(2, 3, 5, 7, generator=draw), torch.randn(2, 5, 7, generator=draw)
    normalize = torch.nn.functional.normalize
    try:
        checked(Embeddings(normalize(rollout, dim=-1), normalize(reference_vectors, dim=-1)))
    except RunFailure as error:  # nothing runs yet
        raise UserError(str(error)) from error
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

    @contextmanager
    def _guarded(self, part: str) -> Iterator[None]:
        """Raises RunFailure for an exception of the user's code; refusals of this program pass through."""
        try:
            yield
        except (RunFailure, UserError):
            raise
        except Exception as error:
            raise RunFailure(doors.explained(error, f"method.code={self.code} failed in {part}")) from error

    def prepare(self, batch: Batch, step: int, is_only_microbatch: bool) -> Any:
        with self._guarded("prepare"):
            return self.own.prepare(batch, step, is_only_microbatch)

    def counts(self, prepared: Any) -> Counts:
        with self._guarded("counts"):
            found = dict(self.own.counts(prepared))
        for name, count in found.items():
            if not isinstance(count, Tensor) or count.ndim:
                raise RunFailure(f"method.code={self.code} must give counts[{name!r}] as a tensor of no dimensions.")
        return found

    def losses(self, prepared: Any, totals: Counts, max_tokens: int | None) -> Iterator[Loss]:
        with self._guarded("losses"):
            found = iter(self.own.losses(prepared, totals, max_tokens))
        while True:
            with self._guarded("losses"):
                loss = next(found, None)
            if loss is None:
                return
            if not isinstance(loss, Loss) or loss.total.ndim or not loss.total.requires_grad:
                raise RunFailure(
                    f"method.code={self.code} must yield Loss(total, parts) in losses, total a tensor of no dimensions "
                    "with a gradient."
                )
            yield loss

    def row_tokens(self, batch: Batch) -> list[int]:
        with self._guarded("row_tokens"):
            found: list[int] = self.own.row_tokens(batch)
        return found

    def metrics(self, prepared: list[Any]) -> dict[str, Tally]:
        with self._guarded("metrics"):
            found: dict[str, Tally] = self.own.metrics(prepared)
        return found

    @property
    def tokens_forwarded(self) -> float:
        with self._guarded("tokens_forwarded"):
            return float(self.own.tokens_forwarded)


def build_own(given: Ingredients, code: str) -> OwnMethod:
    """Raises UserError, with the user's traceback, where it cannot be built."""
    cls = own_method(code)
    try:
        return OwnMethod(cls.of(given), code)
    except Exception as error:  # of the user's own code
        raise UserError(doors.explained(error, f"method.code={code} cannot be built by `of`")) from error


def own_config(cls: Any, code: str) -> type[OwnMethodConfig]:
    """Raises UserError for a class without settings, and for settings that do not say what the method needs."""
    config = getattr(cls, "Config", None)
    if not isinstance(config, type) or not issubclass(config, OwnMethodConfig):
        raise UserError(
            f"method.code={code} has no Config that derives from OwnMethodConfig (ebft.config.methods); set it to the "
            "dataclass with the method's keys."
        )
    if config.needs is MethodConfig.needs:
        raise UserError(f"method.code={code}: {config.__name__} does not say what it needs; give it a method `needs`.")
    return config
