"""The words of the translation task as objects: what grammar needs to know of each, read from the tables of
lexicon.py."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ebft.tasks.translation import lexicon


@dataclass(frozen=True)
class FrenchNoun:
    singular: str
    plural: str
    gender: str  # m or f


@dataclass(frozen=True)
class Noun:
    english: str
    plural: str
    kind: str
    french: tuple[FrenchNoun, ...]  # the preferred translation first, as everywhere here
    mass: bool


@dataclass(frozen=True)
class FrenchAdjective:
    masculine: str
    feminine: str
    before_vowel: str  # masculine singular
    before_noun: bool

    def form(self, gender: str, plural: bool) -> str:
        singular = self.feminine if gender == "f" else self.masculine
        return french_plural(singular) if plural else singular


@dataclass(frozen=True)
class Adjective:
    english: str
    french: tuple[FrenchAdjective, ...]
    kinds: frozenset[str]  # of nouns that it suits


@dataclass(frozen=True)
class Verb:
    base: str
    past: str
    participle: str
    progressive: str
    particle: str  # of `look at`
    state: bool
    french: tuple[str, ...]  # infinitives
    subjects: frozenset[str]  # kinds of nouns
    objects: frozenset[str]  # none: intransitive

    @property
    def english(self) -> str:
        return f"{self.base} {self.particle}".strip()


@dataclass(frozen=True)
class Phrase:
    """What is translated as a whole."""

    english: str
    french: tuple[str, ...]


def rows(table: str) -> Iterator[list[str]]:
    for line in table.strip().splitlines():
        yield re.split(r" {2,}", line.strip())


def french_plural(word: str) -> str:
    if word.endswith(("s", "x", "z")):
        return word
    return word + ("x" if word.endswith("eau") else "s")


def english_s(word: str) -> str:
    """The form with -s: of a noun the plural, of a verb the form after he and she."""
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "sh", "ch", "o")) else "s")


def english_past(word: str) -> str:
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ied"
    return word + ("d" if word.endswith("e") else "ed")


def english_progressive(word: str) -> str:
    return word.removesuffix("e") + "ing"


def read_noun(columns: list[str], kind: str, mass: bool) -> Noun:
    english, plural = (columns[0].split(", ") * 2)[:2] if ", " in columns[0] else (columns[0], english_s(columns[0]))
    return Noun(english, plural, kind, tuple(map(read_french_noun, columns[1].split(" / "))), mass)


def read_french_noun(entry: str) -> FrenchNoun:
    forms, gender = entry.rsplit(" ", 1)
    singular, *plural = forms.split(", ")
    return FrenchNoun(singular, plural[0] if plural else french_plural(singular), gender)


def read_adjective(columns: list[str], before_noun: bool) -> Adjective:
    english, french, kinds = columns
    return Adjective(
        english,
        tuple(read_french_adjective(entry, before_noun) for entry in french.split(" / ")),
        frozenset(kinds.split()),
    )


def read_french_adjective(entry: str, before_noun: bool) -> FrenchAdjective:
    masculine, *others = entry.split()
    feminine = others[0] if others else masculine.removesuffix("e") + "e"
    return FrenchAdjective(masculine, feminine, others[1] if len(others) > 1 else masculine, before_noun)


def read_verb(columns: list[str]) -> Verb:
    english, french, subjects, *objects = columns
    first, *irregular = english.removesuffix(" *").split(", ")
    base, _, particle = first.partition(" ")
    regular = (english_past(base), english_past(base), english_progressive(base))
    past, participle, progressive = (*irregular, *regular[len(irregular) :])
    kinds = frozenset(objects[0].split()) if objects else frozenset()
    return Verb(
        base,
        past,
        participle,
        progressive,
        particle,
        english.endswith(" *"),
        tuple(french.split(" / ")),
        frozenset(subjects.split()),
        kinds,
    )


def read_phrases(table: str) -> list[Phrase]:
    return [Phrase(english, tuple(french.split(" / "))) for english, french in rows(table)]


NOUNS = [
    read_noun(columns, kind, mass)
    for tables, mass in ((lexicon.NOUNS, False), (lexicon.MASS_NOUNS, True))
    for kind, table in tables.items()
    for columns in rows(table)
]
ADJECTIVES = [
    read_adjective(columns, position == "before")
    for position, table in lexicon.ADJECTIVES.items()
    for columns in rows(table)
]
VERBS = [read_verb(columns) for columns in rows(lexicon.VERBS)]
PLACES = read_phrases(lexicon.PLACES)
TIMES = {name: read_phrases(table) for name, table in lexicon.TIMES.items()}
