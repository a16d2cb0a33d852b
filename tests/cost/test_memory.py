"""Memory by arithmetic, against what autograd saves and against numbers worked out by hand."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig

from ebft.config.schema import LoRAConfig
from ebft.cost import memory
from ebft.cost.memory_per_gpu import KEPT_TO_SAMPLE, Sharding, fullest
from ebft.cost.workload import Network, Workload, flops_per_token
from ebft.geometry.blocks import make_branches
from ebft.geometry.chunked import CHUNK_BRANCHES, CHUNK_TOKENS
from ebft.methods.base import branch_tokens
from ebft.models.adapters import Adapters, fingerprint
from ebft.models.decoder import UPDATE_TOKENS
from ebft.models.logprobs import branch_labels, row_labels
from ebft.models.policy import LanguageModel
from ebft.models.quantization import round_to_bfloat16
from ebft.rollout.sampler import sample
from ebft.types import Batch, Blocks, Rollout
from tests.helpers import blocks_of, geometry, model_of, random_batch, random_draws, random_rollout
from tests.workloads import BRANCHED, NETWORK, SUPERVISED

VOCABULARY = 31
SHAPES = {  # layers, hidden, intermediate, heads of queries, of keys, their size
    "grouped": (3, 48, 97, 6, 2, 10),
    "ungrouped": (5, 40, 113, 5, 5, 8),
    "wide": (2, 176, 311, 11, 11, 16),
}
ROWS = {
    "row": (3, 29, 0, 1, 1, 1),
    "few": (2, 61, 3, 7, 5, 5),
    "many": (3, 131, 5, 11, 7, 7),
    "chunks": (2, 307, 5, 7, 7, 7),
}  # B, T, N, s, c0, G


def built(
    shape: str, rows: str, dtype: str, checkpointing: bool = False, **changes: Any
) -> tuple[LanguageModel, Workload, Batch, Rollout | None]:
    """A Llama, its workload, and rows with rollouts that nobody sampled."""
    layers, hidden, intermediate, heads, key_heads, size = SHAPES[shape]
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "head_dim": size,
    }
    config = LlamaConfig(
        **(
            sizes
            | {"num_attention_heads": heads, "num_key_value_heads": key_heads, "max_position_embeddings": 512}
            | changes
        )
    )
    policy = LanguageModel(model_of(config), dtype)
    if checkpointing:
        policy.model.gradient_checkpointing_enable({"use_reentrant": False})
        policy.model.train()
    num_rows, row_tokens, n_samples, stride, context, length = ROWS[rows]
    batch, rollout = rows_and_rollouts(rows)
    blocks = 0 if rollout is None else rollout.blocks.anchors.shape[1]
    parameters, own = sum(p.numel() for p in policy.model.parameters()), length - 1
    layer = sum(p.numel() for p in policy.decoder.module.layers[0].parameters())
    work = replace(
        SUPERVISED,
        network=Network(
            config.num_hidden_layers,
            hidden,
            intermediate,
            heads,
            heads * size,
            key_heads * size,
            VOCABULARY,
            parameters,
            layer,
        ),
        rows=num_rows,
        row_tokens=row_tokens,
        branches=float(blocks * n_samples),
        branch_tokens=own,
        reach=context + stride * (blocks - 1) / 2,
        chunk_tokens=own * max(1, min(CHUNK_BRANCHES, CHUNK_TOKENS // max(1, own))),
        bf16=dtype == "bf16",
        checkpointing=checkpointing,
    )
    return policy, work, batch, rollout


def rows_and_rollouts(rows: str) -> tuple[Batch, Rollout | None]:
    num_rows, row_tokens, n_samples, stride, context, length = ROWS[rows]
    batch = random_batch([[0] * row_tokens] * num_rows)
    shape = geometry(n_samples=n_samples, stride=stride, context_length=context, generate_length=length)
    return batch, random_rollout(batch, shape) if n_samples else None


def first_row(batch: Batch, rollout: Rollout) -> tuple[Batch, Rollout]:
    blocks = Blocks(rollout.blocks.anchors[:1], rollout.blocks.valid[:1], rollout.blocks.reach)
    return batch.rows(0, 1), Rollout(blocks, rollout.tokens[:1], rollout.log_probs[:1], rollout.valid[:1])


def with_adapters(
    policy: LanguageModel, work: Workload, dtype: str, targets: list[str] | None = None
) -> tuple[LanguageModel, Workload]:
    """Of rank 3 over what was a policy, in the precision that a base is kept in."""
    model, rank = policy.model, 3
    if dtype == "bf16":
        round_to_bfloat16(model)
    adapters = Adapters(
        model, fingerprint(model), LoRAConfig("lora", targets, rank, 5.0, False, 0.0, "none"), "model.path=x", seed=0
    )
    read = [(name.rpartition(".")[0], module.in_features) for name, module in adapters.layers.items()]
    widths = sum(width for _, width in (read if dtype == "bf16" else {*read})) + rank * len(read)
    trained = sum(weight.numel() for weight in adapters.trained.parameters())
    work = replace(work, adapters=trained, adapter_inputs=widths / work.network.layers, phi_is_base=True)
    return LanguageModel(model, dtype, adapters), work


def forward(policy: LanguageModel, batch: Batch, rollout: Rollout | None) -> Tensor:
    if rollout is None:
        return policy.row_hidden(batch)
    return policy.flat_hidden(batch, make_branches(rollout.blocks, rollout.tokens[..., :-1]))


def saved_bytes(policy: LanguageModel, run: Callable[[], object]) -> int:
    """Of the different storages that autograd saves, without the parameters themselves."""
    weights = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    kept: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes(), tensor.detach()
        return tensor.detach()  # a node that saves its own output would hold itself for ever

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(size for size, _ in kept.values())


def copies(work: Workload, layers: int) -> int:
    """Autocast's, of the weights of so many layers."""
    return 2 * layers * work.network.layer_parameters if work.bf16 else 0


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that is allocated at a time while `run` runs, beyond what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


