"""Weights in shards, one a process (torch's FSDP2): gathered where they are read, and with them gradients and the
optimiser's moments in shards.

A forward and a backward through sharded weights are collective: every process must make equally many. So who has less
to do does something empty along. While weights are kept gathered nothing is collective but the first forward, which is
how a model is sampled from and evaluated.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from ebft.parallel.world import World


class RootModule(nn.Module):
    """Lets anything be computed with a module whose weights outside its layers are sharded together: FSDP gathers them
    around a forward, and what runs here is the forward of no module in particular."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return work(*arguments, **named)


class Shards:
    """A module's weights over all processes, by layers."""

    def __init__(
        self, module: nn.Module, layers: nn.ModuleList, world: World, dtype: str, offloaded: bool = False
    ) -> None:
        device = next(module.parameters()).device.type
        mesh = init_device_mesh(device, (world.size,))
        computing = torch.bfloat16 if dtype == "bf16" else None
        precision = MixedPrecisionPolicy(computing, reduce_dtype=torch.float32, cast_forward_inputs=False)
        offload = CPUOffloadPolicy() if offloaded and device == "cuda" else OffloadPolicy()
        self.world, self.root = world, RootModule(module)
        for module in (*layers, self.root):
            fully_shard(module, mesh=mesh, mp_policy=precision, offload_policy=offload)
        self._fsdp_modules = [module for module in self.root.modules() if isinstance(module, FSDPModule)]
        for module in self._fsdp_modules:
            module.set_gradient_divide_factor(1.0)  # sums, as everywhere: losses have the denominators of the whole
            module.set_force_sum_reduction_for_comms(True)
        self._num_gathering = 0

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Keep the weights once they are gathered, until the outermost of such blocks ends."""
        self._num_gathering += 1
        if self._num_gathering == 1:
            self._set_gathered(True)
        try:
            yield
        finally:
            self._num_gathering -= 1
            if not self._num_gathering:
                self._set_gathered(False)

    def _set_gathered(self, gathered: bool) -> None:
        for module in self._fsdp_modules:
            if module is not self.root:  # whose weights stay until the backward anyway
                module.set_reshard_after_forward(not gathered, recurse=False)
            if not gathered:
                module.reshard()


def is_sharded(x: Tensor) -> bool:
    return isinstance(x, DTensor)


def full_tensor(x: Tensor) -> Tensor:
    """A tensor of which every process may have a shard, in one piece in each."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def local_tensor(x: Tensor) -> Tensor:
    """What this process has of a tensor."""
    return x.to_local() if isinstance(x, DTensor) else x


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters, tied ones once, and the buffers that belong to a module's state."""
    lasting = module.state_dict()
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in lasting}
    return {name: parameter.detach() for name, parameter in module.named_parameters()} | buffers


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Float[Tensor, ""]:
    """Scale all gradients so that their norm together is at most `max_norm`. Returns what it was.

    In float64, because on a CPU torch's sums over a large matrix are right to five digits in float32, and shards would
    give other digits.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    own = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]
    squares = torch.stack([torch.linalg.vector_norm(gradient, dtype=torch.float64).square() for gradient in own]).sum()
    if any(map(is_sharded, gradients)):
        dist.all_reduce(squares)
    norm = squares.sqrt()
    torch._foreach_mul_(own, (max_norm / (norm + 1e-6)).clamp(max=1.0).float())
    return norm
