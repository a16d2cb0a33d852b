"""The compiled kernels of flex attention: results and gradients against softmax under dense masks, no recompilation, no
waiting for the device."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from ebft.geometry.blocks import row_visible
from ebft.geometry.flex import FlexBranches, FlexRow, FlexSteps
from tests.geometries import (
    BRANCHES,
    HEADS,
    LENGTH,
    QUERY_HEADS,
    ROWS,
    RULES,
    anchors_in,
    branches_in,
    branches_mask,
    random_heads,
    row_ids,
    steps_mask,
)
from tests.reference import dense_attention

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]  # what the compiler warns of is not ours
B, U, SCALING = 2, 3, 0.3
RULED = pytest.mark.parametrize(("window", "softcap"), RULES)
NUMBERS = pytest.mark.parametrize(
    ("dtype", "head_dim", "tolerance"), [(torch.float32, 40, 1e-4), (torch.bfloat16, 64, 2e-2)]
)


def heads(num_heads: int, length: int, head_dim: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """[B, H, length, d], laid out in memory as a model's projections are."""
    return random_heads(B, length, num_heads, head_dim, seed=seed).to("cuda", dtype).transpose(1, 2)


def check_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """The largest error, in units of the largest number."""
    assert actual.isfinite().all()
    assert (actual.double() - expected).abs().max() <= tolerance * expected.abs().max()


def check_with_gradients(
    fast: Callable[..., Tensor], slow: Callable[..., Tensor], inputs: list[Tensor], tolerance: float
) -> None:
    quick, exact = [x.detach().requires_grad_() for x in inputs], [x.detach().double().requires_grad_() for x in inputs]
    out, expected = fast(*quick), slow(*exact)
    check_close(out, expected, tolerance)
    weight = random_heads(*out.shape).to("cuda")
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    for x, y in zip(quick, exact, strict=True):
        assert x.grad is not None
        assert y.grad is not None
        check_close(x.grad, y.grad, tolerance)


@NUMBERS
@RULED
@pytest.mark.parametrize("layout", ROWS)
def test_a_row(
    layout: str, window: int | None, softcap: float | None, dtype: torch.dtype, head_dim: int, tolerance: float
) -> None:
    ids = row_ids(layout)
    inputs = [heads(number, LENGTH, head_dim, dtype, seed) for seed, number in enumerate((QUERY_HEADS, HEADS, HEADS))]
    flex, mask = FlexRow.of(ids.cuda(), window), row_visible(ids, window).cuda()
    check_with_gradients(
        lambda *x: flex.attend(*x, SCALING, softcap),
        lambda *x: dense_attention(*x, mask, SCALING, softcap),
        inputs,
        tolerance,
    )


@NUMBERS
@RULED
@pytest.mark.parametrize("kind", BRANCHES)
@pytest.mark.parametrize("layout", ROWS)
def test_branches(
    layout: str,
    kind: str,
    window: int | None,
    softcap: float | None,
    dtype: torch.dtype,
    head_dim: int,
    tolerance: float,
) -> None:
    ids = row_ids(layout)
    branches = branches_in(ids, kind)
    sizes = [(QUERY_HEADS, branches.tokens.shape[1]), *[(HEADS, LENGTH)] * 2, *[(HEADS, branches.tokens.shape[1])] * 2]
    inputs = [heads(*size, head_dim, dtype, seed) for seed, size in enumerate(sizes)]
    flex, mask = (
        FlexBranches.of(ids.cuda(), branches.anchors.cuda(), branches.steps.cuda(), window),
        branches_mask(ids, branches, window).cuda(),
    )

    def slow(query: Tensor, row_key: Tensor, row_value: Tensor, own_key: Tensor, own_value: Tensor) -> Tensor:
        key, value = torch.cat([row_key, own_key], dim=2), torch.cat([row_value, own_value], dim=2)
        return dense_attention(query, key, value, mask, SCALING, softcap)

    def fast(query: Tensor, row_key: Tensor, row_value: Tensor, own_key: Tensor, own_value: Tensor) -> Tensor:
        return flex.attend(query, (row_key, row_value), own_key, own_value, SCALING, softcap)

    check_with_gradients(fast, slow, inputs, tolerance)


@NUMBERS
@RULED
@pytest.mark.parametrize("layout", ROWS)
@torch.no_grad()
def test_steps(
    layout: str, window: int | None, softcap: float | None, dtype: torch.dtype, head_dim: int, tolerance: float
) -> None:
    ids, num_branches = row_ids(layout), 131
    anchors = anchors_in(ids, num_branches)
    row = heads(HEADS, LENGTH, head_dim, dtype, 1), heads(HEADS, LENGTH, head_dim, dtype, 2)
    own = [
        heads(HEADS, num_branches * U, head_dim, dtype, seed).contiguous().unflatten(2, (num_branches, U))
        for seed in (3, 4)
    ]
    key, value = (torch.cat([x, y.flatten(2, 3)], dim=2) for x, y in zip(row, own, strict=True))
    flex = FlexSteps.of(ids.cuda(), anchors.cuda(), U, window)
    for step in range(U):
        query = heads(QUERY_HEADS, num_branches, head_dim, dtype, 5 + step)
        mask = steps_mask(ids, anchors, U, step, window).cuda()
        expected = dense_attention(query, key, value, mask, SCALING, softcap)
        check_close(flex.attend(query, row, (own[0], own[1]), step, SCALING, softcap), expected, tolerance)


@contextmanager
def waiting_forbidden() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def run_branches(width: int, guard: AbstractContextManager[None]) -> None:
    """Forward and backward of branches of so many tokens, with a head size that no other test has."""
    ids, anchors = row_ids("plain").cuda(), torch.full((B, width), 11, device="cuda")
    sizes = (QUERY_HEADS, width), (HEADS, LENGTH), (HEADS, LENGTH), (HEADS, width), (HEADS, width)
    query, row_key, row_value, key, value = (heads(*size, 48, torch.bfloat16).requires_grad_() for size in sizes)
    with guard:
        flex = FlexBranches.of(ids, anchors, torch.zeros_like(anchors))
        flex.attend(query, (row_key, row_value), key, value, SCALING).sum().backward()


def test_one_kernel_a_bucket_and_no_waiting() -> None:
    before = counters["stats"]["unique_graphs"]
    for width in (401, 300):
        run_branches(width, nullcontext())  # compiling may wait
    for width in (512, 389, 257, 503, 384, 400):
        run_branches(width, waiting_forbidden())
    assert counters["stats"]["unique_graphs"] == before + 2


@torch.no_grad()
def test_one_kernel_for_all_steps() -> None:
    before, row = (
        counters["stats"]["unique_graphs"],
        [heads(HEADS, LENGTH, 48, torch.bfloat16, seed) for seed in (1, 2)],
    )
    for num_branches in (131, 139, 256):
        flex = FlexSteps.of(row_ids("plain").cuda(), anchors_in(row_ids("plain"), num_branches).cuda(), U)
        own = heads(HEADS, num_branches * U, 48, torch.bfloat16).contiguous().unflatten(2, (num_branches, U))
        for step in range(U):
            flex.attend(
                heads(QUERY_HEADS, num_branches, 48, torch.bfloat16, step), (row[0], row[1]), (own, own), step, SCALING
            )
    assert counters["stats"]["unique_graphs"] == before + 1
