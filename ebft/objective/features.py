"""From hidden states to feature vectors: pooling over a rollout's tokens, normalisation, concatenation over layers
(method.md section 3)."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def tap_indices(feature_layers: list[int | float], num_layers: int) -> list[int]:
    """Hidden-state indices to read: a fraction f becomes max(1, floor(f * num_layers)), an index stays; 0 is the
    embedding output.

    Raises:
        ValueError: an index above num_layers.
    """
    indices = [
        max(1, math.floor(layer * num_layers)) if isinstance(layer, float) else layer for layer in feature_layers
    ]
    for index in indices:
        if index > num_layers:
            raise ValueError(
                f"features.feature_layers holds {index}, but the feature network has {num_layers} layers; use 0 to "
                f"{num_layers}."
            )
    return indices


def embed(
    hidden: Float[Tensor, "*batch G L H"], valid: Bool[Tensor, "*batch G"], embed_method: str, normalize: str
) -> Float[Tensor, "*batch D"]:
    """phi of a continuation from its tapped hidden states, in float32.

    `normalize`: `joint`, unit length of the whole; `per_layer`, of every layer's part, over sqrt(L); `none`; `token`,
    unit length of every token's joined vector of L * H before pooling and none after it, which is the authors' order:
    equal to `joint` for `last_token`; a mean of tokens is shorter than 1, a concatenation of G has length sqrt(G).

    D is L * H, for `concat` G * L * H. Tokens that are not valid (after a branch's EOS) take no part: `last_token`
    reads the last valid one, `mean_pooling` averages the valid ones, `concat` has zeros in their place.
    """
    if normalize == "token":
        joined = torch.nn.functional.normalize(hidden.float().flatten(-2), dim=-1).unflatten(-1, hidden.shape[-2:])
        return _pool(joined, valid, embed_method).flatten(-2)
    pooled = _pool(hidden.float(), valid, embed_method)
    if normalize == "joint":
        return torch.nn.functional.normalize(pooled.flatten(-2), dim=-1)
    if normalize == "per_layer":  # divided by sqrt(L), so that the whole has unit length here too
        return torch.nn.functional.normalize(pooled, dim=-1).flatten(-2) / math.sqrt(pooled.shape[-2])
    assert normalize == "none", normalize
    return pooled.flatten(-2)


def _pool(
    hidden: Float[Tensor, "*batch G L H"], valid: Bool[Tensor, "*batch G"], embed_method: str
) -> Float[Tensor, "*batch L P"]:
    if embed_method == "last_token":
        last = (valid.sum(-1) - 1).clamp_min(0)
        return hidden.take_along_dim(last[..., None, None, None], dim=-3).squeeze(-3) * valid.any(-1)[..., None, None]
    kept = hidden * valid[..., None, None]
    if embed_method == "mean_pooling":
        return kept.sum(-3) / valid.sum(-1).clamp_min(1)[..., None, None]
    assert embed_method == "concat", embed_method
    return kept.movedim(-3, -2).flatten(-2)


def reference_windows(anchors: Int[Tensor, "B K"], length: int, row_length: int) -> Int[Tensor, "B K G"]:
    """Row positions of every block's real continuation; positions beyond the row (blocks that do not reach that far)
    repeat its last."""
    return (anchors[..., None] + torch.arange(length, device=anchors.device)).clamp_max(row_length - 1)
