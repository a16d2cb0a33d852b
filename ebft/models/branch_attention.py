"""How `transformers` models reach the geometry's attention: a function registered by name, and a context on its way
through them."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AttentionInterface

from ebft.geometry.attention import Context

NAME = "ebft_branches"


class ContextRef:
    """A context on its way through a model. FSDP copies the dataclasses among a module's inputs, but not this."""

    def __init__(self, context: Context) -> None:
        self.context = context


@torch.compiler.disable  # flex attention, in it, is compiled by itself
def branch_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    scaling: float,
    context_ref: ContextRef,
    **_: Any,
) -> tuple[Float[Tensor, "B S H d"], None]:
    """The function that `transformers` models call; `context_ref` comes through the model's keyword arguments."""
    layer = module.layer_idx
    assert isinstance(layer, int)
    return context_ref.context.attend(layer, query, key, value, scaling), None


AttentionInterface.register(NAME, branch_attention)
