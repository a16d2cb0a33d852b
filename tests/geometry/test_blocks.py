"""The geometry against its definition, pair by pair and token by token (method.md section 2)."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ebft.cost import tokens as cost
from ebft.geometry import blocks
from ebft.geometry.blocks import (
    Branches,
    find_blocks,
    from_branches,
    make_branches,
    predictors,
    to_branches,
    token_places,
)
from ebft.types import Batch, Blocks
from tests.reference import (
    attention_rule,
    batch_of,
    dense_mask,
    find_blocks_loop,
    flat_places,
    flat_positions,
    flat_tokens,
    pack_loop,
)

generated = settings(derandomize=True, deadline=None, database=None, max_examples=60)


Rows = tuple[list[list[int]], list[list[bool]] | None]


def runs(draw: st.DrawFn, length: int) -> list[int]:
    """0 0 0 1 2 2 ..: which run every position belongs to."""
    lengths = draw(st.lists(st.integers(1, 11), min_size=length, max_size=length))
    return [run for run, repeats in enumerate(lengths) for _ in range(repeats)][:length]


@st.composite
def rows(draw: st.DrawFn, min_tokens: int = 2) -> Rows:
    """Document ids and perhaps completions of rows of documents and padding; strategies hand out plain lists, tests
    make the tensors."""
    row_length = draw(st.integers(min_tokens, 17))
    ids, completion = [], []
    for _ in range(draw(st.integers(1, 3))):
        num_real = draw(st.integers(0, row_length) | st.just(row_length))
        ids.append(runs(draw, num_real) + [-1] * (row_length - num_real))
        completion.append([run % 2 == 1 for run in runs(draw, row_length)])
    return ids, completion if draw(st.booleans()) else None


geometries = st.tuples(
    st.integers(1, 7), st.integers(1, 5), st.integers(1, 5)
)  # context_length, stride, generate_length
seeds = st.integers(0, 2**32 - 1)


def loose_branches(batch: Batch, seed: int, num_branches: int, width: int) -> Branches:
    """Branches with an anchor and a length each, in no order."""
    draw = torch.Generator().manual_seed(seed)
    (B, T), R, G = batch.tokens.shape, num_branches, width
    anchors = torch.randint(1, T + 1, (B, R), generator=draw)
    tokens = 1000 + torch.arange(B * R * G).reshape(B, R, G)
    return pack_loop(anchors, torch.randint(G + 1, (B, R), generator=draw), tokens)


def anchors_of(found: Blocks) -> list[list[int]]:
    return [anchors[valid].tolist() for anchors, valid in zip(found.anchors, found.valid, strict=True)]


def find(
    document_ids: list[int],
    context_length: int,
    stride: int,
    generate_length: int,
    completion: list[bool] | None = None,
) -> list[int]:
    """Anchors of a single row."""
    batch = batch_of([document_ids], None if completion is None else [completion])
    [row] = anchors_of(
        find_blocks(batch, "all" if completion is None else "completion", context_length, stride, generate_length)
    )
    return row


# Which blocks there are


@pytest.mark.parametrize(
    ("sequence_length", "context_length", "stride", "generate_length", "expected"),
    [
        (1024, 8, 8, 8, 127),
        (13, 4, 2, 4, 3),
        (12, 4, 2, 4, 3),
        (11, 4, 2, 4, 2),
        (8, 4, 2, 4, 1),
        (7, 4, 2, 4, 0),
        (2, 8, 8, 8, 0),
    ],
)
def test_num_blocks_by_hand(
    sequence_length: int, context_length: int, stride: int, generate_length: int, expected: int
) -> None:
    """The paper's code setting has 127; a T off the stride grid loses its tail, a row too short has none."""
    assert cost.num_blocks(sequence_length, context_length, stride, generate_length) == expected


