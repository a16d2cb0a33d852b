"""Shapes and types execute in tests: every annotation in `ebft` is checked as its functions are called.

jaxtyping and beartype check functions that name shapes, beartype alone the others. With the numeric tower an int
passes for a float, as for mypy. Functions of modules that name shapes are checked in their first `CALLS` calls of every
test: what comes after is a loop's, and took half of a miniature run.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import wraps
from pathlib import Path
from types import FunctionType
from typing import Any

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
SCOPE = jaxtyped("context")
CALLS = 16
tests_begun = 0


def install() -> None:
    """Must come before the first import of `ebft`; never removed."""
    jaxtyping.jaxtyped = decorator  # which modules look up as their functions are defined
    jaxtyping.install_import_hook(SHAPED, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
    conf = BeartypeConf(is_pep484_tower=True, claw_is_pep526=False, claw_skip_package_names=SHAPED)
    beartype_package("ebft", conf=conf)


def decorator(*, typechecker: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """jaxtyping's own, which checks the parameters of every call twice and binds them to a signature, at a third of its
    cost. A function gets the type checker, and a scope for axes only where it names shapes."""
    theirs = jaxtyped(typechecker=typechecker)

    def decorate(target: Any) -> Any:
        if isinstance(target, FunctionType) and not is_for_jaxtyping(target):
            checked = typechecker(target)
            return at_first(scoped(checked) if names_shapes(target) else checked, target)
        if is_dataclass(target) and isinstance(target, type) and "__init__" in vars(target):
            target.__init__ = decorate(target.__init__)  # type: ignore[misc]
            return target
        return theirs(target)

    return decorate


def begin_test() -> None:
    global tests_begun
    tests_begun += 1


def at_first(checked: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    """`checked` in the first `CALLS` calls of a test, `function` itself in the others."""
    test, calls = -1, 0

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal test, calls
        if test != tests_begun:
            test, calls = tests_begun, 0
        calls += 1
        return checked(*args, **kwargs) if calls <= CALLS else function(*args, **kwargs)

    return call


def scoped(function: Callable[..., Any]) -> Callable[..., Any]:
    """The axes of one call have one size each, in its parameters and its result."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with SCOPE:
            return function(*args, **kwargs)

    return call


def is_for_jaxtyping(function: FunctionType) -> bool:
    """Whether it yields, or has an annotation as text, which may name what is imported for mypy only."""
    annotations = function.__annotations__.values()
    is_text = any(isinstance(annotation, str) or "ForwardRef" in repr(annotation) for annotation in annotations)
    return is_text or inspect.isgeneratorfunction(function)


def names_shapes(function: FunctionType) -> bool:
    """Whether an annotation is or holds one of jaxtyping's, or may: bound to a type variable."""
    return any(re.search(r"jaxtyping|~", repr(annotation)) for annotation in function.__annotations__.values())
