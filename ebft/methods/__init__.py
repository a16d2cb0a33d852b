"""The methods: each file is one algorithm in the order of its paper; `build` chooses."""

from typing import Any

from ebft.config.methods import EBFTConfig, RLVRConfig, SFTConfig
from ebft.config.schema import MethodConfig
from ebft.methods.base import Ingredients, Loss, Method, differentiate
from ebft.methods.ebft import EBFT
from ebft.methods.rlvr import RLVR
from ebft.methods.sft import SFT

__all__ = ["Ingredients", "Loss", "Method", "build", "differentiate"]

CLASSES: dict[type[MethodConfig], Any] = {SFTConfig: SFT, RLVRConfig: RLVR, EBFTConfig: EBFT}


def build(ingredients: Ingredients) -> Method[Any]:
    """The method that `config.method` describes."""
    method: Method[Any] = CLASSES[type(ingredients.config.method)].of(ingredients)
    return method