# Against torch


PAIRS = [  # every shape with all rows, and each of both in both precisions
    (shape, rows, ("fp32", "bf16")[(i + j) % 2]) for i, shape in enumerate(SHAPES) for j, rows in enumerate(ROWS)
]


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "rows", "dtype"), PAIRS)
def test_activations_are_what_autograd_saves(shape: str, rows: str, dtype: str) -> None:
    policy, work, batch, rollout = built(shape, rows, dtype)
    expected = memory.activations(work) + copies(work, work.network.layers)
    assert expected == pytest.approx(saved_bytes(policy, lambda: forward(policy, batch, rollout)), rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "rows", "dtype"), PAIRS)
def test_activations_over_a_frozen_base(shape: str, rows: str, dtype: str) -> None:
    policy, work, batch, rollout = built(shape, rows, dtype)
    policy, work = with_adapters(policy, work, dtype)
    assert memory.activations(work) == pytest.approx(
        saved_bytes(policy, lambda: forward(policy, batch, rollout)), rel=0.15
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_with_few_adapters_activations_are_estimated_from_above(shape: str, dtype: str) -> None:
    """Nothing that reaches the first layer needs a gradient, of which there are only two to five here."""
    policy, work, batch, rollout = built(shape, "many", dtype)
    policy, work = with_adapters(policy, work, dtype, ["q_proj", "v_proj"])
    assert 1 <= memory.activations(work) / saved_bytes(policy, lambda: forward(policy, batch, rollout)) < 1.3


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:`gradient_checkpointing_enable` is deprecated"
)  # its new name is younger than the oldest transformers
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_with_checkpointing_autograd_saves_the_inputs_of_the_layers(dtype: str, rows: str) -> None:
    """The final norm's output, which the log-probs hold, is not yet saved."""
    policy, work, batch, rollout = built("ungrouped", rows, dtype, checkpointing=True)
    held = saved_bytes(policy, lambda: forward(policy, batch, rollout)) + 4 * 40 * work.tokens
    assert memory.activations(work) == pytest.approx(held, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_one_layer_is_what_another_layer_adds(dtype: str, rows: str) -> None:
    saved = []
    for layers in (3, 2):
        policy, work, batch, rollout = built("grouped", rows, dtype, num_hidden_layers=layers)
        saved.append(saved_bytes(policy, lambda p=policy, b=batch, r=rollout: forward(p, b, r)))
    assert memory.layer_activations(work) + copies(work, 1) == pytest.approx(saved[0] - saved[1], rel=0.15)


NEEDIEST = {"layers": (31, 3), "logits": (1009, 3), "depth": (31, 11), "vocabulary": (4001, 3)}  # words, layers


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
@pytest.mark.parametrize(
    ("sizes", "dtype", "checkpointing", "max_tokens", "adapted"),
    [  # each of two settings with each of another
        ("layers", "fp32", False, None, False),
        ("layers", "bf16", True, 907, True),
        ("logits", "fp32", True, None, True),
        ("logits", "bf16", False, 907, False),
        ("depth", "fp32", False, 907, True),
        ("depth", "bf16", True, None, False),
        ("vocabulary", "fp32", True, 907, False),
        ("vocabulary", "bf16", False, None, True),
    ],
)
def test_an_update_allocates_what_is_estimated(
    sizes: str, dtype: str, checkpointing: bool, max_tokens: int | None, adapted: bool
) -> None:
    """Forward, log-probs of rollouts and rows, backward: whichever of logits and layers, of branches and rows needs
    more."""
    vocabulary, layers = NEEDIEST[sizes]
    policy, work, batch, rollout = built(
        "grouped", "chunks", dtype, checkpointing, vocab_size=vocabulary, num_hidden_layers=layers
    )
    if adapted:
        policy, work = with_adapters(policy, work, dtype)
    assert rollout is not None
    work = replace(work, network=replace(work.network, vocabulary=vocabulary), max_tokens=max_tokens)
    work = replace(work, group_tokens=UPDATE_TOKENS["cpu"])
    if max_tokens is not None:
        assert work.rows_at_a_time == 1
        batch, rollout = first_row(batch, rollout)

    def update(batch: Batch, rollout: Rollout | None) -> Callable[[], None]:
        assert rollout is not None
        branches = make_branches(rollout.blocks, rollout.tokens[..., :-1], branch_tokens(batch, max_tokens))

        def take() -> None:
            labels = branch_labels(batch, rollout, branches, 0.6), row_labels(batch)
            for part in policy.hidden_slices(batch, branches):
                here = [labels[0].within(part), *([labels[1]] if part.is_row else [])]
                (sum(values.sum() for values in policy.log_probs(part.hidden, *here)) + part.carried).backward()

        return take

    update(*rows_and_rollouts("few"))()  # what the first one allocates and keeps
    policy.model.zero_grad(set_to_none=True)
    parts = memory.estimate(work)
    most = max(
        sum(parts[part] for part in memory.PHASES[phase]) for phase in ("update", "update of the rows", "recomputation")
    )
    assert most == pytest.approx(peak_bytes(update(batch, rollout)), rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(("vocabulary", "layers"), [(1009, 3), (31, 13)], ids=["draws", "depth"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_rollouts_beside_the_activations_of_their_rows_allocate_what_is_estimated(
    dtype: str, vocabulary: int, layers: int
) -> None:
    """Of a step's only micro-batch. In a few layers what a layer of all branches needs for a moment would count as
    much, and is not estimated."""
    policy, work, batch, _ = built("grouped", "chunks", dtype, vocab_size=vocabulary, num_hidden_layers=layers)
    work = replace(work, network=replace(work.network, vocabulary=vocabulary), documents=work.rows)
    *_, n_samples, stride, context, length = ROWS["chunks"]
    sampler = geometry(n_samples=n_samples, stride=stride, context_length=context, generate_length=length)
    blocks = blocks_of(batch, sampler)
    draws = random_draws(batch, blocks, sampler)

    def roll_out() -> object:
        row = policy.kept_forward(batch)
        return row, sample(policy, batch, blocks, draws, 0.7, (), reuse=False, kept=row)

    roll_out()
    parts = memory.estimate(work)
    assert parts["kept rows"] > 0
    assert sum(parts[part] for part in memory.PHASES["rollouts"]) == pytest.approx(peak_bytes(roll_out), rel=0.15)


# By hand


def test_what_stays_is_counted_in_weights() -> None:
    """1009 parameters of 4 bytes: 4036 of weights, as much of gradients, twice of moments; phi has 13 * 5 + 293 =
    358."""
    parts = memory.estimate(SUPERVISED)
    assert {name: parts[name] for name in (*memory.LASTING, "gradients", "bf16 weights", "temporaries")} == {
        "weights": 4036,
        "optimizer": 8072,
        "feature network": 1432,
        "reference policy": 0,
        "gradients": 4036,
        "bf16 weights": 0,
        "temporaries": 0,
    }
    more = memory.estimate(replace(SUPERVISED, averaged=True, has_reference=True, steps_at_once=True, bf16=True))
    assert (more["optimizer"], more["reference policy"], more["temporaries"]) == (12108, 4036, 4036)
    assert (more["feature network"], more["bf16 weights"]) == (716, 2 * (13 * 5 + 3 * 293))


def test_activations_of_rows() -> None:
    """34 tokens. A layer: norms 6 * 5, attention 2 * 22 + 2 * 11, MLP 4 * 7, a sum for each of 2 heads: 126 numbers,
    17,136 bytes. Beside the layers 3 * 5 numbers of the norm and twice 11 of the angles. In bf16 4 * 5 + 2 numbers have
    four bytes, 5 * 5 + 44 + 22 + 28 have two."""
    assert memory.layer_activations(SUPERVISED) == 34 * 4 * 126
    assert memory.activations(SUPERVISED) == 34 * 4 * (3 * 126 + 15 + 22)
    assert memory.layer_activations(replace(SUPERVISED, bf16=True)) == 34 * (4 * 22 + 2 * 119)
    checkpointed = replace(SUPERVISED, checkpointing=True)
    assert memory.activations(checkpointed) == 34 * 4 * (3 * 5 + 15 + 22)
    assert (memory.estimate(checkpointed)["one layer"], memory.estimate(SUPERVISED)["one layer"]) == (17136, 0)


def test_branches_copy_keys_and_values_by_the_chunk() -> None:
    """A row has 17 + 6 * 4 = 41 tokens, 22 numbers more each in a layer. Its 24 own tokens are two chunks of 20, with 9
    + 20 keys each, two times 11 numbers a key; all layers share their masks of 20 queries."""
    assert BRANCHED.tokens == 82
    layer = 4 * (82 * (126 + 22) + 2 * 58 * 22)
    assert memory.layer_activations(BRANCHED) == layer
    assert memory.activations(BRANCHED) == 3 * layer + 4 * (2 * 58 * 20 + 82 * (15 + 22))


@pytest.mark.parametrize(
    ("group_tokens", "held"),
    [
        (None, 2 * (17 + 24)),
        (2 * 21, 2 * (17 + 21)),
        (2 * 5, 2 * (17 + 17)),  # as many as a row has
        (1000, 2 * (17 + 24)),  # all of them
    ],
)
def test_branches_go_in_groups_where_nothing_limits_tokens(group_tokens: int | None, held: int) -> None:
    grouped = replace(BRANCHED, group_tokens=group_tokens)
    assert grouped.held_tokens == held
    assert (grouped.rows_at_a_time, grouped.keeps_rows) == (BRANCHED.rows, BRANCHED.keeps_rows)
    assert replace(grouped, max_tokens=41).held_tokens == 41


def test_one_branch_longer_than_its_row_is_held_whole() -> None:
    assert replace(BRANCHED, branches=2.0, branch_tokens=101, group_tokens=10).held_tokens == 2 * (17 + 101)


def test_rows_alone_are_in_no_groups() -> None:
    assert replace(SUPERVISED, group_tokens=2).held_tokens == SUPERVISED.tokens


def test_a_limit_of_tokens_limits_what_grows_with_them() -> None:
    limited = replace(BRANCHED, max_tokens=41)
    assert (limited.held_tokens, replace(BRANCHED, max_tokens=1000).held_tokens) == (41, 82)
    assert [replace(BRANCHED, max_tokens=tokens).rows_at_a_time for tokens in (46, 47, 93, 94)] == [
        1,
        1,
        1,
        2,
    ]  # of 17 + 6 * 5 tokens
    assert [replace(SUPERVISED, max_tokens=tokens).rows_at_a_time for tokens in (17, 33, 34)] == [1, 1, 2]
    one_row = replace(BRANCHED, rows=1)
    assert memory.activations(limited) == memory.activations(one_row)
    assert [memory.estimate(limited)[part] for part in ("cache", "draws")] == [
        memory.estimate(one_row)[part] for part in ("cache", "draws")
    ]


def test_logits_are_bounded_by_what_is_computed_at_a_time() -> None:
    """48 positions of branches, apart from 34 of rows, of 13 tokens, twice; the next tokens of 12 branches, twice;
    of 12 completions, four times."""
    assert [memory.estimate(BRANCHED)[name] for name in ("logits", "draws")] == [4 * 2 * 48 * 13, 4 * 2 * 12 * 13]
    assert [memory.estimate(replace(BRANCHED, max_logits=101))[name] for name in ("logits", "draws")] == [
        4 * 2 * 101,
        4 * 2 * 101,
    ]
    assert memory.estimate(replace(BRANCHED, own_rows=True))["draws"] == 4 * 4 * 12 * 13
    assert memory.estimate(SUPERVISED)["draws"] == 0


def test_the_cache_holds_rows_once_and_completions_with_their_rows() -> None:
    """3 layers of 11 numbers for keys and as many for values; under autocast values have two bytes."""
    assert memory.estimate(SUPERVISED)["cache"] == 0
    assert memory.estimate(BRANCHED)["cache"] == 3 * 11 * 8 * 2 * (17 + 6 * 4)
    assert memory.estimate(replace(BRANCHED, bf16=True))["cache"] == 3 * 11 * 6 * 2 * (17 + 6 * 4)
    assert memory.estimate(replace(BRANCHED, own_rows=True))["cache"] == 3 * 11 * 8 * 2 * (17 + 6 * (17 + 4))
    assert memory.estimate(replace(BRANCHED, own_rows=True, seats=4))["cache"] == 3 * 11 * 8 * 2 * (
        17 + 2 * (17 + 3 * 4)
    )


def test_rollouts_are_drawn_together_as_far_as_an_update_of_one_micro_batch_holds_no_less() -> None:
    """Once eight were always: 122 GiB in place of 35 for a batch of 512 over 8 GPUs."""
    work = replace(BRANCHED, documents=70, most_together=8)
    recomputed = replace(work, checkpointing=True)
    deep = replace(recomputed, network=replace(NETWORK, layers=23))
    assert [memory.micro_batches_together(each) for each in (work, recomputed, deep, BRANCHED)] == [8, 3, 1, 1]
    alone = replace(BRANCHED, documents=70)
    for part in ("cache", "draws"):
        assert memory.estimate(recomputed)[part] == 3 * memory.estimate(alone)[part]
    assert memory.sampled_rows(replace(work, documents=11)) == 11
    parts = memory.estimate(recomputed)
    held = parts["activations"] + parts["row keys"] + parts["one layer"]
    assert 3 / 4 * held < parts["cache"] + parts["draws"] <= held


def test_rows_that_are_the_whole_step_keep_their_activations_while_they_are_sampled_from() -> None:
    """Their keys and values are among them. Two documents are two rows at a time; the third would come in another
    micro-batch."""
    whole = replace(BRANCHED, documents=2)
    parts = memory.estimate(whole)
    assert (
        parts["kept rows"]
        == parts["row activations"]
        == memory.activations(replace(SUPERVISED, reach=9.0, chunk_tokens=20))
    )
    assert parts["cache"] == 3 * 11 * 8 * 2 * 6 * 4
    copied = memory.estimate(replace(whole, own_rows=True))
    assert (copied["kept rows"], copied["cache"]) == (parts["kept rows"], 3 * 11 * 8 * 2 * 6 * (17 + 4))
    for other in ({"documents": 3}, {"max_tokens": 93}, {"checkpointing": True}, {"branches": 0.0}):
        assert not replace(whole, **other).keeps_rows
        assert memory.estimate(replace(whole, **other))["kept rows"] == 0
    assert replace(whole, max_tokens=94).keeps_rows  # of 17 + 6 * 5 tokens each


def parts_of(**sizes: int) -> dict[str, int]:
    return dict.fromkeys(memory.estimate(SUPERVISED), 0) | {
        name.replace("_", " "): size for name, size in sizes.items()
    }


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"weights": 2, "gradients": 3, "activations": 5, "logits": 7, "cache": 11}, ("update", 17)),
        ({"weights": 2, "gradients": 3, "activations": 5, "logits": 7, "cache": 13, "draws": 17}, ("rollouts", 32)),
        ({"weights": 2, "gradients": 3, "activations": 5, "logits": 7, "cache": 11, "kept_rows": 5}, ("rollouts", 18)),
        ({"weights": 2, "gradients": 3, "activations": 5, "logits": 7, "one_layer": 11}, ("recomputation", 21)),
        ({"weights": 2, "gradients": 3, "activations": 1, "temporaries": 2, "optimizer": 5}, ("optimizer step", 12)),
    ],
)
def test_phases_follow_one_another(sizes: dict[str, int], expected: tuple[str, int]) -> None:
    assert memory.peak(parts_of(**sizes)) == expected


