"""What a question about many values can mean: the combinations of the parts that make sense, or a fixed share of them
where they are too many.

A meaning has several phrasings and several right spellings. Constants and names are still open in it: `$n`, `$xs`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import product
from string import Template

from ebft.tasks.code_qa.parts import (
    AGGREGATES,
    CHARACTERS,
    CONDITIONS,
    DIGITS,
    KEYS,
    LIST,
    NEGATIVE,
    POSITIVE,
    RANGE,
    SHORT,
    SPLIT,
    STAR,
    TRANSFORMS,
    UNSIGNED,
    VALUES,
    WORDS,
    ZERO,
    Aggregate,
    Condition,
    Source,
    Transform,
)

# Of the combinations that have a condition or a transform, and of those that have both.
PIPELINE_SHARES = {
    LIST: (0.7, 0.1),
    RANGE: (0.3, 0.03),
    DIGITS: (0.3, 0.03),
    VALUES: (0.2, 0.03),
    KEYS: (0.2, 0.03),
    CHARACTERS: (1.0, 0.5),
    WORDS: (1.0, 0.4),
    SPLIT: (0.5, 0.2),
}
EDIT_SHARE = 0.5
MAPPING_SHARE = 0.3


@dataclass(frozen=True)
class Meaning:
    """`inputs` is a key of code_inputs.ARGUMENT_NAMES, a phrase is what the function returns, a body the lines below
    `def`; the first body says what is right."""

    parts: tuple[str, ...]
    inputs: str
    phrases: tuple[str, ...]
    bodies: tuple[str, ...]
    function_names: tuple[str, ...]


@dataclass(frozen=True)
class Selection:
    """The values of a source that meet conditions, in English and in Python."""

    source: Source
    conditions: tuple[Condition, ...]

    @cached_property
    def name(self) -> str:
        return "+".join(condition.name for condition in self.conditions) or "any"

    @cached_property
    def test(self) -> str:
        return " and ".join(filled(condition.code, x=self.source.value) for condition in self.conditions)

    @cached_property
    def predicate(self) -> str:
        """What follows `is` or `are`."""
        return " and ".join(
            condition.phrases[0].replace("{}", "").strip().removeprefix("that are ") for condition in self.conditions
        )

    def noun(self, variant: int) -> str:
        phrase = "{}"
        for condition in self.conditions:
            phrase = phrase.format(condition.phrases[variant % len(condition.phrases)])
        return phrase.format(self.source.noun)

    def things(self, variant: int) -> str:
        if self.source.by_value:
            whose = f" whose values are {self.predicate}" if self.conditions else ""
            return f"{self.source.noun} {self.source.place}{whose}"
        return f"{self.noun(variant)} {self.source.place}"

    def each(self, item: str) -> str:
        """A generator's inside."""
        return f"{item} for {self.source.target} in {self.source.iterable}" + (
            f" if {self.test}" if self.conditions else ""
        )

    def loop(self, start: str, step: str, end: str) -> str:
        step = f"    if {self.test}:\n        {step}" if self.conditions else f"    {step}"
        return f"{start}\nfor {self.source.target} in {self.source.iterable}:\n{step}\n{end}".strip()

    def call(self, transform: Transform | None) -> str | None:
        """A call of filter or map, where one of them is enough."""
        if self.source.by_value or (transform is None) == (not self.conditions):
            return None
        function, result = ("filter", self.test) if transform is None else ("map", applied(transform, self.source.item))
        return f"{function}(lambda {self.source.item}: {result}, {self.source.iterable})"


def kept(parts: tuple[str, ...], share: float) -> bool:
    """Whether the meaning of these parts belongs to a fixed share of all, which must not be related to the share that a
    split holds out."""
    return int.from_bytes(sha256(f"kept {parts}".encode()).digest()[:8]) < share * 2**64


def name_of(transform: Transform | None) -> str:
    return "unchanged" if transform is None else transform.name


def filled(template: str, **names: str) -> str:
    """A template with these dollar names replaced, and the others left for later."""
    return Template(template).safe_substitute(names)


