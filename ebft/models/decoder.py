"""A stack of transformer layers behind the geometry: run over rows and branches, and counted."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ebft.geometry.attention import BranchContext, Context, KeysValues, RowContext
from ebft.geometry.blocks import Branches, row_positions
from ebft.models.branch_attention import NAME, ContextRef, register
from ebft.parallel.fsdp import Shards
from ebft.parallel.pulse import PULSE
from ebft.parallel.world import World
from ebft.types import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Result = TypeVar("Result")

FORWARD_TOKENS = {
    "cpu": 1024,
    "cuda": 16384,
}  # of a row's branches at a time where no gradient is taken: what caches hold, and what fills a GPU

# of a micro-batch's branches at a time, in the same way, where a gradient is; larger groups are no faster on a CPU
UPDATE_TOKENS = {"cpu": 1024, "cuda": None}


@dataclass(frozen=True)
class RowForward:
    """A forward of rows: their last hidden states, and every layer's keys and values for branches that follow."""

    hidden: Float[Tensor, "B T H"]
    cache: dict[int, KeysValues]

    def detached(self) -> "RowForward":
        """The same hidden states, keys and values without their graph."""
        return RowForward(
            self.hidden.detach(), {layer: (key.detach(), value.detach()) for layer, (key, value) in self.cache.items()}
        )


@dataclass(frozen=True)
class HiddenSlice:
    """Hidden states of neighbours in the flat row (see `blocks.py`), from place `start` on. A loss with `carried` added
    carries gradients on through the keys and values that earlier slices read."""

    start: int
    hidden: Float[Tensor, "B P H"]
    carried: Float[Tensor, ""]

    @property
    def is_row(self) -> bool:
        return self.start == 0


class Decoder:
    """A stack of transformer layers that runs rows and branches, each time inside `state`, and counts the tokens it
    forwards."""

    def __init__(
        self,
        module: "PreTrainedModel",
        dtype: str,
        depth: float = 1.0,
        state: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        register()
        module.set_attn_implementation(NAME)
        self.module, self.state = module, state
        self.dtype = dtype
        self.autocast = dtype == "bf16"
        self.depth = depth  # a forward's cost over that of the full policy
        self.shards: Shards | None = None  # None: all weights are here
        self.tokens_forwarded = 0.0  # full-network forwards; a backward counts as two (method.md section 9)

    def compile(self) -> None:
        """Compile every layer for any length; attention is left out (see `attention.py`)."""
        for layer in self.module.layers:
            layer.compile(dynamic=True)

    def shard(self, world: World, owner: nn.Module | None = None, offloaded: bool = False) -> None:
        """Leave this process its part of the weights; of all of `owner`, where the layers are those of a larger
        module."""
        self.shards = Shards(owner or self.module, self.module.layers, world, self.dtype, offloaded)

    def run_gathered(self, work: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
        """`work` with the weights outside the layers at hand."""
        if self.shards is None:
            return work(*arguments, **named)
        PULSE.enter_collective()
        result: Result = self.shards.root(work, *arguments, **named)
        return result

    @contextmanager
    def inference_mode(self) -> Iterator[None]:
        """Forwards without gradients, of which none but the first is collective. What a gradient is to pass later must
        be cloned outside."""
        if self.shards is None:
            with torch.inference_mode():
                yield
        else:  # in inference mode the gathered weights could never again be trained through
            with torch.no_grad(), self.shards.gathered():
                yield

    def autocast_on(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.autocast)

    def run(
        self, tokens: Int[Tensor, "B S"], positions: Int[Tensor, "B S"], context: Context
    ) -> Float[Tensor, "B S H"]:
        """Last hidden states."""
        PULSE.advance()
        # nothing is padding; without it transformers would ask the device whether positions make several sequences
        nothing_masked = tokens.new_ones(1, 1, dtype=torch.bool).expand(tokens.shape)
        self.tokens_forwarded += tokens.numel() * self.depth * (3 if torch.is_grad_enabled() else 1)
        with self.state(), self.autocast_on(tokens.device):
            output = self.run_gathered(
                self.module,
                input_ids=tokens,
                attention_mask=nothing_masked,
                position_ids=positions,
                use_cache=False,
                context_ref=ContextRef(context),
            )
        return output.last_hidden_state

    @property
    def recomputes(self) -> bool:
        """Whether the layers' activations are computed again on the way back (gradient checkpointing)."""
        from transformers.modeling_layers import GradientCheckpointingLayer

        layer = self.module.layers[0]
        return isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing

    def forward_rows(self, batch: Batch) -> RowForward:
        context = RowContext.of(batch, keep=True)
        return RowForward(self.run(batch.tokens, row_positions(batch), context), context.cache)

    def flat(self, batch: Batch, branches: Branches) -> Float[Tensor, "B S H"]:
        """The row's hidden states and those of all own tokens."""
        row = self.forward_rows(batch)
        groups = [
            self.run(group.tokens, group.positions, BranchContext.of(batch, group, row.cache))
            for _, group in branches.groups()
        ]
        return torch.cat([row.hidden, *groups], dim=1)
