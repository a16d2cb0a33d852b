"""The methods: each file is one algorithm in the order of its paper; `build` chooses."""

from typing import Any

from ebft.config.schema import EBFTConfig, RLVRConfig, SFTConfig, TrainConfig
from ebft.methods.base import Loss, Method, differentiate
from ebft.methods.ebft import EBFT
from ebft.methods.rlvr import RLVR
from ebft.methods.sft import SFT
from ebft.models.feature_network import FeatureNetwork
from ebft.models.policy import LanguageModel
from ebft.tasks.grader import Grader

__all__ = ["Loss", "Method", "build", "differentiate"]


def build(
    config: TrainConfig,
    policy: LanguageModel,
    phi: FeatureNetwork,
    stop_token: int | None,
    grader: Grader | None = None,
    reference: LanguageModel | None = None,
) -> Method[Any]:
    """The method that `config.method` describes. `stop_token` ends a branch; None lets it run on. RLVR needs a grader
    of its questions."""
    if isinstance(config.method, SFTConfig):
        return SFT(policy)
    if isinstance(config.method, RLVRConfig):
        assert grader is not None
        return RLVR(config.method, config.sampler, policy, reference, grader, config.seed)
    assert isinstance(config.method, EBFTConfig), config.method
    return EBFT(config.method, config.sampler, policy, phi, config.seed, stop_token)