def applied(transform: Transform | None, item: str) -> str:
    return item if transform is None else filled(transform.code, x=item)


def selections(source: Source) -> list[Selection]:
    """Selections of values by every condition, and by none where that makes sense; by sign only where signs differ."""
    known = {POSITIVE, NEGATIVE} if source in UNSIGNED else set()
    return [
        Selection(source, conditions)
        for conditions in CONDITIONS["number" if source.by_value else source.element]
        if not known & set(conditions)
    ]


def transforms(source: Source) -> list[Transform]:
    return [
        transform for transform in TRANSFORMS[source.element] if source not in UNSIGNED or transform.name != "absolute"
    ]


def conditional(source: Source) -> list[Selection]:
    return [selection for selection in selections(source) if selection.conditions]


def meanings() -> Iterator[Meaning]:
    for family in (pipelines, universals, indices, edits, mappings, entries, tallies):
        yield from family()


def pipelines() -> Iterator[Meaning]:
    """An aggregate of the values that meet conditions, transformed."""
    for source, (share_of_one, share_of_both) in PIPELINE_SHARES.items():
        for selection, transform, aggregate in product(selections(source), (None, *transforms(source)), AGGREGATES):
            element = source.element if transform is None else transform.result
            if element not in aggregate.elements or not makes_sense(selection, transform, aggregate):
                continue
            parts = ("pipeline", source.name, selection.name, name_of(transform), aggregate.name)
            if kept(parts, share_of_both if selection.conditions and transform is not None else share_of_one):
                yield pipeline(parts, selection, transform, aggregate)


def makes_sense(selection: Selection, transform: Transform | None, aggregate: Aggregate) -> bool:
    if transform is not None:
        return aggregate.of_transformed
    return aggregate.plain or bool(selection.conditions)


def pipeline(
    parts: tuple[str, ...], selection: Selection, transform: Transform | None, aggregate: Aggregate
) -> Meaning:
    source, item = selection.source, applied(transform, selection.source.item)
    gen, call = selection.each(item), selection.call(transform)
    untouched = not selection.conditions and transform is None and not source.by_value
    codes = {
        "gen": gen,
        "values": source.iterable if untouched else gen,
        "all": source.iterable if untouched else f"[{gen}]",
        "test": selection.test,
        "target": source.target,
        "it": source.iterable,
    }
    bodies = [
        filled(spelling, map=str(call), **codes) for spelling in aggregate.spellings if call or "$map" not in spelling
    ]
    if aggregate.loop is not None:
        start, step, end = aggregate.loop
        bodies.append(selection.loop(start, filled(step, e=item), end))
    series = "the {}" if transform is None else transform.series
    phrases = [
        phrase.format(things=selection.things(variant), series=series.format(selection.things(variant)))
        for variant, phrase in enumerate(aggregate.phrases)
    ]
    return Meaning(parts, source.inputs, tuple(phrases), tuple(bodies), aggregate.function_names)


def universals() -> Iterator[Meaning]:
    """Whether all values meet conditions."""
    for selection in (selection for source in (SHORT, DIGITS) for selection in conditional(source)):
        source, test = selection.source, selection.test
        phrase = f"whether all {source.noun} {source.place} are {selection.predicate}"
        for_all = f"for {source.target} in {source.iterable}"
        bodies = (
            f"return all({test} {for_all})",
            f"{for_all}:\n    if not ({test}):\n        return False\nreturn True",
        )
        yield Meaning(("all", source.name, selection.name), source.inputs, (phrase,), bodies, ("all_are", "check_all"))


def indices() -> Iterator[Meaning]:
    """Meanings that ask for the places of the values that meet conditions."""
    for selection in (selection for source in (LIST, CHARACTERS, WORDS) for selection in conditional(source)):
        source, test = selection.source, selection.test
        phrases = (
            f"a list of the indices of the {selection.things(0)}",
            f"a list of the positions, from 0, of the {selection.things(1)}",
        )
        enumerated = f"for i, {source.target} in enumerate({source.iterable})"
        bodies = (
            f"return [i {enumerated} if {test}]",
            f"result = []\n{enumerated}:\n    if {test}:\n        result.append(i)\nreturn result",
        )
        yield Meaning(
            ("indices", source.name, selection.name), source.inputs, phrases, bodies, ("indices", "positions")
        )


