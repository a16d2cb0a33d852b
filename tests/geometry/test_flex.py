"""Flex attention against softmax under the dense masks of `blocks.py`, and its lists of blocks against those masks
block by block.

Without CUDA the kernel computes all scores under the mask function, so that what it leaves out is checked here by
walking the lists as it does.
"""

from itertools import product

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn.attention.flex_attention import BlockMask, create_mask

from ebft.geometry.blocks import row_visible
from ebft.geometry.flex import BLOCK, FlexBranches, FlexRow, FlexSteps, bucket
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

B, d, U, SCALING = 2, 5, 3, 0.7
ROW_KEYS = 384  # 293 in whole blocks


def row_heads() -> tuple[Tensor, Tensor]:
    return random_heads(B, HEADS, LENGTH, d, seed=1), random_heads(B, HEADS, LENGTH, d, seed=2)


# The same attention

RULED = pytest.mark.parametrize(("window", "softcap"), RULES)
WINDOWS = pytest.mark.parametrize("window", [None, 2, 89, 149, 263])


@pytest.mark.slow
@RULED
@pytest.mark.parametrize("layout", ROWS)
def test_a_row_equals_the_dense_mask(layout: str, window: int | None, softcap: float | None) -> None:
    ids, query, (key, value) = row_ids(layout), random_heads(B, QUERY_HEADS, LENGTH, d), row_heads()
    out = FlexRow.of(ids, window).attend(query, key, value, SCALING, softcap)
    expected = dense_attention(query, key, value, row_visible(ids, window), SCALING, softcap)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@RULED
@pytest.mark.parametrize("kind", BRANCHES)
@pytest.mark.parametrize("layout", ROWS)
def test_branches_equal_the_dense_mask(layout: str, kind: str, window: int | None, softcap: float | None) -> None:
    ids, row = row_ids(layout), row_heads()
    branches = branches_in(ids, kind)
    width = branches.tokens.shape[1]
    query, own = (
        random_heads(B, QUERY_HEADS, width, d),
        [random_heads(B, HEADS, width, d, seed=seed) for seed in (1, 2)],
    )
    flex = FlexBranches.of(ids, branches.anchors, branches.steps, window)
    out = flex.attend(query, row, *own, SCALING, softcap)
    key, value = (torch.cat(pair, dim=2) for pair in zip(row, own, strict=True))
    expected = dense_attention(query, key, value, branches_mask(ids, branches, window), SCALING, softcap)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@RULED
@pytest.mark.parametrize("num_branches", [7, 131])
@pytest.mark.parametrize("layout", ROWS)
def test_steps_equal_the_dense_mask(layout: str, num_branches: int, window: int | None, softcap: float | None) -> None:
    ids, row = row_ids(layout), row_heads()
    anchors = anchors_in(ids, num_branches)
    keys, values = (random_heads(B, HEADS, num_branches, U, d, seed=seed) for seed in (1, 2))
    flex = FlexSteps.of(ids, anchors, U, window)
    key, value = (torch.cat([x, own.flatten(2, 3)], dim=2) for x, own in zip(row, (keys, values), strict=True))
    for step in range(U):
        query = random_heads(B, QUERY_HEADS, num_branches, d, seed=step)
        out = flex.attend(query, row, (keys, values), step, SCALING, softcap)
        mask = steps_mask(ids, anchors, U, step, window)
        expected = dense_attention(query, key, value, mask, SCALING, softcap)
        torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_branches_without_a_token() -> None:
    nothing = torch.zeros(B, 0, dtype=torch.long)
    out = FlexBranches.of(row_ids("plain"), nothing, nothing).attend(
        torch.zeros(B, QUERY_HEADS, 0, d), row_heads(), *torch.zeros(2, B, HEADS, 0, d), SCALING
    )
    assert out.shape == (B, 0, QUERY_HEADS, d)


@pytest.mark.slow
def test_wider_queries_and_keys_are_read_as_what_the_values_are() -> None:
    """Under autocast, rotary embeddings hand on fp32 beside values in bf16."""
    ids, query, (key, value) = row_ids("documents"), random_heads(B, QUERY_HEADS, LENGTH, d), row_heads()
    out = FlexRow.of(ids).attend(query, key, value.bfloat16(), SCALING)
    assert out.dtype == torch.bfloat16
    rounded = [x.bfloat16() for x in (query, key, value)]
    torch.testing.assert_close(out.double(), dense_attention(*rounded, row_visible(ids), SCALING), rtol=2e-2, atol=2e-2)


# The blocks that are read


