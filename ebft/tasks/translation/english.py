"""English of the translation task: agreement, tenses, negation."""

from collections.abc import Iterator

from ebft.tasks.translation.sentences import NounPhrase, Sentence
from ebft.tasks.translation.words import Adjective, english_s

# Singular, plural.
BE = {"present": ("is", "are"), "past": ("was", "were")}
HAVE = ("has", "have")
# What French does not tell apart, the first standing for itself.
LIKE_DETERMINERS = {"his": ("his", "her"), "her": ("her", "his"), "this": ("this", "that"), "": ("", "some")}
LIKE_DENIED = LIKE_DETERMINERS | {"": ("", "any"), "a": ("a", "any")}
PLURALS = {"this": "these", "that": "those"}


def english(sentence: Sentence) -> Iterator[str]:
    """The sentence, and then others whose French is the same."""
    for subject in noun_phrases(sentence.subject, False):
        for complement in noun_phrases(sentence.complement, sentence.negative):
            for verb in verbs(sentence):
                circumstances = [phrase.english for phrase in (sentence.place, sentence.time) if phrase is not None]
                yield " ".join(word for word in (subject, verb, complement, *circumstances) if word) + "."


def noun_phrases(phrase: NounPhrase | Adjective | str | None, negative: bool) -> Iterator[str]:
    """`negative` of what a denied verb takes."""
    if not isinstance(phrase, NounPhrase):
        yield phrase.english if isinstance(phrase, Adjective) else phrase or ""
        return
    noun = phrase.noun.plural if phrase.plural else phrase.noun.english
    words = noun if phrase.adjective is None else f"{phrase.adjective.english} {noun}"
    for determiner in (LIKE_DENIED if negative else LIKE_DETERMINERS).get(phrase.determiner, (phrase.determiner,)):
        if determiner == "a" and words[0].lower() in "aeiou":
            determiner = "an"
        yield f"{PLURALS.get(determiner, determiner) if phrase.plural else determiner} {words}".strip()


def verbs(sentence: Sentence) -> Iterator[str]:
    """The verb as the sentence has it, and in the other aspects for which French has the same tense."""
    yield verb_group(sentence, sentence.progressive)
    if sentence.tense == "future":
        yield joined(be(sentence, "present"), sentence, f"going to {infinitive(sentence)}")
    if sentence.verb is None or sentence.tense == "future":
        return
    if not sentence.state and (sentence.tense == "present" or sentence.progressive):
        yield verb_group(sentence, not sentence.progressive)
    if sentence.tense == "past" and not sentence.progressive and not sentence.state and sentence.time is None:
        yield joined(HAVE[is_plural(sentence)], sentence, f"{sentence.verb.participle} {sentence.verb.particle}")


def verb_group(sentence: Sentence, progressive: bool) -> str:
    verb, tense, plural = sentence.verb, sentence.tense, is_plural(sentence)
    if tense == "future":
        return joined("will", sentence, infinitive(sentence))
    if verb is None:
        return joined(be(sentence, tense), sentence, "")
    if progressive:
        return joined(be(sentence, tense), sentence, f"{verb.progressive} {verb.particle}")
    if sentence.negative:
        return joined("did" if tense == "past" else "do" if plural else "does", sentence, verb.english)
    form = verb.past if tense == "past" else verb.base if plural else third_person(verb.base)
    return f"{form} {verb.particle}".strip()


def third_person(base: str) -> str:
    return "has" if base == "have" else english_s(base)


def infinitive(sentence: Sentence) -> str:
    return "be" if sentence.verb is None else sentence.verb.english


def be(sentence: Sentence, tense: str) -> str:
    if sentence.subject == "I":
        return "am" if tense == "present" else "was"
    return BE[tense][is_plural(sentence)]


def is_plural(sentence: Sentence) -> bool:
    """Whether the verb has its plural form: `I have` and `you have` are as `we have`."""
    subject = sentence.subject
    return subject.plural if isinstance(subject, NounPhrase) else subject in ("I", "you", "we", "they")


def joined(auxiliary: str, sentence: Sentence, rest: str) -> str:
    return " ".join(word for word in (auxiliary, "not" if sentence.negative else "", rest.strip()) if word)
