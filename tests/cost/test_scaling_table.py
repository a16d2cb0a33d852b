"""The tables that plan_only=true prints, and that docs/scaling.md shows them as they are."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from ebft.cli.compose import compose
from ebft.config.schema import TrainConfig
from ebft.cost.memory_per_gpu import Sharding
from ebft.cost.scaling import H100, Device, Step, scaling
from ebft.cost.scaling_table import HEADER, assumptions, memory_table, table, too_small
from ebft.models.loading import load_architecture
from ebft.output.console import aligned
from ebft.train.budget import planned_step
from tests.workloads import BRANCHED, SUPERVISED

DEVICE = Device("test", 0.5, 4e12, 2e12, 3_000, 3e12, 5, 7e9, 11e9)
STEP = Step(BRANCHED, 7, {"sampling": 41.0, "features": 47 / 3, "update": 123.0}, forward_tokens=17)
DOC = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()


def test_a_row_for_every_number_and_way() -> None:
    header, rows = table(STEP, DEVICE)
    assert header == HEADER
    assert [row[:4] for row in rows] == [["1", "-", "1", "7"]] + [
        [number, way, "7", "1"] for number in ("8", "64", "512") for way in ("resharded", "kept to sample", "kept")
    ]
    assert all(len(row) == len(header) for row in rows)


def test_who_samples_nothing_keeps_nothing_to_sample() -> None:
    _, rows = table(Step(SUPERVISED, 7, {"update": 51.0}, forward_tokens=17), DEVICE)
    assert [row[1] for row in rows] == ["-", *["resharded", "kept"] * 3]


def test_figures_have_three_digits_and_too_much_is_marked() -> None:
    """One GPU has too few bytes: 3,000. It reaches half of 2 TFLOP/s, and reads as fast as it likes."""
    _, rows = table(STEP, DEVICE)
    flops, gathered, scattered, computing, traffic, step, waits, size, whole, size_whole = rows[0][4:]
    assert (gathered, scattered, traffic, waits) == ("0", "0", "0", "-")
    assert size == size_whole
    assert size.endswith("!")
    assert computing == step == whole
    assert float(computing) == pytest.approx(float(flops), rel=0.01)


def test_a_step_of_milliseconds_is_not_worth_sharing_unless_it_finds_no_room() -> None:
    assert too_small(STEP, DEVICE) is None
    roomy = replace(DEVICE, memory_bytes=10**9)
    seconds = scaling(STEP, 1, roomy, Sharding()).seconds
    assert (too_small(STEP, roomy) or "").startswith(
        f"nothing to gain: by formula a step takes one test {1000 * seconds:.3g} ms and "
    )
    slower = seconds / 0.011
    slow = replace(roomy, bf16_flops=DEVICE.bf16_flops * slower, fp32_flops=DEVICE.fp32_flops * slower)
    assert too_small(STEP, slow) is None


def test_memory_by_part() -> None:
    """4036 bytes of weights: 505 on 8 GPUs."""
    header, rows = memory_table(STEP, DEVICE)
    assert header == ["GiB of a GPU", "1", "8", "64", "512"]
    named = {row[0]: row[1:] for row in rows}
    assert named["weights"] == ["3.76e-06", "4.7e-07", "5.96e-08", "7.45e-09"]
    assert named["gathered"][0] == "-"
    assert list(named)[-1] == "together"


def test_what_is_assumed_is_said() -> None:
    assert assumptions(DEVICE)["device"] == "test, 4 TFLOP/s in bf16 and 2 in fp32, of which 50% are reached"
    assert assumptions(DEVICE)["links"] == "7 GB/s a GPU within nodes of 5, 11 GB/s a GPU between them"


def documented(config: TrainConfig) -> Step:
    """With the mean number of anchors that the document names, since its rows are those of another Python's library."""
    found = re.search(r"whose library filled\s([\d,]+)\srows\swith\s([\d,]+)\sanchors", DOC)
    assert found is not None
    rows, anchors = (int(number.replace(",", "")) for number in found.groups())
    return planned_step(config, load_architecture(config.model), anchors / rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides", ["", " trainer.batch_size=512", " method=sft", " method=rlvr method.max_new_tokens=256"]
)
def test_the_document_shows_what_is_printed(overrides: str) -> None:
    """Line by line, below the command."""
    command = f"ebft-train +experiment=scaling{overrides}"
    below = re.search(rf"^    {re.escape(command)}$\n(.*?)(?=^    ebft-train|\Z)", DOC, re.MULTILINE | re.DOTALL)
    assert below is not None
    step = documented(compose(shlex.split(command)[1:]))
    printed = [*aligned([table(step)[0], *table(step)[1]]), *aligned([memory_table(step)[0], *memory_table(step)[1]])]
    shown = below[1].splitlines()
    assert [line for line in printed if f"    {line}".rstrip() not in shown] == []


def test_the_document_s_model_has_the_size_that_it_says() -> None:
    network = documented(compose(["+experiment=scaling"])).work.network
    assert f"{network.parameters:,} parameters" in DOC
    assert f"{network.layer_parameters:,} in each of 32 layers" in DOC


def test_the_document_s_rule_of_thumb_is_that_of_the_h100() -> None:
    reached = H100.utilisation * H100.bf16_flops
    assert (
        f"which is {reached / H100.bandwidth(64):.0f} tokens across nodes and {reached / H100.bandwidth(8):.0f} "
        "within one." in DOC
    )
