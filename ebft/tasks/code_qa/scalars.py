"""What a question about one or two numbers, or about one text, can mean: nested operations, and choices between
results."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from ebft.tasks.code_qa.meanings import Meaning, Selection, filled, kept
from ebft.tasks.code_qa.parts import (
    BINARY,
    COMPARISONS,
    CONDITIONS,
    SINGLE_CONDITIONS,
    TEXT_TRANSFORMS,
    TRANSFORMS,
    Source,
    Transform,
)

NESTED_SHARE = 0.3
CHOICE_SHARE = 0.2
COMPARISON_SHARE = 0.5
NESTED_NAMES = ("compute", "calculate", "apply")
NUMBER = Source("number", "number", "number", "numbers", "", "", "", "$xs", "$xs")
ATOM = re.compile(r"\$?\w+(\.\w+|\([^()]*\)|\[[^\[\]]*\])*")


@dataclass(frozen=True)
class Expression:
    name: str
    english: str
    python: str

    def transformed(self, transform: Transform, operand: str) -> "Expression":
        """`operand` is the name of the transform's constant, since two nested ones need two."""
        inner = self.python if "($x)" in transform.code or ATOM.fullmatch(self.python) else f"({self.python})"
        english = filled(transform.single, k=operand).format(self.english)
        return Expression(f"{self.name} {transform.name}", english, filled(transform.code, x=inner, k=operand))


ARGUMENT = Expression("argument", "$xs", "$xs")
RESULT = Expression("result", "", "result")
YES, NO = Expression("yes", "", '"$yes"'), Expression("no", "", '"$no"')
BINARIES = tuple(Expression(*row) for row in BINARY)


def meanings() -> Iterator[Meaning]:
    for start, inputs, transforms in [(ARGUMENT, "number", TRANSFORMS["number"]), (ARGUMENT, "text", TEXT_TRANSFORMS)]:
        yield from nested(start, inputs, transforms)
    for start in BINARIES:
        yield from nested(start, "pair", TRANSFORMS["number"])
    yield from predicates()
    yield from choices()
    yield from comparisons()


def nested(start: Expression, inputs: str, transforms: tuple[Transform, ...]) -> Iterator[Meaning]:
    """An expression of one text or one or two numbers: one transform of it, and some of two."""
    if start is not ARGUMENT:
        yield Meaning(
            ("nested", inputs, start.name), inputs, (start.english,), (f"return {start.python}",), NESTED_NAMES
        )
    for transform in transforms:
        once = start.transformed(transform, "$k")
        bodies = [f"return {once.python}"]
        if start is not ARGUMENT:
            bodies.append(f"result = {start.python}\nreturn {RESULT.transformed(transform, '$k').python}")
        yield Meaning(("nested", inputs, *once.name.split()), inputs, (once.english,), tuple(bodies), NESTED_NAMES)
    for first, second in product(transforms, repeat=2):
        once = start.transformed(first, "$k")
        twice = once.transformed(second, "$m")
        parts = ("nested", inputs, *twice.name.split())
        if kept(parts, NESTED_SHARE) and (inputs != "text" or first.result == "text"):
            bodies = [
                f"return {twice.python}",
                f"result = {once.python}\nreturn {RESULT.transformed(second, '$m').python}",
            ]
            yield Meaning(parts, inputs, (twice.english,), tuple(bodies), NESTED_NAMES)


def predicates() -> Iterator[Meaning]:
    """Whether a number meets conditions, as a truth value and as one of two words."""
    for conditions in filter(None, CONDITIONS["number"]):
        selection = Selection(NUMBER, conditions)
        test, subject = selection.test, f"$xs is {selection.predicate}"
        whether = (f"whether {subject}", f"True if {subject}, otherwise False")
        bodies = (f"return {test}", f"if {test}:\n    return True\nreturn False")
        yield Meaning(("whether", selection.name), "number", whether, bodies, ("check", "test"))
        words = (f"'$yes' if {subject}, otherwise '$no'", f"'$yes' or '$no', depending on whether {subject}")
        yield Meaning(("word", selection.name), "number", words, choice(test, YES, NO), ("label", "describe"))


def choices() -> Iterator[Meaning]:
    """One result if a number meets a condition, otherwise another."""
    first = [ARGUMENT, *(ARGUMENT.transformed(transform, "$k") for transform in TRANSFORMS["number"])]
    second = [ARGUMENT, *(ARGUMENT.transformed(transform, "$m") for transform in TRANSFORMS["number"])]
    for conditions, yes, no in product(SINGLE_CONDITIONS, first, second):
        selection = Selection(NUMBER, conditions)
        parts = ("choice", selection.name, yes.name, no.name)
        if yes.name == no.name or not kept(parts, CHOICE_SHARE):
            continue
        phrases = (
            f"{yes.english} if $xs is {selection.predicate}, otherwise {no.english}",
            f"{yes.english} if $xs is {selection.predicate} and {no.english} if not",
        )
        yield Meaning(parts, "number", phrases, choice(selection.test, yes, no), ("choose", "adjust"))


def comparisons() -> Iterator[Meaning]:
    """One result if two numbers compare in a way, otherwise another."""
    for (name, english, test), yes, no in product(COMPARISONS, BINARIES, BINARIES):
        parts = ("comparison", name, yes.name, no.name)
        if yes is not no and kept(parts, COMPARISON_SHARE):
            phrases = (
                f"{yes.english} if {english}, otherwise {no.english}",
                f"{yes.english} if {english} and {no.english} if not",
            )
            yield Meaning(parts, "pair", phrases, choice(test, yes, no), ("combine", "decide"))


def choice(test: str, yes: Expression, no: Expression) -> tuple[str, ...]:
    return (
        f"return {yes.python} if {test} else {no.python}",
        f"if {test}:\n    return {yes.python}\nreturn {no.python}",
    )
