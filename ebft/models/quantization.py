"""A frozen model's weights in fewer bits: all of them in bfloat16, the layers' linear modules in nf4 (QLoRA, arXiv
2305.14314)."""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from ebft.config.schema import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PACKED = "Linear4bit"  # bitsandbytes' class


def linear_modules(model: "PreTrainedModel") -> dict[str, nn.Linear]:
    """The linear modules inside the layers, by name. Raises UserError where the layers are not where ebft looks for
    them."""
    if not hasattr(model.base_model, "layers"):
        raise UserError(
            f"{type(model).__name__} keeps its layers where ebft cannot adapt them; use a Llama-like model, or "
            "model/adapter=none."
        )
    inside = {id(module) for module in model.base_model.layers.modules()}
    return {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Linear) and id(module) in inside
    }


def quantize(model: "PreTrainedModel") -> None:
    """The linear modules of all layers in four bits, on the current CUDA device, or the CPU where there is none.
    transformers packs them into a copy of the model, from which they are taken: this model keeps its config, its name
    and how it generates."""
    inside = linear_modules(model)
    outside = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name not in inside]
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        llm_int8_skip_modules=outside,  # not of eight bits alone, in spite of its name
    )
    packed = type(model).from_pretrained(
        None, config=model.config, state_dict=model.state_dict(), dtype=torch.float32, quantization_config=settings
    )
    for name in inside:
        model.set_submodule(name, packed.get_submodule(name))
    model.is_loaded_in_4bit = True  # peft asks


def round_to_bfloat16(model: "PreTrainedModel") -> None:
    """Parameters only: rotary frequencies, which are buffers, turn wrong angles when rounded. Packed weights stay, and
    are multiplied in bfloat16."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.bfloat16)
    for module in model.modules():
        if type(module).__name__ == PACKED:
            module.compute_dtype = torch.bfloat16


def unpacked(weight: Any) -> Float[Tensor, "..."]:
    """A weight as plain numbers, whatever holds it."""
    if weight.is_floating_point():
        return weight.detach()
    from bitsandbytes.functional import dequantize_4bit

    numbers: Tensor = dequantize_4bit(weight.data, weight.quant_state)
    return numbers
