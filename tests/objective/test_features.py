"""From hidden states to features, against loops (method.md section 3)."""

from itertools import product

import pytest
import torch

from ebft.objective.features import embed, reference_windows, tap_indices
from ebft.objective.rewards import alignment_and_diversity
from ebft.types import Embeddings
from tests.reference import embed_loop

B, N, G, L, H = 2, 3, 5, 7, 11
METHODS = ["last_token", "mean_pooling", "concat"]
NORMS = ["joint", "per_layer", "token", "none"]


def hidden_states() -> torch.Tensor:
    """Layers of very different size, as in a transformer."""
    draw = torch.Generator().manual_seed(2)
    return torch.randn(B, N, G, L, H, generator=draw) * torch.arange(1, L + 1).square()[:, None]


def stopped() -> torch.Tensor:
    """Branches that run on, stop after 1 .. G tokens, or hold nothing at all."""
    lengths = torch.tensor([[G, 1, 3], [0, 4, 2]])
    return torch.arange(G) < lengths[..., None]


@pytest.mark.parametrize("normalize", NORMS)
@pytest.mark.parametrize("embed_method", METHODS)
def test_features_equal_the_loops(embed_method: str, normalize: str) -> None:
    hidden, valid = hidden_states(), stopped()
    made = embed(hidden, valid, embed_method, normalize)
    for b, n in product(range(B), range(N)):
        slow = embed_loop(hidden[b, n], valid[b, n], embed_method, normalize)
        torch.testing.assert_close(made[b, n].double(), slow, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalize", ["joint", "per_layer"])
@pytest.mark.parametrize("embed_method", METHODS)
def test_features_have_unit_length(embed_method: str, normalize: str) -> None:
    made = embed(hidden_states(), torch.ones(B, N, G, dtype=torch.bool), embed_method, normalize)
    torch.testing.assert_close(made.norm(dim=-1), torch.ones(B, N))


@pytest.mark.parametrize("embed_method", METHODS)
def test_tokens_after_eos_do_not_reach_the_feature(embed_method: str) -> None:
    """Features were read at the end of the window, where a stopped branch has only padding."""
    hidden, valid = hidden_states(), stopped()
    behind = torch.where(valid[..., None, None], hidden, torch.full_like(hidden, 1e6))
    torch.testing.assert_close(embed(behind, valid, embed_method, "joint"), embed(hidden, valid, embed_method, "joint"))


def test_the_authors_order_by_hand() -> None:
    """Two layers of one number: tokens (3, 4), (0, 2) and (8, 6) have the unit vectors (0.6, 0.8), (0, 1), (0.8, 0.6).

    Their mean is (1.4, 2.4) / 3; the joined order takes the mean (11, 12) / 3 and brings it to length 1."""
    hidden = torch.tensor([[[3.0], [4.0]], [[0.0], [2.0]], [[8.0], [6.0]]])
    valid = torch.ones(3, dtype=torch.bool)
    assert embed(hidden, valid, "mean_pooling", "token").tolist() == pytest.approx([1.4 / 3, 2.4 / 3])
    assert embed(hidden, valid, "mean_pooling", "joint").tolist() == pytest.approx([11 / 265**0.5, 12 / 265**0.5])
    assert embed(hidden, valid, "last_token", "token").tolist() == pytest.approx([0.8, 0.6])
    assert embed(hidden, valid, "concat", "token").norm().item() == pytest.approx(3**0.5)


def test_the_last_token_is_the_last_valid_one() -> None:
    hidden = torch.arange(5.0)[:, None, None].expand(5, 1, 2)
    assert embed(hidden, torch.arange(5) < 3, "last_token", "none").tolist() == [2, 2]
    assert embed(hidden, torch.arange(5) < 3, "mean_pooling", "none").tolist() == [1, 1]
    assert embed(hidden, torch.arange(5) < 3, "concat", "none").tolist() == [0, 0, 1, 1, 2, 2, 0, 0, 0, 0]


@pytest.mark.parametrize("normalize", NORMS)
@pytest.mark.parametrize("embed_method", METHODS)
def test_a_branch_without_a_valid_token_has_the_zero_feature(embed_method: str, normalize: str) -> None:
    """The mean over no answer token was 0 / 0, and one NaN took the whole batch with it."""
    made = embed(hidden_states(), stopped(), embed_method, normalize)
    assert made[1, 0].eq(0).all()


@pytest.mark.parametrize("normalize", ["joint", "per_layer"])
@pytest.mark.parametrize("embed_method", METHODS)
def test_alignment_and_diversity_are_on_one_scale(embed_method: str, normalize: str) -> None:
    """With alignment a cosine and features of norm sqrt(3), three layers or more made diversity weigh 3 to 16 times: a
    rollout equal to the reference and to its twins has alignment 2 and diversity 2."""
    hidden = hidden_states()[:, :1].expand(B, N, G, L, H)
    phi = embed(hidden, torch.ones(B, N, G, dtype=torch.bool), embed_method, normalize)
    for part in alignment_and_diversity(Embeddings(phi[:, :, None], phi[:, :1]), "none"):
        torch.testing.assert_close(part, torch.full_like(part, 2))


def test_half_precision_hidden_states_make_float32_features() -> None:
    made = embed(hidden_states().bfloat16(), stopped(), "mean_pooling", "joint")
    assert made.dtype == torch.float32


@pytest.mark.parametrize(
    ("feature_layers", "num_layers", "expected"),
    [
        ([0.25, 0.5, 0.75], 6, [1, 3, 4]),
        ([0.25, 0.5, 0.75], 28, [7, 14, 21]),
        ([0.25, 0.5, 0.75], 24, [6, 12, 18]),
        ([0.25], 3, [1]),
        ([0.1, 1.0], 5, [1, 5]),
        ([0, 1, 5], 5, [0, 1, 5]),
        ([1.0, 1], 5, [5, 1]),
    ],
)
def test_tap_indices(feature_layers: list[int | float], num_layers: int, expected: list[int]) -> None:
    """A fraction is floored and never the embedding output; an index is itself."""
    assert tap_indices(feature_layers, num_layers) == expected


def test_a_layer_outside_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"features\.feature_layers.*7.*6"):
        tap_indices([3, 7], 6)


def test_reference_windows_are_the_tokens_behind_the_anchor() -> None:
    """The third block does not reach that far in a row of 7: its window repeats the last position."""
    windows = reference_windows(torch.tensor([[2, 4, 5]]), length=3, row_length=7)
    assert windows.tolist() == [[[2, 3, 4], [4, 5, 6], [5, 6, 6]]]
