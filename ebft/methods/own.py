"""A user's own reward of feature vectors, and a user's own method, behind `file.py:Name`."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ebft.config import doors
from ebft.config.methods import OwnMethodConfig
from ebft.config.schema import MethodConfig, RunFailure, UserError
from ebft.types import Embeddings

Reward = Callable[[Embeddings], Float[Tensor, "B N K"]]

KEY = "method.reward"
PARTS = ("of", "prepare", "counts", "losses", "row_tokens", "metrics", "tokens_forwarded")  # of `base.Method`


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
        raise UserError(f"method.code={code} lacks {', '.join(missing)}; see the Method protocol in ebft.methods.base.")
    return cls


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
