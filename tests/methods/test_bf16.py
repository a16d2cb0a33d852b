"""A step in bf16 beside the same one in fp32, on the base that ships with the package."""

import pytest
import torch

from ebft.cli.compose import compose
from ebft.methods import differentiate
from ebft.train.setup import prepare

ROWS = [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "ebft"])
def test_the_gradient_of_a_step_is_that_of_fp32(method: str) -> None:
    """Of the same rollouts and rewards: off by 1.2 % of its length for SFT, by 1.6 % for EBFT."""
    fp32, bf16 = (
        prepare(compose(["data=translation", f"method={method}", f"trainer.dtype={dtype}"]))
        for dtype in ("fp32", "bf16")
    )
    made = fp32.method.prepare(fp32.batch(ROWS), 0, is_only_microbatch=False)
    gradients = []
    for setup in (fp32, bf16):
        differentiate(setup.method, made, setup.method.counts(made), None)
        gradients.append(torch.cat([p.grad.flatten() for p in setup.policy.model.parameters()]))
    exact, found = gradients
    assert (found - exact).norm() < 0.03 * exact.norm()
