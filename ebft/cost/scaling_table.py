"""`scaling` over numbers of GPUs, as tables for people."""

from ebft.cost.memory_per_gpu import KEPT_TO_SAMPLE, RESHARDED, WEIGHTS, Sharding
from ebft.cost.scaling import H100, Device, Scaling, Step, scaling

NUM_GPUS = (1, 8, 64, 512)
GIB = 2**30
WORTH_SHARING_SECONDS = 0.01
HEADER = [
    "GPUs",
    "weights",
    "busy",
    "documents",
    "TFLOP",
    "GB gathered",
    "GB scattered",
    "s computing",
    "s traffic",
    "s step",
    "waits for traffic",
    "GiB",
    "phi whole: s step",
    "GiB",
]


def assumptions(device: Device = H100) -> dict[str, str]:
    """Lines for people."""
    memory, node, network = (
        f"{bandwidth / 1e9:,.0f} GB/s"
        for bandwidth in (device.memory_bandwidth, device.node_bandwidth, device.network_bandwidth)
    )
    return {
        "device": f"{device.name}, {device.bf16_flops / 1e12:.0f} TFLOP/s in bf16 and "
        f"{device.fp32_flops / 1e12:.0f} in fp32, of which {device.utilisation:.0%} are reached",
        "memory": f"{device.memory_bytes / 1e9:.0f} GB at {memory}; ! where a step needs more",
        "links": f"{node} a GPU within nodes of {device.gpus_per_node}, {network} a GPU between them",
        "columns": "GPUs that have documents, and how many the busiest has; its operations, bytes received, seconds "
        "and memory in a step",
    }


def too_small(step: Step, device: Device = H100) -> str | None:
    """Why it says nothing how several GPUs would share a step: one has room for it, and starting the step's kernels,
    which no formula here counts, takes milliseconds, as long as the step itself. None where it says something."""
    alone = scaling(step, 1, device, Sharding())
    size = sum(alone.memory.values())
    if alone.seconds >= WORTH_SHARING_SECONDS or size > device.memory_bytes:
        return None
    return (
        f"nothing to gain: by formula a step takes one {device.name} {_figure(1000 * alone.seconds)} ms and "
        f"{_figure(size / GIB)} GiB"
    )


def table(step: Step, device: Device = H100) -> tuple[list[str], list[list[str]]]:
    """Header and rows: one GPU, then for each number of GPUs each way to keep the weights."""
    ways = [way for way in WEIGHTS if way != KEPT_TO_SAMPLE or "sampling" in step.tokens]
    rows = [_row(step, 1, device, RESHARDED)] + [
        _row(step, number, device, way) for number in NUM_GPUS if number > 1 for way in ways
    ]
    return HEADER, rows


def _row(step: Step, num_gpus: int, device: Device, weights: str) -> list[str]:
    sharded, whole = (
        scaling(step, num_gpus, device, Sharding(weights, phi_is_sharded)) for phi_is_sharded in (True, False)
    )
    total, way, waits = sharded.total, weights if num_gpus > 1 else "-", ", ".join(sharded.bound_by_traffic) or "-"
    sizes = [
        total.flops / 1e12,
        total.all_gather_bytes / 1e9,
        total.reduce_scatter_bytes / 1e9,
        total.compute_seconds,
        total.traffic_seconds,
        sharded.seconds,
    ]
    where = [str(num_gpus), way, str(min(num_gpus, step.documents)), str(sharded.documents)]
    return [*where, *map(_figure, sizes), waits, _held(sharded, device), _figure(whole.seconds), _held(whole, device)]


def _figure(value: float) -> str:
    """Three digits at least."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def memory_table(step: Step, device: Device = H100) -> tuple[list[str], list[list[str]]]:
    """Header and rows: GiB by part in the phase that holds most, and together; weights resharded and the feature
    network sharded."""
    columns = [scaling(step, number, device, Sharding()) for number in NUM_GPUS]
    parts = list(dict.fromkeys(part for column in columns for part in column.memory))
    rows = [
        [part, *(_figure(column.memory[part] / GIB) if part in column.memory else "-" for column in columns)]
        for part in parts
    ]
    return ["GiB of a GPU", *map(str, NUM_GPUS)], [*rows, ["together", *(_held(column, device) for column in columns)]]


def _held(scaled: Scaling, device: Device) -> str:
    """GiB, marked where the device has less."""
    size = sum(scaled.memory.values())
    return f"{_figure(size / GIB)}{'!' if size > device.memory_bytes else ''}"
