"""Attention by branches against transformers' own attention under a dense mask over the whole flat row (method.md
sections 2 and 9)."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ebft.geometry import chunked
from ebft.geometry.attention import BranchContext, LayerAttention, RowContext, StepContext
from ebft.geometry.blocks import Branches, make_branches
from ebft.geometry.chunked import CHUNK_BRANCHES
from ebft.models.policy import LanguageModel
from ebft.types import Batch, Blocks
from tests.helpers import (
    FAMILIES,
    LAYOUTS,
    VOCABULARY,
    T,
    geometry,
    plain_model,
    policy_of,
    random_batch,
    random_rollout,
)
from tests.reference import batch_of, dense_mask, flat_positions, flat_tokens, pack_loop

R, G = 11, 3


LAYER = LayerAttention(0, scaling=1.0)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks, the last one shorter, and beginning inside branches where those have different lengths."""
    monkeypatch.setattr(chunked, "CHUNK_BRANCHES", 2)


def ragged_branches(batch: Batch, lengths: int = 0) -> Branches:
    """Every branch has an anchor and a length of its own, others in every row, in no order."""
    draw = torch.Generator().manual_seed(1)
    last = (batch.document_ids >= 0).sum(1, keepdim=True)
    anchors = 1 + (torch.rand(len(batch), R, generator=draw) * last).long()
    tokens = torch.randint(VOCABULARY, (len(batch), R, G), generator=draw)
    return pack_loop(anchors, torch.randint(lengths, G + 1, anchors.shape, generator=draw), tokens)


def dense_hidden(model: PreTrainedModel, batch: Batch, branches: Branches) -> Tensor:
    mask = torch.where(dense_mask(batch, branches), 0.0, -torch.inf)[:, None]
    tokens, positions = flat_tokens(batch, branches), flat_positions(batch, branches)
    return model.base_model(
        input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state


def read_somewhere(batch: Batch, branches: Branches) -> Tensor:
    """Places of the flat row that are not padding: what a padding position computes, nothing reads."""
    return torch.cat([batch.document_ids >= 0, torch.ones_like(branches.tokens, dtype=torch.bool)], dim=1)


def gradients(model: PreTrainedModel, hidden: Tensor) -> dict[str, Tensor]:
    weight = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))
    (hidden * weight).sum().backward()
    return {
        name: parameter.grad for name, parameter in model.base_model.named_parameters() if parameter.grad is not None
    }


@pytest.mark.slow
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_flat_row_equals_the_dense_mask_in_hidden_states_and_gradients(family: str, layout: str) -> None:
    batch = random_batch(LAYOUTS[layout])
    branches = ragged_branches(batch)
    model, policy = plain_model(family), policy_of(family)
    real = read_somewhere(batch, branches)
    expected, hidden = dense_hidden(model, batch, branches)[real], policy.flat_hidden(batch, branches)[real]
    torch.testing.assert_close(hidden, expected, rtol=1e-4, atol=1e-4)
    slow, fast = gradients(model, expected), gradients(policy.model, hidden)
    assert fast.keys() == slow.keys()
    for name, gradient in slow.items():
        torch.testing.assert_close(fast[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()), msg=name)


@pytest.mark.slow
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_one_token_at_a_time_over_cached_keys_equals_the_flat_row(family: str, layout: str) -> None:
    batch = random_batch(LAYOUTS[layout])
    branches, policy = ragged_branches(batch, lengths=G), policy_of(family)
    anchors, tokens = (x.unflatten(1, (R, G)) for x in (branches.anchors, branches.tokens))
    blocks = Blocks(anchors[..., 0], torch.ones(len(batch), R, dtype=torch.bool), branches.reach[::G])
    with torch.no_grad():
        row, own = policy.flat_hidden(batch, branches).tensor_split([T], dim=1)
        prefilled, context = policy.prefill(batch, blocks, 1, G)
        torch.testing.assert_close(prefilled, row, rtol=1e-4, atol=1e-5)
        for step in range(G):
            hidden = policy.step_hidden(tokens[:, :, step], blocks.anchors, context)
            torch.testing.assert_close(hidden, own.unflatten(1, (R, G))[:, :, step], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("small_chunks")
def test_branches_leave_and_part_between_two_tokens() -> None:
    """Two steps of three branches, then branch 2 alone goes on, twice, with different tokens."""
    batch, policy = random_batch(LAYOUTS["documents"]), policy_of()
    anchors, tokens = (
        torch.tensor([[3, 7, 13], [2, 5, 11]]),
        torch.randint(VOCABULARY, (2, 3, 3), generator=torch.Generator().manual_seed(7)),
    )
    parents = torch.tensor([[2, 2], [2, 2]])
    grown = tokens.take_along_dim(parents[..., None], dim=1)
    grown[:, 1, 2] = (grown[:, 0, 2] + 1) % VOCABULARY
    with torch.no_grad():
        _, context = policy.prefill(batch, Blocks(anchors, torch.ones(2, 3, dtype=torch.bool), (3, 7, 13)), 1, 3)
        for step in range(2):
            policy.step_hidden(tokens[:, :, step], anchors, context)
        context.regroup(anchors.gather(1, parents), parents)
        hidden = policy.step_hidden(grown[:, :, 2], anchors.gather(1, parents), context)
        separate = branch_hidden(
            policy, batch, pack_loop(anchors.gather(1, parents), torch.full_like(parents, 3), grown)
        )
    torch.testing.assert_close(hidden, separate[:, [2, 5]], rtol=1e-4, atol=1e-5)


def test_a_row_whose_rollouts_have_no_token_of_their_own_is_a_row() -> None:
    batch, policy = random_batch(LAYOUTS["documents"]), policy_of()
    nothing = pack_loop(
        torch.ones(2, 1, dtype=torch.long), torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 1, 1, dtype=torch.long)
    )
    with torch.no_grad():
        assert torch.equal(policy.flat_hidden(batch, nothing), policy.row_hidden(batch))