@pytest.mark.slow
@pytest.mark.parametrize("anchors", ["all", "completion"])
@generated
@given(made=rows(), sizes=geometries)
def test_find_blocks_equals_the_loop_over_all_positions(anchors: str, made: Rows, sizes: tuple[int, int, int]) -> None:
    batch = batch_of(*made)
    found = find_blocks(batch, anchors, *sizes)
    assert anchors_of(found) == find_blocks_loop(batch, anchors, *sizes)
    assert found.anchors.shape[1] == max(1, max(len(row) for row in anchors_of(found)))
    assert len(found.reach) == found.anchors.shape[1]
    assert all(found.anchors[:, k].max() <= bound for k, bound in enumerate(found.reach))


@generated
@given(T=st.integers(2, 29), sizes=geometries)
def test_a_full_row_has_as_many_blocks_as_the_formula_says(T: int, sizes: tuple[int, int, int]) -> None:
    assert len(find([0] * T, *sizes)) == cost.num_blocks(T, *sizes)


def test_no_continuation_crosses_a_document_boundary() -> None:
    """Documents of 5 and 6 tokens: the block at 4 would run from the first into the second."""
    assert find([0] * 5 + [1] * 6, context_length=2, stride=2, generate_length=2) == [2, 6, 8]


def test_no_anchor_stands_exactly_on_a_boundary() -> None:
    """Its first token would be predicted by the last position of the document before."""
    assert find([0] * 4 + [1] * 5, context_length=2, stride=2, generate_length=2) == [2, 6]


def test_no_block_touches_padding() -> None:
    """Real tokens end at 7: the reference of the block at 6 would be part padding, and that of the block at 8 nothing
    else."""
    assert find([0] * 7 + [-1] * 4, context_length=2, stride=2, generate_length=2) == [2, 4]


@pytest.mark.parametrize("document_ids", [[0] * 3, [-1] * 11, [0, 0, 0] + [-1] * 8])
def test_a_row_without_a_block_has_one_invalid_placeholder(document_ids: list[int]) -> None:
    """A document too short for one block, or all padding, was a crash."""
    found = find_blocks(batch_of([document_ids]), "all", 2, 2, 2)
    assert found.valid.tolist() == [[False]]
    assert 0 <= found.anchors.item() <= len(document_ids)


def test_a_completion_has_its_own_grid() -> None:
    """Prompt of 3, completion of 6 at stride 2; the block at 7 + 2 would leave it."""
    assert find([0] * 11, 2, 2, 2, completion=[False] * 3 + [True] * 6 + [False] * 2) == [3, 5, 7]


def test_a_completion_that_starts_before_the_context_length_waits_for_it() -> None:
    assert find([0] * 11, 4, 3, 2, completion=[False] + [True] * 10) == [4, 7]


def test_a_row_without_a_completion_has_no_block() -> None:
    assert find([0] * 11, 2, 2, 2, completion=[False] * 11) == []


def test_completions_of_neighbouring_documents_are_two() -> None:
    """Plain text packed back to back is completion throughout: the second grid starts at its document's first token,
    which is no anchor itself."""
    assert find([0] * 4 + [1] * 7, 1, 2, 2, completion=[True] * 11) == [1, 6, 8]


@pytest.mark.slow
@generated
@given(made=rows(), length=st.integers(1, 4))
def test_fits_equals_the_loop_at_every_anchor(made: Rows, length: int) -> None:
    document_ids = batch_of(*made).document_ids
    B, T = document_ids.shape
    slow = [
        [a > 0 and a + length <= T and ids[a] >= 0 and len({*ids[a - 1 : a + length]}) == 1 for a in range(T + 1)]
        for ids in made[0]
    ]
    assert blocks.fits(document_ids, torch.arange(T + 1).repeat(B, 1), length).tolist() == slow


# Who sees whom


@pytest.mark.slow
@generated
@given(
    made=rows(),
    seed=seeds,
    num_branches=st.integers(1, 5),
    width=st.integers(0, 3),
    window=st.none() | st.integers(1, 7),
)
def test_mask_equals_the_definition(made: Rows, seed: int, num_branches: int, width: int, window: int | None) -> None:
    batch = batch_of(*made)
    branches = loose_branches(batch, seed, num_branches, width)
    assert torch.equal(dense_mask(batch, branches, window), attention_rule(batch, branches, window))


