"""A step over several GPUs, against numbers worked out by hand.

1009 parameters, of which 3 layers have 293 each and 130 lie outside; phi keeps 2 layers, 13 * 5 + 2 * 293 = 651
parameters. A document has 17 tokens and 6 branches of 5 tokens, the last of which only phi reads.
"""

from dataclasses import replace

import pytest

from ebft.cost import memory
from ebft.cost.memory_per_gpu import KEPT, KEPT_TO_SAMPLE, RESHARDED, SHARDED, WEIGHTS, Sharding
from ebft.cost.scaling import H100, Device, Scaling, Step, scaling
from tests.workloads import BRANCHED, NETWORK, SUPERVISED

WORK = replace(BRANCHED, phi_layers=2)
STEP = Step(WORK, 7, {"sampling": 41.0, "features": 47 * 2 / 3, "update": 123.0}, forward_tokens=17)
ROWS = Step(SUPERVISED, 7, {"update": 51.0}, forward_tokens=17)
DEVICE = Device("test", 0.5, 4000.0, 2000.0, 30_000, 1e12, 5, 700.0, 110.0)  # 550 bytes a second between nodes of 5
FLOPS = 3 * (2 * 293 + 88 * (153 + 276) / 41)  # of a token: test_memory.py


def on(num_gpus: int, step: Step = STEP, weights: str = RESHARDED, phi_is_sharded: bool = True) -> Scaling:
    return scaling(step, num_gpus, DEVICE, Sharding(weights, phi_is_sharded))


def gathered(scaled: Scaling) -> dict[str, float]:
    return {name: phase.all_gather_bytes for name, phase in scaled.phases.items()}


def test_operations_are_those_of_the_busiest_gpu() -> None:
    """3 of 7 documents on the first of three GPUs."""
    scaled = on(3)
    assert scaled.documents == 3
    assert {name: phase.flops for name, phase in scaled.phases.items()} == pytest.approx(
        {"sampling": 3 * 41 * FLOPS, "features": 47 * 2 * FLOPS, "update": 3 * 123 * FLOPS}
    )
    assert (
        on(7).total.flops == on(11).total.flops == pytest.approx((24 + 47 * 2 / 3 + 123) * FLOPS)
    )  # a document is not split


def test_a_single_micro_batch_forwards_its_rows_for_sampling_and_update_at_once() -> None:
    """Of two documents on each of four GPUs, and of one of seven, 24 tokens of branches are left to sample, in 4
    passes. Not where layers are recomputed."""
    for num_gpus, documents in ((4, 2), (7, 1)):
        sampling = on(num_gpus).phases["sampling"]
        assert sampling.flops == pytest.approx(documents * 24 * FLOPS)
        assert sampling.all_gather_bytes == pytest.approx(4 * 1009 * 4 * (num_gpus - 1) / num_gpus)
        recomputed = on(num_gpus, replace(STEP, work=replace(WORK, checkpointing=True))).phases["sampling"]
        assert recomputed.flops == pytest.approx(documents * 41 * FLOPS)
        assert recomputed.all_gather_bytes == pytest.approx(5 * 1009 * 4 * (num_gpus - 1) / num_gpus)


def test_a_feature_network_of_another_model_computes_as_its_own() -> None:
    """5 layers instead of 3 of the same width."""
    phi = replace(NETWORK, layers=5)
    scaled = on(3, replace(STEP, work=replace(WORK, phi=phi), tokens=STEP.tokens | {"features": 47 * 2 / 5}))
    assert scaled.phases["features"].flops == pytest.approx(3 * 47 * 2 / 5 * FLOPS * 5 / 3)
    assert scaled.phases["sampling"] == on(3).phases["sampling"]


def test_recomputed_activations_are_a_third_more_of_the_update() -> None:
    more = on(3, replace(STEP, work=replace(WORK, checkpointing=True)))
    assert more.phases["update"].flops == pytest.approx(4 * 3 * 41 * FLOPS)
    assert more.phases["sampling"].flops == on(3).phases["sampling"].flops


def test_every_forward_gathers_and_every_backward_gathers_the_layers() -> None:
    """Two micro-batches of at most two rows on three GPUs, two thirds of every number of 4 bytes. Passes: the row and 4
    tokens to sample; the row and two groups of three branches, since 17 tokens hold three of 5, to embed; the row and
    its branches to update."""
    assert gathered(on(3)) == pytest.approx(
        {"sampling": 2 * 5 * 1009 * 8 / 3, "features": 2 * 3 * 651 * 8 / 3, "update": 2 * 2 * 1888 * 8 / 3}
    )
    assert on(3).phases["update"].reduce_scatter_bytes == pytest.approx(2 * 2 * 1009 * 8 / 3)
    assert on(3).phases["sampling"].reduce_scatter_bytes == on(3).phases["features"].reduce_scatter_bytes == 0


