"""What an optimiser step would compute, send and hold on n GPUs under FSDP2 (torch's `fully_shard`), on paper.

Weights, gradients and AdamW's moments lie in n shards of float32 numbers. Before a forward the weights are gathered,
layer by layer, in the dtype that computes, of e bytes a number (2 in bf16, 4 in fp32). Documents are split over GPUs, a
document is not. With B documents a step, P parameters and L layers of p parameters each, the busiest GPU has in a step:

    documents    d = ceil(B / n), in M = ceil(d / rows) micro-batches of at most so many rows
    passes       of a micro-batch through the layers: 1 for its rows, but in EBFT's sampling none if M = 1 and
                 activations are kept, for then the update's serves it as well; then in sampling one for every token of
                 the branches but the last, in other phases one for every group of branches, which the limits of tokens
                 make
    operations   d * tokens of the phase * flops_per_token, of the update 4/3 times as many with gradient checkpointing;
                 with adapters a third less of an update without it, for its frozen base has no gradients of weights
    gathered     e * P * (n - 1) / n bytes a forward, and e * L p * (n - 1) / n a backward, if weights are resharded
                 after every forward; kept to sample: all sampling gathers once; kept: the step gathers once
    scattered    4 * P * (n - 1) / n bytes a backward: gradients are summed in float32, as they are on one GPU
    computing    seconds: operations / (utilisation * peak), or if that is longer what it takes to read e * P bytes in
                 every forward and backward
    traffic      seconds: gathered + scattered over the bandwidth of the slowest link
    step         sum over phases of the longer of computing and traffic, which overlap within a phase and not across
                 phases

The feature network and a reference policy are gathered in every pass, never in a backward. With adapters P and L p
count base and adapters, gathered together, but what is scattered are gradients of the adapters alone; a feature network
or reference that is the base is gathered as the policy is, so that kept weights serve it too. Weights in four bits are
gathered as e bytes a number, which is from above. Left out are latency, the optimiser's own time, stragglers,
fragmentation, and like `flops_per_token` the output head and adapters. On one GPU there is no FSDP: the step is the
program's as it is.
"""

import math
from dataclasses import dataclass, replace

from ebft.cost.memory_per_gpu import KEPT, KEPT_TO_SAMPLE, Sharding, held
from ebft.cost.workload import FLOAT, Workload, flops_per_token


@dataclass(frozen=True)
class Device:
    """A GPU and its links, as their makers state them, and the share of its peak that a step is assumed to reach."""

    name: str
    utilisation: float
    bf16_flops: float  # a second, dense
    fp32_flops: float
    memory_bytes: int
    memory_bandwidth: float  # bytes a second, as all below
    gpus_per_node: int
    node_bandwidth: float  # of a GPU within its node, each direction
    network_bandwidth: float  # of a GPU's adapter between nodes, each direction

    def bandwidth(self, num_gpus: int) -> float:
        """Bytes a second of a collective: within a node the GPU's link. Across nodes a ring for every adapter
        carries an equal share of the bytes, so that a node takes them in by all its adapters and hands them on by
        its links: the slower of the two."""
        whole_node = self.gpus_per_node * self.network_bandwidth
        return self.node_bandwidth if num_gpus <= self.gpus_per_node else min(self.node_bandwidth, whole_node)


# Peaks, 80 GB, 3.35 TB/s and NVLink's 900 GB/s of both directions: NVIDIA's data sheet of the H100 SXM (half of its
# figures with sparsity). An adapter of 400 Gbit/s for each of 8 GPUs: NVIDIA's DGX H100. The utilisation is an
# assumption.
H100 = Device("H100", 0.35, 989e12, 67e12, 80 * 10**9, 3.35e12, 8, 450e9, 50e9)


@dataclass(frozen=True)
class Step:
    """An optimiser step."""

    work: Workload  # its largest micro-batch
    documents: int
    # of a document by phase (`cost.by_phase`), its row forwarded for sampling and again for the update
    tokens: dict[str, float]
    forward_tokens: int  # of a row's branches that go through at a time where no gradient is taken


@dataclass(frozen=True)
class Phase:
    """A phase of a step on one GPU: operations, bytes that it receives, and seconds."""

    flops: float
    all_gather_bytes: float
    reduce_scatter_bytes: float
    compute_seconds: float
    traffic_seconds: float