def test_a_window_by_hand() -> None:
    """Documents of 4 and 7 tokens, windows of 3. Row position 6 sees 4 to 6, position 5 its document's 4 and 5. A
    branch at 7 sees 5 and 6 with its first token, 6 with its second, and with its third its own three alone; one at 5,
    in front of which its document has one token, sees that with its first two."""
    ids = torch.tensor([[0] * 4 + [1] * 7])
    row = blocks.row_visible(ids, window=3)
    assert [row[0, i].nonzero().flatten().tolist() for i in (6, 5)] == [[4, 5, 6], [4, 5]]
    anchors, steps = torch.tensor([[7] * 4 + [5] * 3]), torch.tensor([[0, 1, 2, 3, 0, 1, 2]])
    of_row = blocks.prefix_visible(ids, anchors, steps, window=3)
    assert [seen.nonzero().flatten().tolist() for seen in of_row[0]] == [[5, 6], [6], [], [], [4], [4], []]
    own = blocks.own_visible(steps, lookback=0, window=3)
    assert [seen.nonzero().flatten().tolist() for seen in own[0, :4]] == [[0], [0, 1], [0, 1, 2], [1, 2, 3]]
    assert [blocks.first_own(step, 3) for step in range(5)] == [0, 0, 0, 1, 2]


@pytest.mark.parametrize("boundary", [3, 13])
def test_mask_of_a_rollout_equals_the_definition(boundary: int) -> None:
    """T = 13, N = 3, G = 5, anchors 2, 5, 8: with a boundary at 3 the block at 5 sees no token of the first
    document."""
    batch = batch_of([[0] * boundary + [1] * (13 - boundary), [0] * 11 + [-1] * 2])
    tokens = 100 + torch.arange(2 * 3 * 3 * 5).reshape(2, 3, 3, 5)
    branches = make_branches(
        Blocks(torch.tensor([[2, 5, 8]] * 2), torch.ones(2, 3, dtype=torch.bool), (2, 5, 8)), tokens
    )
    mask = dense_mask(batch, branches)
    assert torch.equal(mask, attention_rule(batch, branches))
    assert (
        mask[:, 13 + 20 : 13 + 27, 13 + 16 : 13 + 27] == blocks.own_visible(branches.steps[:, 20:27], lookback=4)
    ).all()
    first_token_of_block_1 = 13 + (1 * 3 + 0) * 5
    assert mask[0, first_token_of_block_1, :13].nonzero().flatten().tolist() == (
        [3, 4] if boundary == 3 else [0, 1, 2, 3, 4]
    )


@pytest.mark.slow
@generated
@given(made=rows(), seed=seeds)
def test_every_place_sees_itself_and_no_real_token_sees_padding(made: Rows, seed: int) -> None:
    """A query without a key is a NaN in the softmax."""
    batch = batch_of(*made)
    mask, T = dense_mask(batch, loose_branches(batch, seed, 3, 2)), batch.tokens.shape[1]
    assert mask.diagonal(dim1=1, dim2=2).all()
    padding = batch.document_ids == -1
    assert not (mask[:, :T, :T] & ~padding[:, :, None] & padding[:, None, :]).any()


# Which position predicts which token


@st.composite
def rollout_sizes(draw: st.DrawFn) -> tuple[str, tuple[int, int, int], int, int]:
    """anchors, (context_length, stride, generate_length), n_samples and the branches' width, which may leave out the
    last token."""
    small = st.integers(1, 3)
    context_length, stride, generate_length, n_samples = draw(st.tuples(small, small, st.integers(1, 5), small))
    anchors = draw(st.sampled_from(["all", "completion"]))
    return anchors, (context_length, stride, generate_length), n_samples, generate_length - draw(st.integers(0, 1))