def test_in_bf16_weights_have_half_the_bytes_and_gradients_all() -> None:
    half = on(3, replace(STEP, work=replace(WORK, bf16=True)))
    assert half.total.all_gather_bytes == pytest.approx(on(3).total.all_gather_bytes / 2)
    assert half.total.reduce_scatter_bytes == on(3).total.reduce_scatter_bytes


@pytest.mark.parametrize(
    ("weights", "sampling", "update"),
    [(RESHARDED, 10 * 1009, 4 * 1888), (KEPT_TO_SAMPLE, 1009, 4 * 1888), (KEPT, 1009, 0)],
)
def test_kept_weights_are_gathered_once(weights: str, sampling: int, update: int) -> None:
    found = gathered(on(3, weights=weights))
    assert found == pytest.approx({"sampling": sampling * 8 / 3, "features": 6 * 651 * 8 / 3, "update": update * 8 / 3})


def test_rows_alone_have_one_pass() -> None:
    assert gathered(on(3, ROWS)) == pytest.approx({"update": 2 * 1888 * 8 / 3})
    assert gathered(on(3, ROWS, KEPT)) == pytest.approx({"update": 1009 * 8 / 3})
    assert on(3, ROWS).total.reduce_scatter_bytes == pytest.approx(2 * 1009 * 8 / 3)


def test_a_whole_feature_network_sends_nothing() -> None:
    assert gathered(on(3, phi_is_sharded=False))["features"] == 0


def test_a_reference_policy_is_gathered_like_a_policy() -> None:
    """The row and its branches, in each of two micro-batches."""
    step = replace(
        STEP, work=replace(WORK, has_reference=True), tokens={"sampling": 41.0, "update": 123.0, "reference": 41.0}
    )
    assert gathered(on(3, step, KEPT))["reference"] == pytest.approx(4 * 1009 * 8 / 3)


@pytest.mark.parametrize(
    ("max_tokens", "passes"),
    [
        (94, 2 * (1 + 1)),  # two rows of 17 + 30 tokens; 30 places a row for 24 tokens of branches
        (93, 3 * (1 + 1)),  # one row, and 76 places
        (29, 3 * (1 + 2)),  # 12 places hold 3 of 6 branches
        (22, 3 * (1 + 6)),
    ],
)
def test_a_limit_of_tokens_makes_more_passes(max_tokens: int, passes: int) -> None:
    step = replace(STEP, work=replace(WORK, max_tokens=max_tokens))
    assert on(3, step).phases["update"].reduce_scatter_bytes == pytest.approx(passes * 1009 * 8 / 3)


def test_branches_of_one_token_have_none_of_their_own() -> None:
    """Sampled and trained on with the row, while phi reads them."""
    step = replace(STEP, work=replace(WORK, branch_tokens=0))
    assert gathered(on(3, step)) == pytest.approx(
        {"sampling": 2 * 1009 * 8 / 3, "features": 2 * 2 * 651 * 8 / 3, "update": 2 * 1888 * 8 / 3}
    )


def test_one_gpu_has_no_traffic_and_the_program_s_memory() -> None:
    for weights in WEIGHTS:
        scaled = on(1, weights=weights)
        assert (
            scaled.total.all_gather_bytes,
            scaled.total.reduce_scatter_bytes,
            scaled.total.traffic_seconds,
            scaled.bound_by_traffic,
        ) == (
            0,
            0,
            0,
            [],
        )
        assert sum(scaled.memory.values()) == memory.peak(memory.estimate(WORK))[1]


ADAPTED = replace(STEP, work=replace(WORK, adapters=101, phi_is_base=True))


def test_over_a_frozen_base_gradients_of_adapters_alone_are_scattered() -> None:
    """Base and adapters together are gathered; 3 layers of 293 and the adapters again in the backward."""
    assert gathered(on(3, ADAPTED)) == pytest.approx(
        {"sampling": 10 * 1110 * 8 / 3, "features": 6 * 651 * 8 / 3, "update": 4 * 2090 * 8 / 3}
    )
    assert on(3, ADAPTED).total.reduce_scatter_bytes == pytest.approx(4 * 101 * 8 / 3)


@pytest.mark.parametrize(("checkpointing", "forwards"), [(False, 2), (True, 3)])
def test_a_frozen_base_has_no_gradients_of_weights(checkpointing: bool, forwards: int) -> None:
    step = replace(ADAPTED, work=replace(ADAPTED.work, checkpointing=checkpointing))
    assert on(3, step).phases["update"].flops == pytest.approx(forwards * 3 * 41 * FLOPS)


def test_kept_weights_serve_a_feature_network_and_a_reference_that_are_the_base() -> None:
    step = replace(ADAPTED, tokens=ADAPTED.tokens | {"reference": 41.0})
    kept = {"sampling": 1110 * 8 / 3, "features": 0, "update": 0, "reference": 0}
    assert gathered(on(3, step, KEPT)) == gathered(on(3, step, KEPT, phi_is_sharded=False)) == pytest.approx(kept)
    assert gathered(on(3, step, KEPT_TO_SAMPLE))["features"] == pytest.approx(6 * 651 * 8 / 3)
    assert gathered(on(3, step))["reference"] == pytest.approx(4 * 1110 * 8 / 3)


