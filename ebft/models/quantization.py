"""A frozen model's weights in fewer bits: all of them in bfloat16, the layers' linear modules in nf4 (QLoRA, arXiv
2305.14314)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from ebft.config.schema import UserError

PACKED = "Linear4bit"  # bitsandbytes' class


def linear_modules(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """Those inside the layers, by name. Raises UserError where the layers are not where ebft looks for them."""
    if not hasattr(model.base_model, "layers"):
        raise UserError(
            f"{type(model).__name__} keeps its layers where ebft cannot adapt them; use a Llama-like model, or "
            "model/adapter=none."
        )
    inside = {id(module) for module in model.base_model.layers.modules()}
    return {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear) and id(module) in inside
    }


def quantize(model: PreTrainedModel) -> None:
    """The linear modules of all layers in four bits, as soon as the model is moved to a CUDA device."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name, linear in linear_modules(model).items():
        packed = Linear4bit(
            linear.in_features, linear.out_features, linear.bias is not None, quant_type="nf4", device="meta"
        )
        packed.weight = Params4bit(
            linear.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=packed
        )
        packed.bias = linear.bias
        model.set_submodule(name, packed)
    model.is_loaded_in_4bit = True  # peft asks


def round_to_bfloat16(model: PreTrainedModel) -> None:
    """Parameters only: rotary frequencies, which are buffers, turn wrong angles when rounded. Packed weights stay, and
    are multiplied in bfloat16."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.bfloat16)
    for module in model.modules():
        if type(module).__name__ == PACKED:
            module.compute_dtype = torch.bfloat16


def unpacked(weight: Any) -> Float[Tensor, "..."]:
    """As numbers, whatever holds them."""
    if weight.is_floating_point():
        return weight.detach()
    from bitsandbytes.functional import dequantize_4bit

    numbers: Tensor = dequantize_4bit(weight.data, weight.quant_state)
    return numbers
