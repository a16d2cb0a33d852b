"""What an optimiser step holds in memory, in bytes, before anything is loaded. Arithmetic alone. Not counted are
evaluation, the feature network's own forward, which holds less than an update, and on CUDA the copies that flex
attention makes of a layer's keys and values.

Float32 weights, AdamW's moments, the feature network and the reference policy stay. On top of them comes the largest of
the phases, which follow one another: rollouts, with the activations of the rows where the step has one micro-batch;
update of the branches, then of their rows, with gradient checkpointing also the recomputation of a layer, when the
logits are gone; optimiser step.

Activations are what autograd saves in a forward of a Llama-like stack. Per token and layer, with widths H (hidden), I
(intermediate), Q and K (all heads of queries, of keys):

    two norms    4 H in float32, their inputs before and after normalisation; 2 H of outputs, under autocast 5 H: a copy
                 each for q, k, v, gate, up
    attention    2 Q, rotated queries and output, with branches 3 Q, for the output is put together from parts; 2 K; a
                 log-sum-exp a head in float32
    MLP          4 I: gate, silu(gate), up, their product

In bf16 attention, MLP and the norms' outputs have two bytes a number. Branches go in chunks, each with copies of the
keys and values that it reads.

Adapters alone have gradients and moments, and their frozen base is there once; in bf16 it is kept in bf16. Of a layer
are then saved 2 H of the norms in float32, but for the first norm of all, 3 I of the MLP, 2 Q and 2 K of attention, and
what the adapters' own matrices are multiplied with.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from ebft.cost.workload import FLOAT, HALF, Workload

# float32 copies of the logits at the peak of an update: they and their gradient; one more for rows, at two temperatures
UPDATE_COPIES = 2
DRAW_COPIES = 2  # the same of a draw: logits, under autocast their half; padded to whole runs of the vocabulary
CHOICE_COPIES = 4  # the same of a completion's next token: logits, log-softmax, probabilities, their sums
PACKED = (
    0.5 + 1 / 64 + 4 / (64 * 256)
)  # bytes a weight in nf4: four bits, a byte for 64 of them, and a float32 for 256 such bytes
TOKENS_STEP, MOST_LIMITS = 256, 1000  # between the limits of tokens that a refusal proposes, and how many it tries
LASTING = ("weights", "optimizer", "feature network", "reference policy")
PHASES = {
    "rollouts": ("bf16 weights", "kept rows", "cache", "draws"),
    "update": ("bf16 weights", "gradients", "activations", "row keys", "logits"),
    "update of the rows": ("bf16 weights", "gradients", "row activations", "row keys", "row logits"),
    "recomputation": ("bf16 weights", "gradients", "activations", "row keys", "one layer"),
    "optimizer step": ("gradients", "temporaries"),
}


def estimate(work: Workload) -> dict[str, int]:
    """Bytes by part; those of `LASTING` and of one of `PHASES` are there at a time."""
    weights, rows = FLOAT * work.trained, sampled_rows(work)
    parts = {
        "weights": weights + (_base(work) if work.adapters else 0),
        "optimizer": (3 if work.averaged else 2) * weights,
        "feature network": 0 if work.phi_is_base else work.element_bytes * work.feature_parameters,
        "reference policy": weights if work.has_reference else 0,
        "bf16 weights": _cast_weights(work),
        "gradients": weights,
        **_held_by_update(work),
        "kept rows": activations(work.of_rows) if work.keeps_rows else 0,
        "cache": _cache(work, rows),
        "draws": _draws(work, rows),
        "temporaries": weights if work.steps_at_once else 0,  # square roots of all second moments
    }
    return {name: round(size) for name, size in parts.items()}


def _held_by_update(work: Workload) -> dict[str, float]:
    """Bytes by part of what an update of one micro-batch holds beside weights and gradients."""
    of_branches = work.held_tokens - work.held_row_tokens if work.updated_branches else work.held_tokens
    return {
        "activations": activations(work),
        "row keys": _row_keys(work),
        "one layer": _one_layer(work) if work.checkpointing else 0.0,
        "logits": FLOAT * UPDATE_COPIES * _logits(work, of_branches),
        "row activations": activations(work.of_rows) if work.updated_branches else 0.0,
        "row logits": FLOAT * (UPDATE_COPIES + 1) * _logits(work, work.held_row_tokens)
        if work.updated_branches
        else 0.0,
    }


def _base(work: Workload) -> float:
    """Bytes of the frozen base that adapters stand on."""
    layers = work.network.layers * work.network.layer_parameters
    return (PACKED if work.quantized else work.element_bytes) * layers + work.element_bytes * (
        work.network.parameters - layers
    )


def activations(work: Workload) -> float:
    """What autograd saves: of all layers everything, with checkpointing their inputs; masks; rotary cosines and sines;
    the final norm with its output."""
    network, tokens = work.network, work.held_tokens
    inputs = FLOAT * network.hidden * tokens
    kept = inputs * work.element_bytes / FLOAT if work.adapters else inputs  # between layers
    layer, masks = (kept, 0.0) if work.checkpointing else (layer_activations(work), _masks(work))
    other = inputs * (2 if work.adapters and not work.checkpointing else 3)
    return network.layers * layer + masks + other + 2 * FLOAT * network.query / network.heads * tokens


def layer_activations(work: Workload) -> float:
    """What autograd saves of one layer."""
    network, element = work.network, work.element_bytes
    norms = 4 * FLOAT * network.hidden + (5 if work.bf16 else 2) * element * network.hidden
    attention = (
        (3 if work.updated_branches and not work.adapters else 2) * network.query + 2 * network.key
    ) * element + FLOAT * network.heads
    others: float = norms + 4 * element * network.intermediate
    if work.adapters:
        others = 2 * FLOAT * network.hidden + element * (3 * network.intermediate + work.adapter_inputs)
    return (others + attention) * work.held_tokens + 2 * network.key * element * _chunk_keys(work)


def _chunk_keys(work: Workload) -> float:
    """Keys that the chunks of branches read, each chunk a copy of its own."""
    own = work.updated_branches * work.branch_tokens
    if not own or not work.chunk_tokens:
        return 0.0
    at_a_time = work.rows_at_a_time * work.held_tokens / work.tokens
    return at_a_time * math.ceil(own / work.chunk_tokens) * (work.reach + min(work.chunk_tokens, own))


def _masks(work: Workload) -> float:
    """Bytes of the chunks' attention masks, which all layers share."""
    return work.element_bytes * _chunk_keys(work) * min(work.chunk_tokens, work.updated_branches * work.branch_tokens)