def own_ids(found: Blocks, n_samples: int, steps: int) -> Tensor:
    """[B, N, K, G] continuations, every token with an id of its own."""
    shape = (len(found.anchors), n_samples, found.anchors.shape[1], steps)
    return 1000 + torch.arange(math.prod(shape)).reshape(shape)


def shorten(batch: Batch, found: Blocks, tokens: Tensor, width: int, seed: int) -> tuple[Tensor, Branches]:
    """Continuations that repeat the row for m tokens, m of each branch's own, and the branches that start behind
    them."""
    draw = torch.Generator().manual_seed(seed)
    B, N, K, G = tokens.shape
    tokens, own = tokens.clone(), torch.zeros(B, K * N, width, dtype=torch.long)
    shared, anchors, lengths = (torch.full((B, K * N), value) for value in (0, 1, 0))
    for b, n, k in product(range(B), range(N), range(K)):
        if found.valid[b, k]:
            a, m, r = int(found.anchors[b, k]), int(torch.randint(G + 1, (), generator=draw)), k * N + n
            tokens[b, n, k, :m] = batch.tokens[b, a : a + m]
            kept = tokens[b, n, k, m:][:width]
            shared[b, r], anchors[b, r], lengths[b, r], own[b, r, : len(kept)] = m, a + m, len(kept), kept
    return tokens, pack_loop(anchors, lengths, own, shared)


@pytest.mark.slow
@generated
@given(made=rows(min_tokens=5), sizes=rollout_sizes(), seed=seeds)
def test_every_token_is_predicted_from_its_own_history(
    made: Rows, sizes: tuple[str, tuple[int, int, int], int, int], seed: int
) -> None:
    """The predictor of step t sees the tokens of its document before the anchor and steps 0 .. t - 1 of its branch, at
    positions that end right before t's, also where a branch shares its first tokens with the row. Layout, positions,
    attention and predictors hold each other."""
    batch, (anchors, geometry, N, width) = batch_of(*made), sizes
    found = find_blocks(batch, anchors, *geometry)
    tokens, branches = shorten(batch, found, own_ids(found, N, geometry[2]), width, seed)
    places = predictors(blocks.block_branches(found.anchors, N), branches, batch.tokens.shape[1], tokens.shape[3])
    flat, positions, mask = flat_tokens(batch, branches), flat_positions(batch, branches), dense_mask(batch, branches)
    for b, n, k, g in product(*map(range, tokens.shape)):
        if not found.valid[b, k]:
            continue
        a, place = int(found.anchors[b, k]), int(places[b, k * N + n, g])
        document = [j for j in range(a) if batch.document_ids[b, j] == batch.document_ids[b, a - 1]]
        history = batch.tokens[b, document].tolist() + tokens[b, n, k, :g].tolist()
        assert positions[b, place] == a + g - 1
        assert flat[b, place] == history[-1]
        assert flat[b][mask[b, place]].tolist() == history


@pytest.mark.slow
@generated
@given(made=rows(min_tokens=5), sizes=rollout_sizes())
def test_a_label_stands_one_position_behind_its_predictor(
    made: Rows, sizes: tuple[str, tuple[int, int, int], int, int]
) -> None:
    """Branches that start at their block's anchor and carry all G tokens: a token's id leads to its place in the flat
    row. Blocks that do not exist have places too, for they are forwarded before they are masked."""
    batch, (anchors, geometry, N, _) = batch_of(*made), sizes
    found = find_blocks(batch, anchors, *geometry)
    tokens = own_ids(found, N, geometry[2])
    branches, T, G = make_branches(found, tokens), batch.tokens.shape[1], tokens.shape[3]
    flat, positions = flat_tokens(batch, branches), flat_positions(batch, branches)
    places, own_places = (
        from_branches(find(blocks.block_branches(found.anchors, N), branches, T, G), N)
        for find in (predictors, token_places)
    )
    owners = [flat_places(T, *row) for row in zip(branches.anchors.tolist(), branches.steps.tolist(), strict=True)]
    for b, n, k, g in product(*map(range, tokens.shape)):
        [label] = flat[b].eq(tokens[b, n, k, g]).nonzero().flatten().tolist()
        place, anchor = int(places[b, n, k, g]), int(found.anchors[b, k])
        assert own_places[b, n, k, g] == label
        assert owners[b][label] == (1 + k * N + n, g, anchor)
        assert positions[b, label] == anchor + g
        assert positions[b, place] == anchor + g - 1
        assert owners[b][place] == ((0, anchor - 1, anchor - 1) if g == 0 else (1 + k * N + n, g - 1, anchor))