@pytest.mark.parametrize(
    ("parts", "is_bound", "text"),
    [
        (
            parts_of(weights=3 << 20, gradients=3 << 20, activations=41 << 18),
            False,
            "about 16.2 MiB = weights 3.0 + gradients 3.0 + activations 10.2, in the update",
        ),
        (
            parts_of(weights=3 << 29, cache=7 << 28),
            True,
            "at most about 3.25 GiB = weights 1.50 + cache 1.75, in the rollouts",
        ),
    ],
)
def test_the_line_names_the_parts_of_the_largest_phase(
    monkeypatch: pytest.MonkeyPatch, parts: dict[str, int], is_bound: bool, text: str
) -> None:
    monkeypatch.setattr(memory, "estimate", lambda work: parts)
    assert memory.line(replace(SUPERVISED, is_bound=is_bound)) == text


def test_adapters_alone_have_gradients_and_moments() -> None:
    """Of 101 parameters, over a base of 1,009, of which 879 are in layers; packed, 64 of those have 32 bytes, a byte,
    and a 256th of a float32."""
    work = replace(SUPERVISED, adapters=101, phi_is_base=True)
    parts = memory.estimate(work)
    assert [parts[name] for name in ("weights", "optimizer", "gradients", "feature network", "bf16 weights")] == [
        4 * 1110,
        8 * 101,
        4 * 101,
        0,
        0,
    ]
    rounded = memory.estimate(replace(work, bf16=True))
    assert (rounded["weights"], rounded["bf16 weights"], rounded["optimizer"]) == (4 * 101 + 2 * 1009, 2 * 101, 8 * 101)
    packed = memory.estimate(replace(work, bf16=True, quantized=True, averaged=True))
    assert (packed["weights"], packed["optimizer"]) == (round(4 * 101 + 2 * 130 + 879 * (33 + 4 / 256) / 64), 12 * 101)


