"""What a GPU holds of a step under FSDP2, in bytes."""

import math
from dataclasses import dataclass

from ebft.cost import memory
from ebft.cost.workload import FLOAT, Network, Workload

RESHARDED, KEPT_TO_SAMPLE, KEPT = WEIGHTS = ("resharded", "kept to sample", "kept")
SHARDED = ("weights", "optimizer", "gradients", "temporaries", "reference policy")
IN_FLIGHT = 2  # layers gathered at a time: the one that computes and the next


@dataclass(frozen=True)
class Sharding:
    """When the policy's weights are unsharded (one of `WEIGHTS`), and whether a feature network of its own has shards
    or a whole copy on every GPU."""

    weights: str = RESHARDED
    phi_is_sharded: bool = True


def held(work: Workload, num_gpus: int, sharding: Sharding) -> dict[str, int]:
    """Bytes of a GPU by part, in the phase that holds most."""
    return fullest(work, num_gpus, sharding)[1]


def fullest(work: Workload, num_gpus: int, sharding: Sharding) -> tuple[str, dict[str, int]]:
    """The phase of a GPU that holds most, and its bytes by part: `memory.estimate`, of which `SHARDED` is divided by n,
    and with gathered weights in place of autocast's copies. On one GPU there is nothing to gather."""
    parts = memory.estimate(work)
    divided = (*SHARDED, "feature network") if sharding.phi_is_sharded else SHARDED
    parts |= {name: math.ceil(parts[name] / num_gpus) for name in divided}
    phases = {}
    for phase, names in memory.PHASES.items():
        there = {name: parts[name] for name in (*memory.LASTING, *names)}
        if num_gpus > 1:
            there |= {"bf16 weights": 0, "gathered": _gathered(work, phase, sharding)}
        phases[phase] = {name: size for name, size in there.items() if size}
    return max(phases.items(), key=lambda phase: sum(phase[1].values()))


def _gathered(work: Workload, phase: str, sharding: Sharding) -> int:
    """Weights on their way: all of them while they are kept, otherwise what lies outside the layers and `IN_FLIGHT`
    layers; and in the update the gradients of the group at work, once as computed and once in float32. A frozen base
    has no gradients."""
    if phase == "optimizer step":
        return 0
    samples, element = phase == "rollouts", work.element_bytes
    kept = sharding.weights == KEPT or (sharding.weights == KEPT_TO_SAMPLE and samples)
    numbers = work.parameters if kept else _window(work.network) + _adapters(work)
    if samples:
        frozen = (_phi_window(work) if sharding.phi_is_sharded and not work.phi_is_base else 0) + (
            _window(work.network) if work.has_reference else 0
        )
        return element * (numbers + frozen)
    largest = (
        math.ceil(work.adapters / work.network.layers)
        if work.adapters
        else max(_outside(work.network), work.network.layer_parameters)
    )
    return element * numbers + (element + FLOAT) * largest


def _outside(network: Network) -> int:
    """Parameters outside the layers."""
    return network.parameters - network.layers * network.layer_parameters


def _window(network: Network) -> int:
    return _outside(network) + min(IN_FLIGHT, network.layers) * network.layer_parameters


def _adapters(work: Workload) -> int:
    """Parameters of the adapters of the layers in flight."""
    return math.ceil(work.adapters * min(IN_FLIGHT, work.network.layers) / work.network.layers)


def _phi_window(work: Workload) -> int:
    return work.phi.cut(min(IN_FLIGHT, work.phi_layers))
