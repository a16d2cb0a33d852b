"""That the annotations of `ebft` execute, and none is lost where jaxtyping leaves a function to beartype."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import beartype
import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from torch import Tensor

from ebft.geometry.blocks import first_own, to_branches
from ebft.parallel.fsdp import is_sharded
from tests.type_checks import decorator, is_for_jaxtyping, names_shapes


def test_shapes_of_one_call_agree() -> None:
    decorate = decorator(typechecker=beartype.beartype)

    def total(x: Float[Tensor, "B T"], y: Float[Tensor, "B"]) -> float:
        return float(x.sum() + y.sum())

    checked = decorate(total)
    assert checked(torch.ones(2, 3), torch.ones(2)) == 8
    with pytest.raises(BeartypeCallHintViolation):
        checked(torch.ones(2, 3), torch.ones(3))


def test_a_result_has_the_axes_of_the_parameters_and_calls_inside_have_their_own() -> None:
    @decorator(typechecker=beartype.beartype)
    def first(x: Float[Tensor, "T"]) -> Float[Tensor, "T"]:
        return x[:1]

    @decorator(typechecker=beartype.beartype)
    def outer(x: Float[Tensor, "T"]) -> Float[Tensor, "T"]:
        first(torch.ones(1))
        return x[: len(x) - 1] if x.sum() == 3 else x

    assert len(outer(torch.ones(2))) == 2
    with pytest.raises(BeartypeCallHintViolation):
        first(torch.ones(2))
    with pytest.raises(BeartypeCallHintViolation):
        outer(torch.ones(3))


def test_fields_of_a_dataclass_have_the_same_axes() -> None:
    @decorator(typechecker=beartype.beartype)
    @dataclass
    class Pair:
        x: Float[Tensor, "B T"]
        y: Float[Tensor, "B"]
        rest: list[int] = field(default_factory=list)

    assert Pair(torch.ones(2, 3), torch.ones(2)).rest == []
    with pytest.raises(BeartypeCallHintViolation):
        Pair(torch.ones(2, 3), torch.ones(3))
    with pytest.raises(BeartypeCallHintViolation):
        Pair(torch.ones(2, 3), torch.ones(2), rest=3)  # type: ignore[arg-type]


def test_a_tensor_of_another_shape_or_type_is_an_error() -> None:
    for wrong in (torch.ones(2, 3), "text"):
        with pytest.raises(BeartypeCallHintViolation):
            to_branches(wrong)


@pytest.mark.parametrize(("function", "wrong"), [(first_own, ("1", None)), (is_sharded, (3,))])
def test_a_function_without_shapes_is_checked_too(function: Callable[..., Any], wrong: tuple[Any, ...]) -> None:
    with pytest.raises(BeartypeCallHintViolation):
        function(*wrong)


def test_a_result_is_checked() -> None:
    @decorator(typechecker=beartype.beartype)
    def count(x: int) -> int:
        return f"{x}"  # type: ignore[return-value]

    with pytest.raises(BeartypeCallHintViolation):
        count(1)


def test_what_is_left_to_jaxtyping_or_to_beartype_alone() -> None:
    def nested(x: dict[str, tuple[int, Float[Tensor, "B"]]] | None) -> None: ...
    def text(x: "int") -> None: ...
    def plain(x: Callable[[int], Tensor], y: list[int]) -> Tensor | None: ...

    functions: Any = (nested, text, plain)
    assert [names_shapes(function) for function in functions] == [True, False, False]
    assert [is_for_jaxtyping(function) for function in functions] == [False, True, False]
