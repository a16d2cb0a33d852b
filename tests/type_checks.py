"""Shapes and types execute in tests: every annotation in `ebft` is checked as its functions are called.

jaxtyping and beartype check functions that name shapes, beartype alone the others, where a call then costs a tenth.
With the numeric tower an int passes for a float, as for mypy.
"""

import re
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar

import jaxtyping
from beartype import BeartypeConf
from beartype.claw import beartype_package

EBFT = Path(__file__).parents[1] / "ebft"
SHAPED = tuple(  # beartype alone does not know how to leave out a name that is imported for mypy only
    ".".join(path.relative_to(EBFT.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(EBFT.rglob("*.py"))
    if re.search(r"from jaxtyping import|TYPE_CHECKING", path.read_text(encoding="utf-8"))
)
jaxtyped = jaxtyping.jaxtyped


def install() -> None:
    """Must come before the first import of `ebft`; never removed."""
    jaxtyping.jaxtyped = jaxtyped_where_shapes_are  # which modules look up as their functions are defined
    jaxtyping.install_import_hook(SHAPED, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
    conf = BeartypeConf(is_pep484_tower=True, claw_is_pep526=False, claw_skip_package_names=SHAPED)
    beartype_package("ebft", conf=conf)


def jaxtyped_where_shapes_are(*, typechecker: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """jaxtyping's decorator. A function without a shape gets the type checker that it calls, and nothing else."""
    with_shapes = jaxtyped(typechecker=typechecker)

    def decorate(target: Any) -> Any:
        if isinstance(target, FunctionType) and not names_shapes(target):
            return typechecker(target)
        return with_shapes(target)

    return decorate


def names_shapes(function: FunctionType) -> bool:
    """Whether an annotation is or holds one of jaxtyping's, or may: as text, or bound to a type variable."""
    return any(
        isinstance(annotation, str | TypeVar) or re.search(r"jaxtyping|~|ForwardRef", repr(annotation))
        for annotation in function.__annotations__.values()
    )
