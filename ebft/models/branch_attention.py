"""How `transformers` models reach the geometry's attention: two functions registered by one name, and a context on its
way through them.

A model asks the mask function once a forward for every kind of mask that its layers have, and hands each layer its own.
Ours are no masks: they say how wide the layer's sliding window is. Not every family tells the attention function that
besides.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ebft.geometry.attention import Context, LayerAttention

NAME = "ebft_branches"


class ContextRef:
    """A context on its way through a model. FSDP copies the dataclasses among a module's inputs, but not this."""

    def __init__(self, context: Context) -> None:
        self.context = context


class MaskRef:
    """What stands in the place of a mask."""

    def __init__(self, window: int | None) -> None:
        self.window = window  # tokens, the query's own among them


def mask_ref(local_size: int | None = None, **_: Any) -> MaskRef:
    """The function that `transformers` models call for a mask; the size of its window, if any, is `local_size`."""
    return MaskRef(local_size)


@torch.compiler.disable  # flex attention, in it, is compiled by itself
def branch_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float,
    context_ref: ContextRef,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "B S H d"], None]:
    """The function that `transformers` models call; `context_ref` comes through the model's keyword arguments. Raises
    TypeError for a mask that the model made by itself, whose window nobody knows."""
    index = module.layer_idx
    assert isinstance(index, int)
    if not isinstance(attention_mask, MaskRef):
        raise TypeError(f"{type(module).__name__} makes its masks by itself")
    layer = LayerAttention(index, scaling, attention_mask.window, softcap)
    return context_ref.context.attend(layer, query, key, value), None


def register() -> None:
    """Make both known to transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, branch_attention)
    AttentionMaskInterface.register(NAME, mask_ref)
