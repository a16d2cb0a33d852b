"""A reward of your own for method=ebft: how near a rollout's features are to the reference's, on a scale of your choice.

ebft-train method.reward=examples/own/reward.py:nearness method.advantage=rloo
"""

import torch

from ebft.types import Embeddings


def nearness(embeddings: Embeddings) -> torch.Tensor:
    """exp(-|phi_j - phi_y|^2) in (0, 1]: [B N K D] and [B K D] to [B N K]."""
    squared_distance = (embeddings.rollout - embeddings.reference[:, None]).square().sum(-1)
    return torch.exp(-squared_distance)