# Refusals

GIB = 2**30
# Qwen2.5-1.5B, four rows of 1,024 tokens with 127 blocks of four rollouts of eight tokens, the paper's geometry.
QWEN = Network(28, 1536, 8960, 12, 1536, 256, 151936, 1_543_714_304, 46_797_824)
LARGE = replace(
    SUPERVISED,
    network=QWEN,
    phi=QWEN,
    phi_layers=21,
    rows=4,
    row_tokens=1024,
    branches=508.0,
    branch_tokens=7,
    reach=512.0,
    chunk_tokens=126,
    max_logits=2**25,
    steps_at_once=True,
)


def needed(work: Workload) -> int:
    return memory.peak(memory.estimate(work))[1]


def test_what_fits_is_not_refused() -> None:
    assert memory.refusal(LARGE, needed(LARGE)) is None
    assert memory.refusal(LARGE, needed(LARGE) - 1) is not None


@pytest.mark.parametrize(
    ("work", "fitting", "change"),
    [
        (LARGE, replace(LARGE, rows=3), "trainer.micro_batch_size=3"),
        (LARGE, replace(LARGE, rows=1), "trainer.micro_batch_size=1"),
        (
            LARGE,
            replace(LARGE, rows=1, max_tokens=2304),
            "trainer.micro_batch_size=1 trainer.max_tokens_per_microbatch=2304",
        ),
        (replace(LARGE, rows=1), replace(LARGE, rows=1, max_tokens=1280), "trainer.max_tokens_per_microbatch=1280"),
        (replace(LARGE, max_tokens=4096), replace(LARGE, max_tokens=2048), "trainer.max_tokens_per_microbatch=2048"),
        (
            replace(LARGE, max_tokens=1280),
            replace(LARGE, max_tokens=1280, checkpointing=True),
            "trainer.gradient_checkpointing=true",
        ),
    ],
)
def test_the_refusal_names_smaller_micro_batches_first(work: Workload, fitting: Workload, change: str) -> None:
    assert (memory.refusal(work, needed(fitting)) or "").endswith(f" GiB for it; set {change}.")