def edits() -> Iterator[Meaning]:
    """All values, of which those that meet conditions are transformed."""
    for source, extra in ((LIST, [ZERO]), (CHARACTERS, [STAR]), (WORDS, [])):
        same_kind = [transform for transform in (*transforms(source), *extra) if transform.result == source.element]
        for selection, transform in product(conditional(source), same_kind):
            parts = ("edit", source.name, selection.name, transform.name)
            if kept(parts, EDIT_SHARE):
                yield edit(parts, selection, transform)


def edit(parts: tuple[str, ...], selection: Selection, transform: Transform) -> Meaning:
    source = selection.source
    phrases = tuple(
        f"$xs with {those} {selection.noun(i)} replaced by {transform.their}" for i, those in enumerate(("the", "all"))
    )
    choice = f"{applied(transform, source.item)} if {selection.test} else {source.item}"
    everything = Selection(source, ())
    if source is CHARACTERS:
        bodies = (
            f'return "".join({everything.each(choice)})',
            everything.loop('result = ""', f"result += {choice}", "return result"),
        )
    else:
        bodies = (
            f"return [{everything.each(choice)}]",
            everything.loop("result = []", f"result.append({choice})", "return result"),
        )
    return Meaning(parts, source.inputs, phrases, bodies, ("replace", "change"))


def mappings() -> Iterator[Meaning]:
    """A dictionary from values to what becomes of them."""
    for source in (LIST, RANGE, WORDS, SPLIT):
        for selection, transform in product(selections(source), transforms(source)):
            parts = ("mapping", source.name, selection.name, transform.name)
            if selection.conditions and not kept(parts, MAPPING_SHARE):
                continue
            new, old = applied(transform, source.item), source.item
            phrases = (
                f"a dictionary that maps the {selection.things(0)} to {transform.their}",
                f"a dictionary from the {selection.things(1)} to {transform.their}",
            )
            bodies = (
                f"return {{{selection.each(f'{old}: {new}')}}}",
                selection.loop("result = {}", f"result[{old}] = {new}", "return result"),
            )
            yield Meaning(parts, source.inputs, phrases, bodies, ("table", "make_map"))


def entries() -> Iterator[Meaning]:
    """A dictionary's entries whose values meet conditions, their values transformed."""
    for selection, transform in product(selections(KEYS), (None, *TRANSFORMS["number"])):
        parts = ("entries", selection.name, name_of(transform))
        share = (
            0
            if not selection.conditions and transform is None
            else MAPPING_SHARE
            if selection.conditions and transform is not None
            else 1
        )
        if not kept(parts, share):
            continue
        value = applied(transform, "v")
        whose = f" whose values are {selection.predicate}" if selection.conditions else ""
        replaced = f", with the values replaced by {transform.their}" if transform else ""
        phrases = (
            f"a dictionary of the entries of $xs{whose}{replaced}",
            f"the dictionary of all entries of $xs{whose}{replaced}",
        )
        bodies = (
            f"return {{{selection.each(f'k: {value}')}}}",
            selection.loop("result = {}", f"result[k] = {value}", "return result"),
        )
        yield Meaning(parts, KEYS.inputs, phrases, bodies, ("entries", "filter_table"))


def tallies() -> Iterator[Meaning]:
    """How often each of the values that meet conditions occurs."""
    for selection in (selection for source in (LIST, CHARACTERS, WORDS) for selection in selections(source)):
        source, item = selection.source, selection.source.item
        phrases = (
            f"a dictionary of how often each of the {selection.things(0)} occurs",
            f"a dictionary that maps the {selection.things(1)} to how often they occur",
        )
        bodies = (
            f"return {{{selection.each(f'{item}: $xs.count({item})')}}}",
            selection.loop("result = {}", f"result[{item}] = result.get({item}, 0) + 1", "return result"),
        )
        yield Meaning(("tally", source.name, selection.name), source.inputs, phrases, bodies, ("tally", "frequencies"))