def _one_layer(work: Workload) -> float:
    """Bytes of one layer's activations when it is computed again, of the rows or of the branches held with them:
    their layers are not computed again together."""
    larger = max(work.held_row_tokens, work.held_tokens - work.held_row_tokens)
    return layer_activations(work) * larger / work.held_tokens + _masks(work)


def _cast_weights(work: Workload) -> float:
    """Autocast's copies, of the output head too; the rows' and the branches' forwards have their own. With
    checkpointing, a layer's at a time. A frozen base has none."""
    if not work.bf16:
        return 0.0
    if work.checkpointing:
        return HALF * (work.adapters / work.network.layers if work.adapters else work.network.cut(1))
    return (2 if work.updated_branches else 1) * HALF * (work.adapters or work.network.cut(work.network.layers))


def _row_keys(work: Workload) -> float:
    """Gradients of the rows' keys and values in all layers, for the branches come first; with checkpointing also they
    themselves."""
    if not work.updated_branches:
        return 0.0
    each = work.network.layers * work.network.key * (FLOAT + work.element_bytes)
    return (2 if work.checkpointing else 1) * each * work.rows_at_a_time * work.row_tokens


def micro_batches_together(work: Workload) -> int:
    """Micro-batches whose rollouts are drawn together: as many as the device is to be given, as far as they hold no
    more than the update of one."""
    held = _held_by_update(work)
    most = max(sum(held.get(part, 0.0) for part in parts) for parts in PHASES.values())
    rows = {number: _rows_of(work, number) for number in range(work.most_together, 1, -1)}
    return next((number for number in rows if _cache(work, rows[number]) + _draws(work, rows[number]) <= most), 1)


def sampled_rows(work: Workload) -> int:
    """Rows whose rollouts are drawn together."""
    return _rows_of(work, micro_batches_together(work))


def _rows_of(work: Workload, micro_batches: int) -> int:
    return max(work.rows_at_a_time, min(work.documents, work.rows_at_a_time * micro_batches))


def _cache(work: Workload, rows: int) -> float:
    """Keys and values of so many rows and their branches; rotated keys are float32 even under autocast. Nothing is
    cached where nothing is sampled; those of kept rows are among their activations."""
    if not work.branches:
        return 0.0
    tokens = rows * ((0 if work.keeps_rows else work.row_tokens) + _branch_keys(work))
    return work.network.layers * work.network.key * (FLOAT + work.element_bytes) * tokens


def _branch_keys(work: Workload) -> float:
    """Tokens in the cache of a row's branches, free seats and copies of the row included (geometry/completions.py)."""
    if not work.own_rows:
        return work.branches * work.branch_tokens
    copies = math.ceil(work.branches / work.seats)
    return copies * (work.row_tokens + math.ceil(work.branches / copies) * work.branch_tokens)


def _draws(work: Workload, rows: int) -> float:
    copies = CHOICE_COPIES if work.own_rows else DRAW_COPIES
    return FLOAT * copies * _logits(work, rows * work.branches)