def test_a_row_that_is_too_long_alone_is_recomputed_and_then_halved() -> None:
    """Rows without branches are not divided."""
    whole = replace(SUPERVISED, rows=1, row_tokens=4099)
    recomputed = replace(whole, checkpointing=True)
    halved = replace(recomputed, bf16=True)
    assert (memory.refusal(whole, needed(recomputed)) or "").endswith("; set trainer.gradient_checkpointing=true.")
    assert (memory.refusal(recomputed, needed(halved)) or "").endswith("; set trainer.dtype=bf16.")
    assert (memory.refusal(whole, needed(halved)) or "").endswith(
        "; set trainer.gradient_checkpointing=true trainer.dtype=bf16."
    )


def test_completions_are_divided_like_blocks() -> None:
    work = replace(LARGE, rows=1, branches=5.0, branch_tokens=4099, own_rows=True)
    assert (memory.refusal(work, needed(work) - 1) or "").endswith("; set trainer.max_tokens_per_microbatch=21504.")


def test_settings_are_named_together_where_one_is_not_enough() -> None:
    work = replace(SUPERVISED, rows=2, row_tokens=4099)
    both = replace(work, rows=1, checkpointing=True)
    text = memory.refusal(work, needed(both)) or ""
    assert text.endswith("; set trainer.gradient_checkpointing=true trainer.micro_batch_size=1.")


