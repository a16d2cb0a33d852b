"""That the annotations of `ebft` execute, and none is lost where jaxtyping leaves a function to beartype."""

from collections.abc import Callable
from typing import Any

import beartype
import jaxtyping
import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from torch import Tensor

from ebft.geometry.blocks import first_own, to_branches
from ebft.parallel.fsdp import is_sharded
from tests.type_checks import jaxtyped_where_shapes_are, names_shapes


def test_shapes_of_one_call_agree() -> None:
    decorate = jaxtyped_where_shapes_are(typechecker=beartype.beartype)

    def total(x: Float[Tensor, "B T"], y: Float[Tensor, "B"]) -> float:
        return float(x.sum() + y.sum())

    checked = decorate(total)
    assert checked(torch.ones(2, 3), torch.ones(2)) == 8
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(torch.ones(2, 3), torch.ones(3))


def test_a_tensor_of_another_shape_or_type_is_an_error() -> None:
    for wrong in (torch.ones(2, 3), "text"):
        with pytest.raises(jaxtyping.TypeCheckError):
            to_branches(wrong)


@pytest.mark.parametrize(("function", "wrong"), [(first_own, ("1", None)), (is_sharded, (3,))])
def test_a_function_without_shapes_is_checked_too(function: Callable[..., Any], wrong: tuple[Any, ...]) -> None:
    with pytest.raises(BeartypeCallHintViolation):
        function(*wrong)


def test_a_result_is_checked() -> None:
    @jaxtyped_where_shapes_are(typechecker=beartype.beartype)
    def count(x: int) -> int:
        return f"{x}"  # type: ignore[return-value]

    with pytest.raises(BeartypeCallHintViolation):
        count(1)


def test_annotations_that_may_hold_shapes_are_left_to_jaxtyping() -> None:
    def nested(x: dict[str, tuple[int, Float[Tensor, "B"]]] | None) -> None: ...
    def text(x: "int") -> None: ...
    def plain(x: Callable[[int], Tensor], y: list[int]) -> Tensor | None: ...

    assert [names_shapes(function) for function in (nested, text, plain)] == [True, True, False]  # type: ignore[arg-type]
