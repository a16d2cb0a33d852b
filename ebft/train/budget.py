"""The workload of a run, and whether the device has room for it, before any weights are loaded."""

import os
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from typing import Any

import torch
from transformers import PreTrainedConfig

from ebft.config.doors import is_door
from ebft.config.schema import LoRAConfig, TrainConfig, UserError
from ebft.cost import memory
from ebft.cost import tokens as cost
from ebft.cost.memory_per_gpu import KEPT_TO_SAMPLE, Sharding, fullest
from ebft.cost.scaling import Step
from ebft.cost.workload import Network, Workload
from ebft.geometry.chunked import CHUNK_BRANCHES, CHUNK_TOKENS
from ebft.geometry.completions import SEATS
from ebft.models.decoder import FORWARD_TOKENS, UPDATE_TOKENS
from ebft.models.loading import adapted_modules, feature_architecture, shares_base, without_storage
from ebft.models.policy import LOGITS_AT_A_TIME
from ebft.objective.features import tap_indices
from ebft.run import by_content

NETWORKS = "networks"  # the kind of what is kept
MOST_BYTES = 1 << 20  # of all of them together
# whose blocks' rollouts are drawn together where there is room: those of one do not fill a GPU
MICRO_BATCHES_TOGETHER = {"cpu": 1, "cuda": 8}