# Seconds


def test_seconds_of_computing_are_operations_over_what_is_reached() -> None:
    assert on(3).total.compute_seconds == pytest.approx(on(3).total.flops / 1000)
    assert on(3, replace(STEP, work=replace(WORK, bf16=True))).total.compute_seconds == pytest.approx(
        on(3).total.flops / 2000
    )


def test_a_pass_takes_as_long_as_reading_the_weights() -> None:
    """10 passes of 4036 bytes, 6 of 2604, and 4 there and back of 4036, at 7 bytes a second."""
    slow = scaling(STEP, 3, replace(DEVICE, memory_bandwidth=7.0, fp32_flops=1e12), Sharding())
    assert slow.total.compute_seconds == pytest.approx((10 * 4036 + 6 * 2604 + 8 * 4036) / 7)


@pytest.mark.parametrize(("num_gpus", "bandwidth"), [(2, 700), (5, 700), (6, 550), (50, 550)])
def test_a_node_s_adapters_carry_a_ring_each(num_gpus: int, bandwidth: float) -> None:
    assert DEVICE.bandwidth(num_gpus) == bandwidth
    total = on(num_gpus).total
    assert total.traffic_seconds == pytest.approx((total.all_gather_bytes + total.reduce_scatter_bytes) / bandwidth)


def test_links_within_a_node_may_be_the_slower_ones() -> None:
    assert replace(DEVICE, node_bandwidth=500.0).bandwidth(50) == 500


def test_a_step_is_its_phases_each_as_long_as_the_slower_of_its_two() -> None:
    """5 passes to sample cost more traffic than operations when the device is fast; the rest computes longer."""
    scaled = scaling(STEP, 3, replace(DEVICE, fp32_flops=40_000.0), Sharding())
    sampling, features, update = scaled.phases.values()
    assert scaled.bound_by_traffic == ["sampling"]
    assert scaled.seconds == pytest.approx(sampling.traffic_seconds + features.compute_seconds + update.compute_seconds)


# Memory


@pytest.mark.parametrize("weights", WEIGHTS)
def test_twice_the_gpus_halve_what_is_sharded(weights: str) -> None:
    """From 7 GPUs on all have one document, so the rest stays."""
    step = replace(STEP, work=replace(WORK, averaged=True))
    few, many = on(8, step, weights).memory, on(16, step, weights).memory
    assert few.keys() == many.keys()
    for part, size in few.items():
        assert many[part] == pytest.approx(size / 2 if part in (*SHARDED, "feature network") else size, abs=1), part


def test_weights_on_their_way_are_two_layers_and_what_lies_outside() -> None:
    """In the update with the gradients of a layer, which has more than lies outside, twice."""
    assert on(8).memory["gathered"] == 4 * (130 + 2 * 293) + 8 * 293
    assert on(8, weights=KEPT).memory["gathered"] == 4 * 1009 + 8 * 293


def test_adapters_on_their_way_are_those_of_two_layers() -> None:
    """68 of 101, and gradients of one layer's 34, twice; feature network and base are the same."""
    step = replace(ADAPTED, work=replace(ADAPTED.work, branches=1.0))
    held = on(8, step).memory
    assert (held["gathered"], held["weights"]) == (4 * (716 + 68) + 8 * 34, 4 * 1110 / 8)
    assert "feature network" not in held
    assert on(8, step, KEPT).memory["gathered"] == 4 * 1110 + 8 * 34


def test_to_sample_all_weights_lie_beside_what_the_feature_network_gathers() -> None:
    """With many branches the cache makes sampling the largest phase; phi's window is its embedding and two layers."""
    step = replace(STEP, work=replace(WORK, own_rows=True, branches=601.0, max_tokens=50))
    scaled = on(8, step, KEPT_TO_SAMPLE)
    assert "cache" in scaled.memory
    assert scaled.memory["gathered"] == 4 * (1009 + 651)
    assert on(8, step, KEPT_TO_SAMPLE, phi_is_sharded=False).memory["gathered"] == 4 * 1009
    assert on(8, step).memory["gathered"] == 4 * (716 + 651)


def test_a_whole_feature_network_is_not_divided() -> None:
    assert on(8, phi_is_sharded=False).memory["feature network"] == 4 * 651
    assert on(8).memory["feature network"] == 326  # rounded up


def test_between_nodes_an_h100_has_what_eight_adapters_carry() -> None:
    """8 times 50 GB/s is less than NVLink's 450."""
    assert (H100.bandwidth(8), H100.bandwidth(64)) == (450e9, 400e9)