# The flat row and back


def test_branches_are_block_major_and_come_back() -> None:
    """A plain reshape of [N, K] would give branch 1 to block 1 of sample 0; it is sample 1 of block 0."""
    x = torch.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)
    laid = to_branches(x)
    for b, n, k in product(range(2), range(3), range(5)):
        assert laid[b, k * 3 + n].tolist() == x[b, n, k].tolist()
    assert torch.equal(from_branches(laid, 3), x)
    assert torch.equal(blocks.block_branches(x[:, 0], 3), to_branches(x[:, :1].expand_as(x)))


def test_positions_by_hand() -> None:
    """Anchors 2 and 5, two samples, three tokens each."""
    branches = make_branches(
        Blocks(torch.tensor([[2, 5]]), torch.ones(1, 2, dtype=torch.bool), (2, 5)),
        torch.zeros(1, 2, 2, 3, dtype=torch.long),
    )
    assert flat_positions(batch_of([[0] * 7]), branches).tolist() == [[*range(7), 2, 3, 4, 2, 3, 4, 5, 6, 7, 5, 6, 7]]
    assert branches.reach == (*[2] * 6, *[5] * 6)
    assert branches.depth == (0, 1, 2) * 4
    assert branches.starts.tolist() == [[0, 3, 6, 9]]


def test_predictors_by_hand() -> None:
    """T = 7, one block at 2, four steps. A whole branch: row position 1, then its own three. One that shares a token:
    row positions 1 and 2, then its own two. One that shares three: row positions 1 to 4."""
    none, shared = torch.zeros(1, 3, 3, dtype=torch.long), torch.tensor([[0, 1, 3]])
    branches = pack_loop(torch.tensor([[2, 3, 5]]), torch.tensor([[3, 2, 0]]), none, shared)
    assert branches.steps.tolist() == [[0, 1, 2, 0, 1]]
    assert predictors(torch.tensor([[2, 2, 2]]), branches, 7, 4).tolist() == [
        [[1, 7, 8, 9], [1, 2, 10, 11], [1, 2, 3, 4]]
    ]
    assert token_places(torch.tensor([[2, 2, 2]]), branches, 7, 3).tolist() == [[[7, 8, 9], [2, 10, 11], [2, 3, 4]]]


def test_nothing_is_asked_to_say_a_beginning_of_sequence() -> None:
    """Rows of 11 begin with one, and a second document with another at 6: windows of 3 from anchor 2 on that hold it
    are 4, 5 and 6. A block may condition on it."""
    batch = batch_of([[0] * 11])
    starts = torch.zeros_like(batch.tokens, dtype=torch.bool)
    starts[0, [0, 6]] = True
    anchors = find_blocks(replace(batch, starts=starts), "all", context_length=1, stride=1, generate_length=3).anchors
    assert anchors.tolist() == [[1, 2, 3, 7, 8]]
    assert find_blocks(batch, "all", 1, 1, 3).anchors.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]


def test_a_batch_keeps_its_beginnings_in_rows_and_columns() -> None:
    batch = batch_of([[0] * 5, [0] * 5, [0] * 5])
    starts = torch.arange(15).view(3, 5) % 7 == 0
    cut = replace(batch, starts=starts).rows(1, 3).columns(3)
    assert cut.starts is not None
    assert cut.starts.tolist() == [[False, False, True], [False, False, False]]
