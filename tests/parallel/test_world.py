"""What processes tell one another."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ebft.config.schema import RunFailure, UserError
from ebft.parallel.world import SINGLE_PROCESS, World
from tests.processes import run_together


def conversation(world: World) -> dict[str, object]:
    ticks: list[int] = []
    parameters = [torch.zeros(2, 3, requires_grad=True), torch.zeros(5, requires_grad=True)]
    parameters[0].grad = torch.full((2, 3), float(world.rank + 1))  # the other one has no gradient here
    world.all_reduce_gradients(parameters)
    item = torch.tensor([world.rank, 1.5])
    return {
        "all_reduce": world.all_reduce(item).tolist(),
        "own": item.tolist(),
        "all_reduce_number": world.all_reduce_number(0.25 * world.rank),
        "all_reduce_max": world.all_reduce_max([world.rank, -world.rank]),
        "any": (world.any(world.rank == 1), world.any(False)),
        "all_gather": world.all_gather(f"rank {world.rank}"),
        "broadcast": world.broadcast(f"rank {world.rank}"),
        "share": [*world.share(range(6))],
        "map": world.map([3, 5, 7, 11, 13], lambda item: (item, world.rank), lambda: ticks.append(0)),
        "ticks": (len(ticks), world.num_rounds(5)),
        "gradients": [None if parameter.grad is None else parameter.grad.tolist() for parameter in parameters],
    }


@pytest.mark.slow
def test_three_processes(tmp_path: Path) -> None:
    heard = run_together(3, tmp_path, conversation)
    for rank, one in enumerate(heard):
        assert one["own"] == [rank, 1.5]
        assert one["share"] == [2 * rank, 2 * rank + 1]
        assert one["all_reduce"] == [3, 4.5]
        assert one["all_reduce_number"] == 0.75
        assert one["all_reduce_max"] == [2, 0]
        assert one["any"] == (True, False)
        assert one["all_gather"] == ["rank 0", "rank 1", "rank 2"]
        assert one["broadcast"] == "rank 0"
        assert one["map"] == [(3, 0), (5, 1), (7, 2), (11, 0), (13, 1)]
        assert one["ticks"] == (2, 2)
        assert one["gradients"] == [[[6.0] * 3] * 2, [0.0] * 5]


def test_one_process_talks_to_nobody() -> None:
    single = conversation(SINGLE_PROCESS)
    assert single["map"] == [(item, 0) for item in (3, 5, 7, 11, 13)]
    assert single["ticks"] == (5, 5)
    assert single["gradients"] == [[[1.0] * 3] * 2, None]


def refused(world: World, kind: type[Exception]) -> str:
    with pytest.raises(kind) as error, world.raise_together():  # noqa: PT012
        if world.rank == 1:
            raise kind("no.")
    return str(error.value)


def long_gradients(world: World) -> list[Tensor]:
    """More than a bucket holds."""
    import ebft.parallel.world

    ebft.parallel.world.BUCKET_ELEMENTS = 5
    parameters = [torch.zeros(size, requires_grad=True) for size in (7, 3, 1, 2)]
    for number, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, 10.0**number * (world.rank + 1))
    world.all_reduce_gradients(parameters)
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def refused_and_summed(world: World) -> tuple[list[str], list[Tensor]]:
    return [refused(world, kind) for kind in (UserError, RunFailure)], long_gradients(world)


@pytest.mark.slow
def test_a_refusal_is_everybodys_and_gradients_travel_in_buckets(tmp_path: Path) -> None:
    for refusals, gradients in run_together(2, tmp_path, refused_and_summed):
        assert refusals == ["no.", "no."]
        assert [gradient.unique().tolist() for gradient in gradients] == [[3.0], [30.0], [300.0], [3000.0]]