@dataclass(frozen=True)
class Scaling:
    documents: int  # of the busiest GPU
    phases: dict[str, Phase]
    memory: dict[str, int]  # bytes of a GPU by part, in the phase that holds most

    @property
    def total(self) -> Phase:
        names = Phase.__dataclass_fields__
        return Phase(*(sum(getattr(phase, name) for phase in self.phases.values()) for name in names))

    @property
    def seconds(self) -> float:
        return sum(max(phase.compute_seconds, phase.traffic_seconds) for phase in self.phases.values())

    @property
    def bound_by_traffic(self) -> list[str]:
        """Phases that wait for the network rather than for the GPU."""
        return [name for name, phase in self.phases.items() if phase.traffic_seconds > phase.compute_seconds]


def scaling(step: Step, num_gpus: int, device: Device, sharding: Sharding) -> Scaling:
    """The formulae above."""
    documents = math.ceil(step.documents / num_gpus)
    at_most = replace(step.work, documents=documents, rows=min(step.work.rows, documents))
    work = replace(at_most, rows=at_most.rows_at_a_time)
    phases = {
        name: _phase(replace(step, work=work), name, documents, num_gpus, device, sharding) for name in step.tokens
    }
    return Scaling(documents, phases, held(work, num_gpus, sharding))


def _phase(step: Step, name: str, documents: int, num_gpus: int, device: Device, sharding: Sharding) -> Phase:
    work, backward, share = step.work, name == "update", (num_gpus - 1) / num_gpus
    network, kept = (work.phi, work.feature_parameters) if name == "features" else (work.network, work.parameters)
    passes = math.ceil(documents / work.rows) * passes_of(work, name, step.forward_tokens)
    tokens = step.tokens[name] - (work.row_tokens if name == "sampling" and work.keeps_rows else 0)
    flops = (
        documents * tokens * flops_per_token(replace(work, network=network)) * (_update_share(work) if backward else 1)
    )
    computing = flops / (device.utilisation * (device.bf16_flops if work.bf16 else device.fp32_flops))
    reading = (2 if backward else 1) * passes * work.element_bytes * kept / device.memory_bandwidth
    is_first = name == next(iter(step.tokens))
    gathered = share * work.element_bytes * _gathered(work, name, is_first, passes * kept, passes, sharding)
    scattered = share * FLOAT * passes * work.trained if backward else 0.0
    return Phase(
        flops, gathered, scattered, max(computing, reading), (gathered + scattered) / device.bandwidth(num_gpus)
    )


def _update_share(work: Workload) -> float:
    """Operations of an update over those of a forward and a backward through trained weights: a third each for the
    forward, for gradients of what layers read, and for gradients of weights, which a frozen base has not; a third for a
    second forward."""
    return ((2 if work.adapters else 3) + (1 if work.checkpointing else 0)) / 3


def passes_of(work: Workload, phase: str, forward_tokens: int) -> int:
    """Passes of a micro-batch through the layers."""
    branches = work.updated_branches if phase == "update" else work.branches
    if not branches:
        return 1
    if phase == "sampling":
        return work.branch_tokens + (0 if work.keeps_rows else 1)
    if phase == "features":
        return 1 + _groups(branches, work.branch_tokens + 1, forward_tokens)
    room = work.max_tokens // work.rows - work.row_tokens if phase == "update" and work.max_tokens is not None else None
    return 1 + _groups(branches, work.branch_tokens, room)


def _groups(branches: float, tokens: int, room: int | None) -> int:
    """The number of groups of whole branches with so many tokens each; none where branches have no token of their
    own."""
    if not tokens:
        return 0
    return 1 if room is None else math.ceil(branches / max(1, room // tokens))


def _gathered(work: Workload, phase: str, is_first: bool, every_time: int, passes: int, sharding: Sharding) -> int:
    """Numbers that a phase gathers; `every_time` are those of its forwards."""
    if phase == "features" and not work.phi_is_base:
        return every_time if sharding.phi_is_sharded else 0
    if phase == "reference" and work.has_reference:
        return every_time
    if sharding.weights == KEPT or (sharding.weights == KEPT_TO_SAMPLE and phase == "sampling"):
        return work.parameters if is_first else 0
    return every_time + (
        passes * (work.network.layers * work.network.layer_parameters + work.adapters) if phase == "update" else 0
    )
