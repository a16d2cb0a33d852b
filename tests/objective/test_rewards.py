"""Rewards against loops of eq. 7, whitenings against the spaces that define them (method.md sections 4, 6 and 8)."""

import pytest
import torch
from torch import Tensor

from ebft.objective.rewards import alignment_and_diversity, feature_matching_loss, signed_rewards, similarities
from ebft.types import Embeddings
from tests.reference import rewards_loop, sample_axis_whitener

B, N, K, D = 2, 5, 3, 11
WHITENINGS = ["none", "paper", "reference_code"]


def embeddings_of(
    shape: tuple[int, int, int, int] = (B, N, K, D), seed: int = 3, dtype: torch.dtype = torch.float64
) -> Embeddings:
    b, n, k, d = shape
    draw = torch.Generator().manual_seed(seed)
    return Embeddings(
        torch.randn(b, n, k, d, generator=draw, dtype=dtype), torch.randn(b, k, d, generator=draw, dtype=dtype)
    )


def one_context(rollout: Tensor) -> Embeddings:
    """[N, D] rollouts of one context, with a reference of ones."""
    return Embeddings(rollout[None, :, None], torch.ones(1, 1, rollout.shape[1], dtype=rollout.dtype))


def rank_deficient(case: str) -> Embeddings:
    made = embeddings_of()
    X, y = made.rollout.clone(), made.reference
    if case == "two duplicates":
        X[:, 3] = X[:, 1]
    elif case == "all identical":
        X[:] = X[:, :1]
    elif case == "more rollouts than features":
        X, y = X[..., :3], y[..., :3]
    elif case == "a zero rollout":
        X[:, 2] = 0
    return Embeddings(X, y)


def test_eq_7_by_hand() -> None:
    """phi = (1, 0), (0, 2), (1, 1), phi_y = (3, 1): alignment 2 * (3, 2, 4), diversity 2/2 * (0 + 1, 0 + 2, 1 + 2)."""
    made = Embeddings(torch.tensor([[1.0, 0], [0, 2], [1, 1]])[None, :, None], torch.tensor([[[3.0, 1]]]))
    alignment, diversity = alignment_and_diversity(made, "none")
    assert alignment.flatten().tolist() == [6, 4, 8]
    assert diversity.flatten().tolist() == [1, 2, 3]


def test_diversity_of_a_single_rollout_is_zero() -> None:
    _, diversity = alignment_and_diversity(embeddings_of((2, 1, 3, 5)), "none")
    assert diversity.tolist() == [[[0, 0, 0]]] * 2


@pytest.mark.parametrize("whitening", WHITENINGS)
@pytest.mark.parametrize("shape", [(2, 5, 3, 11), (3, 2, 1, 7), (1, 7, 2, 5), (1, 3, 2, 3)])
def test_rewards_equal_the_loops(shape: tuple[int, int, int, int], whitening: str) -> None:
    made = embeddings_of(shape)
    for fast, slow in zip(alignment_and_diversity(made, whitening), rewards_loop(made, whitening), strict=True):
        torch.testing.assert_close(fast, slow, rtol=0, atol=1e-9)


@pytest.mark.parametrize("whitening", ["paper", "reference_code"])
@pytest.mark.parametrize("case", ["two duplicates", "all identical", "more rollouts than features", "a zero rollout"])
def test_whitening_of_rank_deficient_groups_equals_the_loops(case: str, whitening: str) -> None:
    made = rank_deficient(case)
    for fast, slow in zip(alignment_and_diversity(made, whitening), rewards_loop(made, whitening), strict=True):
        torch.testing.assert_close(fast, slow, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("copies", "paper", "reference_code"),
    [
        ([0, 0, 1, 2], [4 / 3, 4 / 3, 0, 0], [1 / 3, 1 / 3, 0, 0]),
        ([0] * 4, [2] * 4, [1 / 2] * 4),
        ([0, 1, 2, 3], [0] * 4, [0] * 4),
    ],
)
def test_whitened_diversity_counts_duplicates(
    copies: list[int], paper: list[float], reference_code: list[float], dtype: torch.dtype
) -> None:
    """The pinned values of section 6, N = 4: after whitening the diversity term is in effect a duplicate penalty."""
    distinct = embeddings_of((1, 4, 1, D), dtype=dtype).rollout[0, :, 0]
    made = one_context(distinct[copies])
    for whitening, pinned in (("paper", paper), ("reference_code", reference_code)):
        _, diversity = alignment_and_diversity(made, whitening)
        torch.testing.assert_close(diversity.flatten(), torch.tensor(pinned, dtype=diversity.dtype), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("smallest", "kept"), [(2e-5, True), (5e-6, False)])