def listed(counts: Tensor, indices: Tensor) -> Tensor:
    """[B, I, J]: what the lists of blocks name."""
    table = torch.zeros(indices.shape[0], *indices.shape[2:], dtype=torch.bool)
    for b, i in product(range(table.shape[0]), range(table.shape[1])):
        table[b, i, indices[b, 0, i, : counts[b, 0, i]].long()] = True
    return table


def over_blocks(mask: Tensor) -> Tensor:
    """[B, I, J, 128, 128]"""
    return mask.unflatten(2, (-1, BLOCK)).unflatten(1, (-1, BLOCK)).transpose(2, 3)


def in_whole_blocks(mask: Tensor, shape: tuple[int, int]) -> Tensor:
    """The dense mask [B, Q, S] as it should be walked: padding behind row keys, own keys and queries, which see key 0
    and nothing else."""
    whole = torch.zeros(len(mask), *shape, dtype=torch.bool)
    num_queries, num_own = mask.shape[1], mask.shape[2] - LENGTH
    whole[:, :num_queries, :LENGTH] = mask[:, :, :LENGTH]
    whole[:, :num_queries, ROW_KEYS : ROW_KEYS + num_own] = mask[:, :, LENGTH:]
    whole[:, num_queries:, 0] = True
    return whole


def check_blocks(blocks: BlockMask, mask: Tensor) -> None:
    """Every full block is full and not masked, every other block that is named is masked right, and no block is named
    for nothing."""
    expected = over_blocks(in_whole_blocks(mask, blocks.seq_lengths))
    partial, full = (
        listed(blocks.kv_num_blocks, blocks.kv_indices),
        listed(blocks.full_kv_num_blocks, blocks.full_kv_indices),
    )
    assert torch.equal(full, expected.all((3, 4)))
    assert torch.equal(partial, expected.any(4).any(3) & ~full)
    assert torch.equal(listed(blocks.q_num_blocks, blocks.q_indices), partial.mT)  # the lists that the backward walks
    assert torch.equal(listed(blocks.full_q_num_blocks, blocks.full_q_indices), full.mT)
    computed = over_blocks(create_mask(blocks.mask_mod, len(mask), None, *blocks.seq_lengths, device="cpu").squeeze(1))
    assert torch.equal(computed[partial], expected[partial])


@WINDOWS
@pytest.mark.parametrize("layout", ROWS)
def test_blocks_of_a_row(layout: str, window: int | None) -> None:
    ids = row_ids(layout)
    check_blocks(FlexRow.of(ids, window).mask, row_visible(ids, window))


@WINDOWS
@pytest.mark.parametrize("kind", BRANCHES)
@pytest.mark.parametrize("layout", ROWS)
def test_blocks_of_branches(layout: str, kind: str, window: int | None) -> None:
    ids = row_ids(layout)
    branches = branches_in(ids, kind)
    blocks = FlexBranches.of(ids, branches.anchors, branches.steps, window).mask
    check_blocks(blocks, branches_mask(ids, branches, window))


@pytest.mark.parametrize("layout", ROWS)
def test_blocks_of_steps_are_those_of_the_last(layout: str) -> None:
    ids = row_ids(layout)
    anchors = anchors_in(ids, 131)
    check_blocks(FlexSteps.of(ids, anchors, U).mask, steps_mask(ids, anchors, U, U - 1))


@pytest.mark.parametrize("num_branches", [131, 256])
@pytest.mark.parametrize("window", [2, 89, 149, 293])
def test_blocks_of_steps_behind_a_window_hold_at_every_step(window: int, num_branches: int) -> None:
    """Windows move while the lists stay: a block that some step sees is named, and one that is read without a mask is
    seen whole by all steps."""
    ids, num_steps = row_ids("documents"), 7
    anchors = anchors_in(ids, num_branches)
    flex = FlexSteps.of(ids, anchors, num_steps, window)
    full = listed(flex.mask.full_kv_num_blocks, flex.mask.full_kv_indices)
    named = listed(flex.mask.kv_num_blocks, flex.mask.kv_indices) | full
    whole = [
        over_blocks(in_whole_blocks(steps_mask(ids, anchors, num_steps, step, window), flex.mask.seq_lengths))
        for step in range(num_steps)
    ]
    assert torch.equal(full, torch.stack(whole).all(0).all((3, 4)))
    assert (named | ~torch.stack(whole).any(0).any(4).any(3)).all()