def test_the_refusal_says_what_is_needed_and_what_there_is() -> None:
    assert memory.refusal(replace(LARGE, is_bound=True), 7 * GIB) == (
        f"A step needs at most about {needed(LARGE) / GIB:.1f} GiB in its update, and the device has 7.0 GiB for it; "
        "neither smaller micro-batches nor "
        "recomputed activations nor bf16 save enough, so use a smaller model or a larger device."
    )


# Operations


def test_operations_of_a_token() -> None:
    """3 layers of 293 parameters, two operations each, and 4 * 22 for each token seen: 17 * 18 / 2 = 153 pairs of 17
    tokens; with branches also 24 * (9 + 5 / 2) = 276 of 24 more."""
    assert flops_per_token(SUPERVISED) == 3 * (2 * 293 + 4 * 22 * 9)
    assert flops_per_token(BRANCHED) == pytest.approx(3 * (2 * 293 + 4 * 22 * (153 + 276) / 41))


def test_shards_are_a_cure_where_there_are_processes_for_them() -> None:
    """Settings of the step come first, then shards of the weights, then both."""
    work = replace(LARGE, rows=1, max_tokens=None)
    sharded = partial(fullest, num_gpus=8, sharding=Sharding(KEPT_TO_SAMPLE, phi_is_sharded=False))
    room = sum(sharded(work)[1].values())
    assert room < needed(work)
    smallest = min(sum(memory.unsharded(smaller)[1].values()) for _, smaller in memory._changes(work))
    ways = {"trainer.parallel=fsdp2": sharded}
    assert (memory.refusal(work, smallest - 1, ways=ways) or "").endswith("; set trainer.parallel=fsdp2.") is (
        room < smallest
    )
    assert memory.refusal(work, room, sharded) is None
    assert (memory.refusal(work, room - 1, sharded) or "").startswith("A step needs about")
    assert memory.line(work, sharded).count("gathered") == 1
