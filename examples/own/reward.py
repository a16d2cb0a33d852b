"""A reward of your own for method=ebft: how near a rollout's features are to the reference's.

    ebft-train method.reward=examples/own/reward.py:nearness method.advantage=rloo

docs/own.md says what is checked, and what else can be yours.
"""

import torch

from ebft.types import Embeddings


def nearness(embeddings: Embeddings) -> torch.Tensor:
    """exp(-|phi_j - phi_y|^2) in (0, 1]: [B N K D] and [B K D] to [B N K]."""
    squared_distance = (embeddings.rollout - embeddings.reference[:, None]).square().sum(-1)
    return torch.exp(-squared_distance)
