"""Sentences before they are in any language: who does what, to what, when. They are drawn, the same ones always and
everywhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from ebft.tasks.draws import Draws
from ebft.tasks.translation.lexicon import FEELINGS, NAMES, NOT_PREDICATIVE, WITHOUT_PLACE
from ebft.tasks.translation.words import ADJECTIVES, NOUNS, PLACES, TIMES, VERBS, Adjective, Noun, Phrase, Verb

PRONOUNS = ("I", "you", "he", "she", "we", "they")
POSSESSIVES = ("my", "your", "his", "her", "our", "their")
NUMBERS = ("two", "three", "four")
DEFINITE = ("the",) * 6 + ("this",) + POSSESSIVES

# What is drawn from, things as often as they should come.
VERBS_AND_BE = [*VERBS] * 3 + [None] * len(VERBS)
TENSES = ("present", "present", "past", "future")
PLACES_OR_NONE = [*PLACES] + [None] * (2 * len(PLACES))
QUARTER = (True, False, False, False)
TWO_FIFTHS = (True, True, False, False, False)


@dataclass(frozen=True)
class NounPhrase:
    determiner: str  # the, this, a, a possessive, a number; empty before things of no certain number or amount
    noun: Noun
    plural: bool
    adjective: Adjective | None = None


@dataclass(frozen=True)
class Sentence:
    subject: NounPhrase | str  # or a pronoun or a name
    verb: Verb | None  # None: to be
    complement: NounPhrase | Adjective | None  # the object of a verb; what something is
    tense: str = "present"  # or past, future
    progressive: bool = False
    negative: bool = False
    place: Phrase | None = None
    time: Phrase | None = None

    @property
    def state(self) -> bool:
        return self.verb is None or self.verb.state

    @cached_property
    def key(self) -> str:
        """Who does what to what, without tense, number, article, attribute and circumstances."""
        verb = "be" if self.verb is None else self.verb.english
        return " ".join(word for word in (head(self.subject), verb, head(self.complement)) if word)


def head(part: NounPhrase | Adjective | str | None) -> str:
    if isinstance(part, NounPhrase):
        return part.noun.english
    return part.english if isinstance(part, Adjective) else part or ""


def draw(number: int) -> Sentence | None:
    """Sentence `number`, or None where the draw makes no good one."""
    draws = Draws(f"sentence {number}")
    verb, tense, progressive, negative, place = draws.one_of_each(
        VERBS_AND_BE, TENSES, (True, False), QUARTER, PLACES_OR_NONE
    )
    action = verb is not None and not verb.state and tense != "future"
    subject, complement = attribution(draws) if verb is None else deed(verb, draws)
    sentence = Sentence(
        subject,
        verb,
        complement,
        tense,
        progressive and action,
        negative,
        place=None if verb is None or verb.objects or verb.english in WITHOUT_PLACE else place,
        time=draws.pick(times(verb, tense, progressive and action)) if draws.pick(QUARTER) else None,
    )
    return None if head(subject) == head(complement) else sentence


def times(verb: Verb | None, tense: str, progressive: bool) -> Sequence[Phrase | None]:
    if tense != "present":
        return TIMES[tense]
    if verb is None or progressive:
        return TIMES["now"]
    return (None,) if verb.state else TIMES["always"]


def attribution(draws: Draws) -> tuple[NounPhrase | str, Adjective]:
    """Someone or something, and what it is."""
    subject = (
        person(draws) if draws.pick(range(3)) == 0 else noun_phrase(draws.pick(NOUNS), DEFINITE, draws, attribute=False)
    )
    kind = subject.noun.kind if isinstance(subject, NounPhrase) else "person"
    return subject, draws.pick([adjective for adjective in suiting(kind) if adjective.english not in NOT_PREDICATIVE])


def deed(verb: Verb, draws: Draws) -> tuple[NounPhrase | str, NounPhrase | None]:
    """Who does it, to what."""
    if "person" in verb.subjects and draws.pick(range(2)) == 0:
        subject: NounPhrase | str = person(draws)
    else:
        subject = noun_phrase(draws.pick(of_kinds(verb.subjects)), (*DEFINITE, "a", "a", *NUMBERS), draws)
    if not verb.objects:
        return subject, None
    indefinite = () if verb.english in FEELINGS else ("a",) * 5 + ("",) * 3 + NUMBERS
    return subject, noun_phrase(draws.pick(of_kinds(verb.objects)), DEFINITE + indefinite, draws)


def person(draws: Draws) -> str:
    return str(draws.pick(PRONOUNS * 2 + tuple(NAMES)))


def noun_phrase(noun: Noun, determiners: tuple[str, ...], draws: Draws, attribute: bool = True) -> NounPhrase:
    possible = [one for one in determiners if not noun.mass or one not in ("a", *NUMBERS)]
    determiner, plural, described, adjective = draws.one_of_each(possible, TWO_FIFTHS, TWO_FIFTHS, suiting(noun.kind))
    plural = not noun.mass and (determiner in ("", *NUMBERS) or (determiner != "a" and plural))
    return NounPhrase(determiner, noun, plural, adjective if attribute and described else None)


@cache
def suiting(kind: str) -> list[Adjective]:
    return [adjective for adjective in ADJECTIVES if kind in adjective.kinds]


@cache
def of_kinds(kinds: frozenset[str]) -> list[Noun]:
    return [noun for noun in NOUNS if noun.kind in kinds]
