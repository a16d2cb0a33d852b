"""Supervised fine-tuning against transformers' own loss."""

import pytest
import torch
from torch import Tensor

from ebft.cost.tokens import supervised
from ebft.methods import differentiate
from ebft.methods.sft import SFT
from ebft.types import Batch
from tests.helpers import LAYOUTS, T, optimiser_step, plain_model, policy_of, random_batch

BATCH = random_batch([*LAYOUTS["plain"], *LAYOUTS["padded"]])


def step(batch: Batch, size: int) -> tuple[float, dict[str, Tensor]]:
    _, values, gradients = optimiser_step(SFT(policy_of()), batch, size)
    return values["loss"].item(), gradients


@pytest.mark.parametrize("size", [1, 2, 4])
def test_loss_and_gradient_are_those_of_transformers_over_the_whole_batch(size: int) -> None:
    """Rows with 22, 22, 22 and 12 targets: a mean of micro-batch means would weigh the short row like a long one."""
    loss, gradients = step(BATCH, size)
    model = plain_model()
    expected = model(input_ids=BATCH.tokens, labels=BATCH.tokens.masked_fill(~BATCH.loss_mask, -100)).loss
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            gradients[name], parameter.grad, rtol=1e-4, atol=1e-5 * float(parameter.grad.abs().max()), msg=name
        )


def test_documents_of_a_packed_row_do_not_see_each_other() -> None:
    """Row 0 holds tokens 0-10 and 11-22 of two documents, whose losses alone have 10 and 11 targets; the seam predicts
    nothing."""
    batch = random_batch(LAYOUTS["documents"][:1])
    same = batch.document_ids[:, 1:] == batch.document_ids[:, :-1]
    batch.loss_mask[:, 0], batch.loss_mask[:, 1:] = False, same
    loss, _ = step(batch, 1)
    model, parts = plain_model(), (batch.tokens[:, :11], batch.tokens[:, 11:])
    with torch.no_grad():
        first, second = (model(input_ids=part, labels=part).loss.item() for part in parts)
    assert loss == pytest.approx((10 * first + 11 * second) / 21, rel=1e-5)


def test_announced_tokens_are_those_that_are_forwarded() -> None:
    method = SFT(policy_of())
    prepared = method.prepare(BATCH, 0, is_only_microbatch=False)
    differentiate(method, prepared, method.counts(prepared), None)
    assert supervised(T) == 69
    assert method.tokens_forwarded == 4 * 69
    assert method.metrics([prepared]) == {}