def _logits(work: Workload, positions: float) -> float:
    """Elements of the logits at so many positions that are there at a time."""
    elements = positions * work.network.vocabulary
    return elements if work.max_logits is None else min(elements, work.max_logits)


def peak(parts: dict[str, int]) -> tuple[str, int]:
    """The phase that holds most, and the bytes that it and what stays hold."""
    phase = max(PHASES, key=lambda name: sum(parts[part] for part in PHASES[name]))
    return phase, sum(parts[part] for part in (*LASTING, *PHASES[phase]))


Holding = Callable[
    [Workload], tuple[str, dict[str, int]]
]  # the phase that holds most, and what it and what stays hold by part


def unsharded(work: Workload) -> tuple[str, dict[str, int]]:
    """What a process holds that has everything itself."""
    parts = estimate(work)
    phase, _ = peak(parts)
    return phase, {part: parts[part] for part in (*LASTING, *PHASES[phase])}


def line(work: Workload, holding: Holding = unsharded) -> str:
    """The phase that holds most, part by part, for people."""
    phase, parts = holding(work)
    total = sum(parts.values())
    unit, digits, name = (2**30, 2, "GiB") if total >= 2**30 else (2**20, 1, "MiB")
    shown = " + ".join(f"{part} {size / unit:.{digits}f}" for part, size in parts.items() if size)
    return f"{_about(work)} {total / unit:.{digits}f} {name} = {shown}, in the {phase}"


def refusal(
    work: Workload, capacity: int, holding: Holding = unsharded, ways: Mapping[str, Holding] = MappingProxyType({})
) -> str | None:
    """Why a workload is refused: None if it fits into so many bytes; otherwise one sentence with the cheapest change
    that makes it fit: of the workload, or else one of the `ways` to hold it, by their settings."""

    def fits(smaller: Workload, how: Holding = holding) -> bool:
        return sum(how(smaller)[1].values()) <= capacity

    if fits(work):
        return None
    phase, parts = holding(work)
    cures = itertools.chain(
        (change for change, smaller in _changes(work) if fits(smaller)),
        (setting for setting, how in ways.items() if fits(work, how)),
        (
            f"{setting} {change}"
            for setting, how in ways.items()
            for change, smaller in _changes(work)
            if fits(smaller, how)
        ),
    )
    cure = next(cures, None)
    needed = sum(parts.values())
    return (
        f"A step needs {_about(work)} {needed / 2**30:.1f} GiB in its {phase}, and the device has "
        f"{capacity / 2**30:.1f} GiB for it; "
        + (
            "neither smaller micro-batches nor recomputed activations nor bf16 save enough, so use a smaller model or "
            "a larger device."
            if cure is None
            else f"set {cure}."
        )
    )


def _about(work: Workload) -> str:
    return "at most about" if work.is_bound else "about"


def _changes(work: Workload) -> Iterator[tuple[str, Workload]]:
    """Settings that hold less, the cheapest first: smaller micro-batches change nothing, recomputing costs a forward,
    bf16 changes figures."""
    yield from _smaller(work)
    settings = []
    if not work.checkpointing:
        settings.append("trainer.gradient_checkpointing=true")
        work = replace(work, checkpointing=True)
        yield from _with(settings, work)
    if not work.bf16:
        settings.append("trainer.dtype=bf16")
        yield from _with(settings, replace(work, bf16=True))


def _with(settings: list[str], work: Workload) -> Iterator[tuple[str, Workload]]:
    yield " ".join(settings), work
    for change, smaller in _smaller(work):
        yield " ".join([*settings, change]), smaller


def _smaller(work: Workload) -> Iterator[tuple[str, Workload]]:
    """A smaller limit of tokens where there is one, then fewer rows at a time, then a limit for one row. Rows are not
    divided, only the branches of a row, of which one is the least."""
    divisible = work.branches > 0
    if divisible and work.max_tokens is not None:
        yield from _limited(work)
    for rows in range(work.rows - 1, 0, -1):
        yield f"trainer.micro_batch_size={rows}", replace(work, rows=rows)
    if divisible:
        rows_first = "" if work.rows == 1 else "trainer.micro_batch_size=1 "
        yield from ((rows_first + change, smaller) for change, smaller in _limited(replace(work, rows=1)))


def _limited(work: Workload) -> Iterator[tuple[str, Workload]]:
    most, least = math.ceil(work.held_tokens) - 1, work.row_tokens + work.branch_tokens
    step = TOKENS_STEP * max(1, (most - least) // (MOST_LIMITS * TOKENS_STEP))
    for tokens in range(most - most % step, least - 1, -step):
        yield f"trainer.max_tokens_per_microbatch={tokens}", replace(work, max_tokens=tokens)