def workload(
    config: TrainConfig, architecture: PreTrainedConfig, num_blocks: float, device: str, num_processes: int = 1
) -> Workload:
    """A micro-batch, of one of so many processes, of rows with so many blocks. Raises UserError for an architecture
    that is no language model."""
    sampler, trainer, length = config.sampler, config.trainer, config.data.sequence_length
    needs = config.method.needs(sampler)
    contexts = needs.num_contexts(num_blocks)
    branch_tokens = max(0, needs.rollout_tokens - 1)
    reach = {
        "none": 0.0,
        "blocks": (sampler.context_length + length - needs.rollout_tokens) / 2,
        "completions": float(length),
    }
    own_phi = is_door(config.features.network)  # whose memory and tokens are its own
    policy = network(architecture, f"model.path={config.model.path}", config.model.trust_remote_code)
    phi = _feature_network(config, architecture, policy)
    documents = trainer.batch_size // num_processes
    return Workload(
        network=policy,
        **_adapters(config, architecture),
        phi=phi,
        phi_layers=0 if own_phi else max(1, *tap_indices(list(config.features.feature_layers), phi.layers)),
        phi_is_base=own_phi or shares_base(config),
        documents=documents,
        rows=min(trainer.micro_batch_size, documents),
        row_tokens=length,
        branches=contexts * sampler.n_samples,
        updated_share=needs.num_updated(sampler.n_samples) / sampler.n_samples,
        branch_tokens=branch_tokens,
        reach=reach[needs.rollouts],
        chunk_tokens=0
        if device == "cuda"
        else branch_tokens * max(1, min(CHUNK_BRANCHES, CHUNK_TOKENS // max(1, branch_tokens))),
        own_rows=needs.rollouts == "completions",
        seats=SEATS[device],
        bf16=trainer.dtype == "bf16",
        checkpointing=trainer.gradient_checkpointing,
        averaged=config.optimizer.ema_decay is not None,
        may_keep_rows=needs.keeps_rows,
        has_reference=needs.reference_policy and not isinstance(config.model.adapter, LoRAConfig),
        max_tokens=trainer.max_tokens_per_microbatch,
        group_tokens=UPDATE_TOKENS[device] if needs.rollouts == "blocks" else None,
        max_logits=LOGITS_AT_A_TIME[device],
        steps_at_once=device == "cuda",
        is_bound=cost.depends_on_rollouts(config),
        most_together=MICRO_BATCHES_TOGETHER[device] if needs.rollouts == "blocks" else 1,
    )


def network(architecture: PreTrainedConfig, name: str, trust_remote_code: bool) -> Network:
    """Widths and numbers of parameters, kept by what the architecture says: to count them takes transformers' modelling
    code, which is half a second. Raises UserError where there is no such model."""
    described = [
        type(architecture).__name__,
        architecture.to_dict(),
        by_content.package_digest(),
        by_content.versions(),
    ]
    key = None if trust_remote_code else sha256(ascii(described).encode()).hexdigest()
    found = by_content.find(NETWORKS, key, lambda state: Network(**state["network"]))
    if found is None:
        found = _counted(architecture, name, trust_remote_code)
        by_content.keep(NETWORKS, key, {"network": asdict(found)}, MOST_BYTES)
    return found


def _counted(architecture: PreTrainedConfig, name: str, trust_remote_code: bool) -> Network:
    """Widths from the architecture, parameters counted on a model without storage."""
    model = without_storage(architecture, name, trust_remote_code)
    settings = architecture.to_dict()
    hidden, heads, layers = architecture.hidden_size, architecture.num_attention_heads, architecture.num_hidden_layers
    head_size = settings.get("head_dim") or hidden // heads
    outside = {
        id(module.weight): module.weight.numel()
        for module in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Network(
        layers=layers,
        hidden=hidden,
        intermediate=settings.get("intermediate_size") or 4 * hidden,
        heads=heads,
        query=heads * head_size,
        key=(settings.get("num_key_value_heads") or heads) * head_size,
        vocabulary=architecture.vocab_size,
        parameters=parameters,
        layer_parameters=(parameters - sum(outside.values())) // layers,
    )


def _adapters(config: TrainConfig, architecture: PreTrainedConfig) -> dict[str, Any]:
    """The adapters' share of a workload: of every adapted module A has a row of its inputs for each rank, B a column
    of its outputs."""
    adapter, modules = config.model.adapter, adapted_modules(config, architecture)
    if not isinstance(adapter, LoRAConfig):
        return {"adapters": 0, "adapter_inputs": 0.0, "quantized": False}
    parameters = adapter.rank * sum(module.in_features + module.out_features for module in modules.values())
    inputs = [(name.rpartition(".")[0], module.in_features) for name, module in modules.items()]
    # modules beside one another read one tensor, of which autocast makes a copy each
    read = inputs if config.trainer.dtype == "bf16" else {*inputs}
    widths = sum(width for _, width in read) + adapter.rank * len(modules)
    return {
        "adapters": parameters,
        "adapter_inputs": widths / architecture.num_hidden_layers,
        "quantized": adapter.quantize != "none",
    }


def _feature_network(config: TrainConfig, architecture: PreTrainedConfig, policy: Network) -> Network:
    """Before it is cut; the policy's own unless it is another checkpoint."""
    if config.features.network != "checkpoint":
        return policy
    return network(*feature_architecture(config, architecture), config.model.trust_remote_code)


def planned_step(config: TrainConfig, architecture: PreTrainedConfig, num_blocks: float) -> Step:
    """An optimiser step as CUDA devices would take it, whatever this machine has."""
    work = workload(config, architecture, num_blocks, "cuda")
    tokens = cost.by_phase(config, num_blocks, work.phi_depth, rows_are_kept=False)
    return Step(work, config.trainer.batch_size, tokens, FORWARD_TOKENS["cuda"])


def holding(config: TrainConfig, num_processes: int) -> memory.Holding:
    """How a process of the run holds its workload."""
    if num_processes == 1 or config.trainer.parallel != "fsdp2":
        return memory.unsharded
    return _sharded(num_processes, config.features.placement != "replicated")


def _sharded(num_processes: int, phi_is_sharded: bool) -> memory.Holding:
    return partial(fullest, num_gpus=num_processes, sharding=Sharding(KEPT_TO_SAMPLE, phi_is_sharded))


def lack_of_room(config: TrainConfig, work: Workload, num_processes: int, device: str) -> str | None:
    """Why a step finds no room: None if the CUDA device, or this machine's memory, has what a step needs; otherwise
    one sentence with a cure. On a CPU, whose memory others share and whose swap may help, only what is beyond all of
    it is refused."""
    ways = {}
    if num_processes > 1:
        if config.trainer.parallel == "ddp":
            ways["trainer.parallel=fsdp2"] = _sharded(num_processes, phi_is_sharded=False)
        both = (
            "features.placement=sharded"
            if config.trainer.parallel == "fsdp2"
            else "trainer.parallel=fsdp2 features.placement=sharded"
        )
        ways[both] = _sharded(num_processes, phi_is_sharded=True)
    return memory.refusal(work, _capacity(device), holding(config, num_processes), ways)


def _capacity(device: str) -> int:
    """Bytes that a step may take."""
    if device == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free, _ = torch.cuda.mem_get_info()
    # what earlier runs left over is free too
    return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def check_room(config: TrainConfig, work: Workload, num_processes: int, device: str) -> None:
    """Raises UserError if the device has not the memory that a step needs."""
    message = lack_of_room(config, work, num_processes, device)
    if message is not None:
        raise UserError(message)
