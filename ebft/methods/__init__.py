"""The methods: each file is one algorithm in the order of its paper; `build` chooses."""

from typing import Any

from ebft.config.methods import EBFTConfig, OwnMethodConfig, RLVRConfig, SFTConfig
from ebft.config.schema import MethodConfig
from ebft.methods.base import Ingredients, Loss, Method, differentiate
from ebft.methods.ebft import EBFT
from ebft.methods.own import own_method, own_reward
from ebft.methods.rlvr import RLVR
from ebft.methods.sft import SFT

__all__ = ["Ingredients", "Loss", "Method", "build", "check", "differentiate"]

CLASSES: dict[type[MethodConfig], Any] = {SFTConfig: SFT, RLVRConfig: RLVR, EBFTConfig: EBFT}


def build(ingredients: Ingredients) -> Method[Any]:
    """The method that `config.method` describes."""
    method: Method[Any] = _class(ingredients.config.method).of(ingredients)
    return method


def check(config: MethodConfig) -> None:
    """Raises UserError for a user's own code that is no method or no reward; nothing else need be there yet."""
    _class(config)
    if isinstance(config, EBFTConfig) and config.reward is not None:
        own_reward(config.reward)


def _class(config: MethodConfig) -> Any:
    return own_method(config.code) if isinstance(config, OwnMethodConfig) else CLASSES[type(config)]
