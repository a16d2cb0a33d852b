"""Feature-matching rewards and losses (method.md sections 1, 4, 6 and 8; Jelassi et al., arXiv 2603.12248, eq. 7).

X is the N x D matrix of one context's rollout features, y its reference's. Alignment and diversity depend on X and y
only through the Gram matrix X X^T and the products X y, so every whitening lives in N x N, whatever D is.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ebft.types import Embeddings

RANK_TOLERANCE = (
    1e-5  # singular values of X below this share of the largest are dropped; eigenvalues of X X^T: its square
)


def similarities(
    embeddings: Embeddings, whitening: str
) -> tuple[Float[Tensor, "B N K"], Float[Tensor, "B N N K"], Float[Tensor, "B N K"] | None]:
    """phi~_j . phi~_y and phi~_i . phi~_j, in the space that `whitening` defines, and sign((h 1)_j) of
    `reference_code`.

    `none`: raw dot products. `paper`: phi~ = (Sigma^+)^(1/2) phi with Sigma = X^T X / N; the first is the cosine, the
    second the raw dot product. `reference_code`: the authors' release, which multiplies by h = (X X^T)^(+1/2) on the
    sample axis, also N copies of the reference; its cosine is sign((h 1)_j) * cos((h X)_j, y), so that where the sign
    is negative it rewards distance from the reference.
    """
    x, y = embeddings.rollout.transpose(1, 2).double(), embeddings.reference.double()
    gram, cross = x @ x.mT, (x @ y[..., None]).squeeze(-1)  # [B K N N], [B K N]
    aligned, paired, sign = cross, gram, None
    if whitening != "none":
        aligned, paired, sign = _whitened(gram, cross, y.norm(dim=-1, keepdim=True), whitening)
    dtype = embeddings.rollout.dtype
    signs = None if sign is None else sign.transpose(1, 2).to(dtype)
    return aligned.transpose(1, 2).to(dtype), paired.movedim(1, 3).to(dtype), signs


def _whitened(
    gram: Float[Tensor, "B K N N"],
    cross: Float[Tensor, "B K N"],
    reference_norm: Float[Tensor, "B K 1"],
    whitening: str,
) -> tuple[Float[Tensor, "B K N"], Float[Tensor, "B K N N"], Float[Tensor, "B K N"] | None]:
    num_samples = gram.shape[-1]
    vectors, inverse, kept = _eigen(gram)
    projection = (vectors * kept[..., None, :]) @ vectors.mT
    # the projection of such a rollout is 0 up to rounding, which has a direction
    zero = gram.diagonal(dim1=-2, dim2=-1) == 0
    length = projection.diagonal(dim1=-2, dim2=-1).masked_fill(zero, 0).clamp_min(0).sqrt()
    if whitening == "paper":
        weights = _apply(vectors, inverse, cross)
        return _ratio(weights, length * weights.norm(dim=-1, keepdim=True)), num_samples * projection, None
    assert whitening == "reference_code", whitening
    root = inverse.sqrt()
    sign = _apply(vectors, root, torch.ones_like(cross)).sign()
    return _ratio(sign * _apply(vectors, root, cross), length * reference_norm), projection, sign


def _eigen(
    gram: Float[Tensor, "*b N N"],
) -> tuple[Float[Tensor, "*b N N"], Float[Tensor, "*b N"], Bool[Tensor, "*b N"]]:
    """Eigenvectors, inverse eigenvalues (0 where dropped) and which are kept."""
    values, vectors = torch.linalg.eigh(gram)
    kept = values > RANK_TOLERANCE**2 * values[..., -1:]
    return vectors, torch.where(kept, 1 / torch.where(kept, values, 1), 0), kept


def _apply(
    vectors: Float[Tensor, "*b N N"], values: Float[Tensor, "*b N"], x: Float[Tensor, "*b N"]
) -> Float[Tensor, "*b N"]:
    """Q diag(values) Q^T x."""
    return (vectors @ (values[..., None] * (vectors.mT @ x[..., None]))).squeeze(-1)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, 0 where the denominator is: a zero vector has no direction."""
    return torch.where(denominator > 0, numerator / torch.where(denominator > 0, denominator, 1), 0)


def alignment_and_diversity(
    embeddings: Embeddings, whitening: str
) -> tuple[Float[Tensor, "B N K"], Float[Tensor, "B N K"]]:
    """alignment_j = 2 phi_j . phi_y and diversity_j = 2 / (N - 1) sum_{i != j} phi_j . phi_i (eq. 7); diversity is 0 at
    N = 1."""
    alignment, diversity, _ = signed_rewards(embeddings, whitening)
    return alignment, diversity


def signed_rewards(
    embeddings: Embeddings, whitening: str
) -> tuple[Float[Tensor, "B N K"], Float[Tensor, "B N K"], Float[Tensor, "B N K"] | None]:
    """As `alignment_and_diversity`, with the sign that alignment has in `reference_code`; None elsewhere."""
    aligned, paired, sign = similarities(embeddings, whitening)
    others = paired.sum(1) - paired.diagonal(dim1=1, dim2=2).transpose(1, 2)
    return 2 * aligned, 2 * others / max(1, paired.shape[1] - 1), sign


def feature_matching_loss(embeddings: Embeddings) -> Float[Tensor, "B K"]:
    """Unbiased L_CFM: sum_{i != j} f_i . f_j / (N (N - 1)) - 2 / N sum_i f_i . g + |g|^2 (section 8). May be negative
    by noise."""
    assert embeddings.rollout.shape[1] >= 2, "the unbiased estimate needs a pair of samples"
    alignment, diversity = alignment_and_diversity(embeddings, "none")
    return (diversity / 2 - alignment).mean(1) + embeddings.reference.square().sum(-1)