def test_singular_values_below_1e_5_of_the_largest_are_dropped(smallest: float, kept: bool) -> None:
    """Two orthogonal rollouts of very different length: P_22 is 1 if the short one's direction is kept, else 0; N P_22
    = 2."""
    made = one_context(torch.tensor([[1.0, 0, 0], [0, smallest, 0]], dtype=torch.float64))
    _, dots, sign = similarities(made, "paper")
    assert sign is None
    torch.testing.assert_close(
        dots[0, :, :, 0], torch.diag(torch.tensor([2.0, 2.0 * kept], dtype=dots.dtype)), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("whitening", ["paper", "reference_code"])
def test_whitened_rewards_do_not_depend_on_the_length_of_the_features(whitening: str, scale: float) -> None:
    made = embeddings_of(dtype=torch.float32)
    scaled = Embeddings(made.rollout * scale, made.reference * scale)
    for one, other in zip(
        alignment_and_diversity(made, whitening), alignment_and_diversity(scaled, whitening), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize("whitening", WHITENINGS)
@pytest.mark.parametrize("which", ["rollout", "reference", "both"])
def test_zero_features_give_zero_and_never_nan(which: str, whitening: str) -> None:
    made = embeddings_of()
    X = made.rollout if which == "reference" else torch.zeros_like(made.rollout)
    y = made.reference if which == "rollout" else torch.zeros_like(made.reference)
    alignment, diversity = alignment_and_diversity(Embeddings(X, y), whitening)
    assert alignment.eq(0).all()
    assert diversity.isfinite().all()
    assert which == "reference" or diversity.eq(0).all()


def sign_of(made: Embeddings) -> Tensor:
    sign = signed_rewards(made, "reference_code")[2]
    assert sign is not None
    return sign


def test_whitening_sign_is_the_sign_of_the_row_sums_of_the_authors_matrix() -> None:
    made = embeddings_of((3, 5, 7, 2))
    slow = torch.stack(
        [
            torch.stack([sample_axis_whitener(X).sum(1).sign() for X in row.transpose(0, 1)], dim=1)
            for row in made.rollout
        ]
    )
    assert sign_of(made).tolist() == slow.tolist()
    assert {-1.0, 1.0} == set(slow.flatten().tolist())


def test_the_authors_whitening_only_rescales_the_reference() -> None:
    """Where the sign is negative, a rollout is rewarded for pointing away from the reference: cos((W X)_j, (W 1)_j y) =
    -cos((W X)_j, y)."""
    made = embeddings_of((3, 5, 7, 2))
    alignment, _ = alignment_and_diversity(made, "reference_code")
    flipped, _ = alignment_and_diversity(Embeddings(made.rollout, -made.reference), "reference_code")
    torch.testing.assert_close(alignment, -flipped)
    whitened = torch.stack(
        [sample_axis_whitener(made.rollout[0, :, k]) @ made.rollout[0, :, k] for k in range(7)], dim=1
    )
    towards = torch.einsum("nkd,kd->nk", whitened, made.reference[0]).sign()
    assert (alignment[0].sign() * sign_of(made)[0]).tolist() == towards.tolist()


def test_feature_matching_loss_by_hand() -> None:
    """f = (1, 0), (0, 2), (1, 1), g = (3, 1): 2 * (0 + 1 + 2) / 6 - 2/3 * (3 + 2 + 4) + 10 = 5."""
    made = Embeddings(torch.tensor([[1.0, 0], [0, 2], [1, 1]])[None, :, None], torch.tensor([[[3.0, 1]]]))
    assert feature_matching_loss(made).item() == pytest.approx(5)


def test_feature_matching_loss_may_be_negative() -> None:
    """f = (1, 0), (0, 1), g = (1/2, 1/2): 0 - 1 + 1/2; a clamp at zero would bias it."""
    made = Embeddings(torch.eye(2)[None, :, None], torch.full((1, 1, 2), 0.5))
    assert feature_matching_loss(made).item() == pytest.approx(-0.5)
