"""French of the translation task: gender, number and agreement, the place of adjectives, tenses, negation, elision."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

from ebft.tasks.translation.lexicon import ASPIRATED, CONJUGATIONS, NAMES, WITH_ETRE
from ebft.tasks.translation.sentences import NUMBERS, NounPhrase, Sentence
from ebft.tasks.translation.words import Adjective, FrenchAdjective, FrenchNoun, Phrase, rows

# Masculine, feminine, plural.
DETERMINERS = {
    "the": ("le", "la", "les"),
    "a": ("un", "une", "des"),
    "this": ("ce", "cette", "ces"),
    "my": ("mon", "ma", "mes"),
    "his": ("son", "sa", "ses"),
    "her": ("son", "sa", "ses"),
    "our": ("notre", "notre", "nos"),
    "their": ("leur", "leur", "leurs"),
}
YOUR = {"tu": ("ton", "ta", "tes"), "vous": ("votre", "votre", "vos")}
BEFORE_VOWEL = {"ce": "cet", "ma": "mon", "ta": "ton", "sa": "son"}
ELIDED = {"le", "la", "je", "ne", "de"}
CONTRACTED = {("de", "le"): "du"}
FRENCH_NUMBERS = dict(zip(NUMBERS, ("deux", "trois", "quatre"), strict=True))
FUTURE_ENDINGS = ("ai", "as", "a", "ons", "ez", "ont")
IMPERFECT_ENDINGS = ("ais", "ais", "ait", "ions", "iez", "aient")
JE, TU, IL, NOUS, VOUS, ILS = range(6)


@dataclass(frozen=True)
class Subject:
    """One right translation of a subject, with all that agrees with it."""

    words: tuple[str, ...]
    person: int
    gender: str
    plural: bool
    address: str = ""  # how `you` and `your` are said here: tu or vous


PRONOUNS = {
    "I": (Subject(("je",), JE, "m", False), Subject(("je",), JE, "f", False)),
    "you": (
        *(Subject(("tu",), TU, gender, False, "tu") for gender in "mf"),
        *(Subject(("vous",), VOUS, gender, plural, "vous") for plural in (False, True) for gender in "mf"),
    ),
    "he": (Subject(("il",), IL, "m", False),),
    "she": (Subject(("elle",), IL, "f", False),),
    "we": (Subject(("nous",), NOUS, "m", True), Subject(("nous",), NOUS, "f", True)),
    "they": (Subject(("ils",), ILS, "m", True), Subject(("elles",), ILS, "f", True)),
}


def french(sentence: Sentence) -> Iterator[str]:
    """All right translations that the grammar knows, the preferred one first, some more than once."""
    circumstances = list(product(wordings(sentence.place), wordings(sentence.time)))
    for subject, tense in product(subjects(sentence.subject), tenses(sentence)):
        infinitives = ("être",) if sentence.verb is None else sentence.verb.french
        for infinitive, complement in product(infinitives, complements(sentence, subject)):
            clause = (*subject.words, *verb_group(infinitive, tense, subject, sentence.negative), *complement)
            for place, time in circumstances:
                yield joined((*clause, *place, *time)) + "."
                if time:
                    yield f"{time[0]}, {joined((*clause, *place))}."


def wordings(phrase: Phrase | None) -> list[tuple[str, ...]]:
    return [()] if phrase is None else [(wording,) for wording in phrase.french]


def subjects(subject: NounPhrase | str) -> Iterator[Subject]:
    if isinstance(subject, NounPhrase):
        for address in addresses(subject, ""):
            for words, gender in noun_phrases(subject, address, negative=False):
                yield Subject(words, ILS if subject.plural else IL, gender, subject.plural, address)
    elif subject in NAMES:
        yield Subject((subject,), IL, NAMES[subject], False)
    else:
        yield from PRONOUNS[subject]


def complements(sentence: Sentence, subject: Subject) -> Iterator[tuple[str, ...]]:
    if isinstance(sentence.complement, Adjective):
        yield from ((adjective.form(subject.gender, subject.plural),) for adjective in sentence.complement.french)
    elif sentence.complement is None:
        yield ()
    else:
        for address in addresses(sentence.complement, subject.address):
            yield from (words for words, _ in noun_phrases(sentence.complement, address, sentence.negative))


def addresses(phrase: NounPhrase, settled: str) -> tuple[str, ...]:
    """How `your` may be said, consistently with how the sentence has said `you` so far."""
    return ("tu", "vous") if phrase.determiner == "your" and not settled else (settled,)


def noun_phrases(phrase: NounPhrase, address: str, negative: bool) -> Iterator[tuple[tuple[str, ...], str]]:
    """Words and gender; `negative` of the object of a verb that is denied."""
    adjectives: Sequence[FrenchAdjective | None] = (None,) if phrase.adjective is None else phrase.adjective.french
    for noun, adjective in product(phrase.noun.french, adjectives):
        words = described(noun, adjective, phrase.plural)
        for determiner in determiners(phrase, noun, adjective, address, negative):
            yield with_determiner(determiner, words), noun.gender


def described(noun: FrenchNoun, adjective: FrenchAdjective | None, plural: bool) -> tuple[str, ...]:
    word = noun.plural if plural else noun.singular
    if adjective is None:
        return (word,)
    form = adjective.form(noun.gender, plural)
    if not adjective.before_noun:
        return (word, form)
    return (adjective.before_vowel if noun.gender == "m" and not plural and elides(word) else form, word)


def determiners(
    phrase: NounPhrase, noun: FrenchNoun, adjective: FrenchAdjective | None, address: str, negative: bool
) -> Iterator[tuple[str, ...]]:
    column = 2 if phrase.plural else "mf".index(noun.gender)
    if phrase.determiner in FRENCH_NUMBERS:
        yield (FRENCH_NUMBERS[phrase.determiner],)
    elif phrase.determiner == "your":
        yield (YOUR[address][column],)
    elif phrase.determiner not in ("", "a"):
        yield (DETERMINERS[phrase.determiner][column],)
    elif negative:
        yield ("de",)
    elif phrase.noun.mass:
        yield ("de", DETERMINERS["the"][column])
    else:
        if phrase.plural and adjective is not None and adjective.before_noun:
            yield ("de",)
        yield (DETERMINERS["a"][column],)


def with_determiner(determiner: tuple[str, ...], words: tuple[str, ...]) -> tuple[str, ...]:
    return (*(BEFORE_VOWEL.get(word, word) if elides(words[0]) else word for word in determiner), *words)


def tenses(sentence: Sentence) -> tuple[str, ...]:
    """French tenses for the English one, the preferred first."""
    if sentence.tense == "future":
        return ("future", "near future")
    if sentence.tense == "past":
        return ("imperfect", "perfect") if sentence.state else ("imperfect",) if sentence.progressive else ("perfect",)
    return ("present", "continuous") if sentence.progressive and not sentence.negative else ("present",)


def verb_group(infinitive: str, tense: str, subject: Subject, negative: bool) -> list[str]:
    """The finite verb, negation around it, and what follows."""
    if tense == "perfect":
        is_motion = infinitive in WITH_ETRE
        participle = conjugation(infinitive).participle
        agreeing = FrenchAdjective(participle, participle + "e", participle, False).form(subject.gender, subject.plural)
        finite, rest = (
            conjugated("être" if is_motion else "avoir", "present", subject.person),
            [agreeing if is_motion else participle],
        )
    elif tense == "near future":
        finite, rest = conjugated("aller", "present", subject.person), [infinitive]
    elif tense == "continuous":
        finite, rest = conjugated("être", "present", subject.person), ["en train", "de", infinitive]
    else:
        finite, rest = conjugated(infinitive, tense, subject.person), []
    return ["ne", finite, "pas", *rest] if negative else [finite, *rest]


@dataclass(frozen=True)
class Conjugation:
    present: tuple[str, ...]
    participle: str
    future_stem: str


IRREGULAR = {
    infinitive: Conjugation(tuple(present.split()), participle, future_stem)
    for infinitive, present, participle, future_stem in rows(CONJUGATIONS)
}


@cache
def conjugation(infinitive: str) -> Conjugation:
    if infinitive in IRREGULAR:
        return IRREGULAR[infinitive]
    stem, ending = infinitive[:-2], infinitive[-2:]
    if ending == "er":
        before_o = stem + "e" if stem.endswith("g") else stem[:-1] + "ç" if stem.endswith("c") else stem
        return Conjugation(
            (stem + "e", stem + "es", stem + "e", before_o + "ons", stem + "ez", stem + "ent"), stem + "é", infinitive
        )
    if ending == "ir":
        return Conjugation(
            tuple(stem + end for end in ("is", "is", "it", "issons", "issez", "issent")), stem + "i", infinitive
        )
    assert ending == "re", infinitive
    return Conjugation(tuple(stem + end for end in ("s", "s", "", "ons", "ez", "ent")), stem + "u", infinitive[:-1])


@cache
def conjugated(infinitive: str, tense: str, person: int) -> str:
    """Present, future or imperfect."""
    forms = conjugation(infinitive)
    if tense == "present":
        return forms.present[person]
    if tense == "future":
        return forms.future_stem + FUTURE_ENDINGS[person]
    assert tense == "imperfect", tense
    ending = IMPERFECT_ENDINGS[person]
    if infinitive == "être":
        return "ét" + ending
    softened = infinitive.endswith(("ger", "cer")) and ending.startswith("i")  # mangeais, but mangions
    return (infinitive[:-2] if softened else forms.present[NOUS].removesuffix("ons")) + ending


def elides(word: str) -> bool:
    """Whether `le` loses its vowel before the word: before a vowel, and before an h that is not aspirated."""
    return word[0] in "aeiouâàéèêëîïôöûùœh" and word not in ASPIRATED


def joined(words: Sequence[str]) -> str:
    """The words as a text, with elision and contraction: j'aime, l'eau, du pain."""
    result = ""
    for i, word in enumerate(words):
        following = words[i + 1] if i + 1 < len(words) else ""
        if following and word in ELIDED and elides(following):
            result += word[:-1] + "'"
        elif (word, following) in CONTRACTED and not elides(words[i + 2]):
            result += CONTRACTED[word, following] + " "
        elif i and (words[i - 1], word) in CONTRACTED and not elides(following):
            continue
        else:
            result += word + " "
    return result.strip()