def test_blocks_by_hand() -> None:
    """Two documents of 256. Block 1 sees all of block 0; block 2 begins a document. Branches at 256, 384 and 512, of
    128 tokens each: the first has both blocks of document 0 whole, the second the first block of document 1, the third
    both, and every one its own tokens causally."""
    ids = torch.tensor([[0] * 256 + [1] * 256])
    row = FlexRow.of(ids).mask
    assert listed(row.full_kv_num_blocks, row.full_kv_indices).nonzero().tolist() == [[0, 1, 0], [0, 3, 2]]
    assert listed(row.kv_num_blocks, row.kv_indices).nonzero().tolist() == [[0, 0, 0], [0, 1, 1], [0, 2, 2], [0, 3, 3]]
    anchors, steps = torch.tensor([256, 384, 512]).repeat_interleave(128)[None], torch.arange(128).repeat(3)[None]
    branches = FlexBranches.of(ids, anchors, steps).mask
    assert listed(branches.full_kv_num_blocks, branches.full_kv_indices).nonzero().tolist() == [
        [0, 0, 0],
        [0, 0, 1],
        [0, 1, 2],
        [0, 2, 2],
        [0, 2, 3],
    ]
    assert listed(branches.kv_num_blocks, branches.kv_indices).nonzero().tolist() == [[0, 0, 4], [0, 1, 5], [0, 2, 6]]


def test_lists_of_blocks_are_dense_in_memory() -> None:
    """The kernels compute the place of a row of blocks from the heads' stride, of which there is one."""
    ids = row_ids("documents")
    branches = branches_in(ids, "sorted")
    for mask in (FlexRow.of(ids).mask, FlexBranches.of(ids, branches.anchors, branches.steps).mask):
        lists = [part for part in mask.as_tuple() if isinstance(part, Tensor)]
        assert len(lists) == 8
        assert all(part.dtype == torch.int32 and part.stride() == torch.empty(part.shape).stride() for part in lists)


# No waiting, no recompilation


def test_masks_are_built_without_reading_a_value() -> None:
    """Tensors of the meta device have none."""
    ids = row_ids("documents").to("meta")
    anchors = torch.ones(B, 401, dtype=torch.long, device="meta")
    for flex in (FlexRow.of(ids), FlexBranches.of(ids, anchors, anchors), FlexSteps.of(ids, anchors, U)):
        assert flex.mask.kv_indices.is_meta


def graphs_of_branches(width: int) -> int:
    """How many times flex attention is compiled for branches of so many tokens, with a head size that no other test
    has."""
    before = counters["stats"]["unique_graphs"]
    anchors = torch.full((B, width), 11)
    heads = [random_heads(B, num_heads, width, 7) for num_heads in (QUERY_HEADS, HEADS, HEADS)]
    row = random_heads(B, HEADS, LENGTH, 7), random_heads(B, HEADS, LENGTH, 7)
    FlexBranches.of(row_ids("plain"), anchors, torch.zeros_like(anchors)).attend(
        heads[0], row, heads[1], heads[2], SCALING
    )
    return counters["stats"]["unique_graphs"] - before


@pytest.mark.slow
def test_one_compilation_a_bucket() -> None:
    torch.compiler.reset()
    assert [graphs_of_branches(width) for width in (401, 512, 389, 257, 503, 400)] == [1, 0, 0, 1, 0, 0]


@pytest.mark.slow
def test_no_compilation_from_step_to_step() -> None:
    torch.compiler.reset()
    before, row = (
        counters["stats"]["unique_graphs"],
        (random_heads(B, HEADS, LENGTH, 11), random_heads(B, HEADS, LENGTH, 11)),
    )
    for num_branches in (131, 139):
        flex = FlexSteps.of(row_ids("plain"), anchors_in(row_ids("plain"), num_branches), U)
        own = random_heads(B, HEADS, num_branches, U, 11)
        for step in range(U):
            flex.attend(random_heads(B, QUERY_HEADS, num_branches, 11), row, (own, own), step, SCALING)
    assert counters["stats"]["unique_graphs"] == before + 1


@pytest.mark.parametrize(
    ("length", "padded"),
    [
        (0, 128),
        (1, 128),
        (128, 128),
        (129, 256),
        (401, 512),
        (513, 640),
        (897, 1024),
        (1024, 1024),
        (1025, 1280),
        (1537, 1792),
        (2049, 2560),
    ],
)
def test_bucket_by_hand(length: int, padded: int) -> None:
    assert bucket(length) == padded


def test_buckets_are_few_whole_blocks_and_little_padding() -> None:
    sizes = {length: bucket(length) for length in range(1, 8193)}
    assert all(size % BLOCK == 0 and length <= size < length + max(BLOCK, length / 4) for length, size in sizes.items())
    assert len(set(sizes.values())) == 20  # 8 up to 1024, then four an octave