def branch_hidden(policy: LanguageModel, batch: Batch, branches: Branches) -> Tensor:
    with torch.no_grad():
        return policy.flat_hidden(batch, branches)[:, T:]


@pytest.mark.usefixtures("small_chunks")
def test_a_branch_does_not_move_when_another_branch_does() -> None:
    batch, policy = random_batch(LAYOUTS["documents"]), policy_of()
    branches = ragged_branches(batch, lengths=G)
    before = branch_hidden(policy, batch, branches)
    tokens = branches.tokens.clone()
    tokens[:, 4 * G : 5 * G] = (tokens[:, 4 * G : 5 * G] + 1) % VOCABULARY
    after = branch_hidden(policy, batch, replace(branches, tokens=tokens))
    moved = (after - before).abs().amax((0, 2)).unflatten(0, (R, G))
    assert (moved[[r for r in range(R) if r != 4]] == 0).all()
    assert moved[4].min() > 0.1


def test_a_branch_sees_text_before_its_anchor_and_none_behind() -> None:
    """Block k conditions on tokens[:a_k]; its own reference, which starts at the anchor, must stay hidden from it."""
    batch, policy = random_batch(LAYOUTS["plain"]), policy_of()
    config = geometry(generate_length=G)
    blocks = random_rollout(batch, config).blocks
    branches = make_branches(blocks, random_rollout(batch, config).tokens)
    before = branch_hidden(policy, batch, branches)
    anchor = 12  # of block 2: anchors are 2, 7, 12, 17
    for changed, moved in ((anchor, False), (anchor - 1, True)):
        tokens = batch.tokens.clone()
        tokens[:, changed] = (tokens[:, changed] + 1) % VOCABULARY
        difference = (
            (branch_hidden(policy, replace(batch, tokens=tokens), branches) - before)
            .abs()
            .amax((0, 2))
            .unflatten(0, (-1, G))
            .amax(1)
        )
        touched = [r for r in range(len(difference)) if difference[r] > 0]
        assert touched == list(range(6 if moved else 9, 12))


def test_a_chunk_of_branches_reads_the_row_no_further_than_its_largest_anchor() -> None:
    """Values beyond it are poisoned: a masked weight of 0 times NaN would be NaN."""
    num_branches, row_length = 2 * CHUNK_BRANCHES, 2 * CHUNK_BRANCHES + 1
    batch = batch_of([[0] * row_length])
    anchors = torch.arange(1, num_branches + 1)[None]
    branches = pack_loop(anchors, torch.full_like(anchors, G), torch.zeros(1, num_branches, G).long())
    row, own = torch.ones(1, 2, row_length, 5), torch.ones(1, 2, num_branches * G, 5)
    values = row.clone()
    values[:, :, CHUNK_BRANCHES:] = torch.nan
    queries = torch.ones(1, 6, num_branches * G, 5)
    out = BranchContext.of(batch, branches, {0: (row, values)}).attend(LAYER, queries, own, own)
    first = CHUNK_BRANCHES * G
    torch.testing.assert_close(out[:, :first], torch.ones(1, first, 6, 5))  # they see ones only, whatever the weights
    assert out[:, first:].isnan().all()


def test_a_row_keeps_the_keys_of_its_first_pass() -> None:
    """Gradient checkpointing passes again on the way back; kept, its keys held the activations of every layer that had
    been recomputed."""
    context, heads = RowContext.of(batch_of([[0] * 5]), keep=True), [torch.ones(1, 3, 5, 7) for _ in range(4)]
    context.attend(LAYER, heads[0], heads[1], heads[2])
    context.attend(LAYER, heads[0], heads[3], heads[3])
    assert [kept is first for kept, first in zip(context.cache[0], heads[1:3], strict=True)] == [True, True]


def test_scores_are_softmaxed_over_row_and_own_keys_together() -> None:
    """One branch, one head: two row keys with scores log 1 and log 2, one of its own with log 5, values 8, 16 and 40:
    (8 + 32 + 200) / 8."""
    row_key, row_value = (
        torch.tensor([1.0, 2.0]).log().reshape(1, 1, 2, 1),
        torch.tensor([8.0, 16.0]).reshape(1, 1, 2, 1),
    )
    own_key, own_value = torch.tensor(5.0).log().reshape(1, 1, 1, 1), torch.full((1, 1, 1, 1), 40.0)
    block = Blocks(torch.tensor([[2]]), torch.tensor([[True]]), (2,))
    context = StepContext.of(batch_of([[0, 0]]), block, 1, {0: (row_key, row_value)}, num_steps=1)
    out = context.attend(LAYER, torch.ones(1, 1, 1, 1), own_key, own_value)
    assert out.item() == pytest.approx(30.0, abs=1e-5)
