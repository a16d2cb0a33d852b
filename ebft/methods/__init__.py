"""The methods: each file is one algorithm in the order of its paper; `build` chooses."""

from typing import Any

from ebft.config.methods import EBFTConfig, OwnMethodConfig, RLVRConfig, SFTConfig
from ebft.config.schema import MethodConfig
from ebft.methods.base import Ingredients, Loss, Method, differentiate
from ebft.methods.ebft import EBFT
from ebft.methods.own import build_own, own_method, own_reward
from ebft.methods.rlvr import RLVR
from ebft.methods.sft import SFT

__all__ = ["Ingredients", "Loss", "Method", "build", "check", "differentiate"]

CLASSES: dict[type[MethodConfig], Any] = {SFTConfig: SFT, RLVRConfig: RLVR, EBFTConfig: EBFT}


def build(ingredients: Ingredients) -> Method[Any]:
    """The method that `config.method` describes."""
    config = ingredients.config.method
    if isinstance(config, OwnMethodConfig):
        return build_own(ingredients, config.code)
    method: Method[Any] = CLASSES[type(config)].of(ingredients)
    return method


def check(config: MethodConfig, device: str) -> None:
    """Raises UserError for a user's own code that is no method or no reward; nothing else need be there yet."""
    if isinstance(config, OwnMethodConfig):
        own_method(config.code)
    if isinstance(config, EBFTConfig) and config.reward is not None:
        own_reward(config.reward, device)
