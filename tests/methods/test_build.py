"""Each method's config builds its method."""

import pytest

from ebft.cli.compose import compose
from ebft.methods import Ingredients, build
from ebft.methods.ebft import EBFT
from ebft.methods.sft import SFT
from tests.helpers import phi_of, policy_of


@pytest.mark.parametrize(("name", "cls"), [("sft", SFT), ("ebft", EBFT)])
def test_a_config_builds_its_method(name: str, cls: type) -> None:
    config = compose([f"method={name}", "model=debug", "seed=5"])
    policy, phi = policy_of(), phi_of()
    method = build(Ingredients(config, policy, phi, stop_tokens=(2,)))
    assert type(method) is cls
    assert method.policy is policy
    if isinstance(method, EBFT):
        assert (method.phi, method.seed, method.stop_tokens) == (phi, 5, (2,))
        assert (method.config, method.sampler) == (config.method, config.sampler)
