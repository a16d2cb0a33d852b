"""What English a French sentence may be turned into."""

import pytest

from ebft.tasks.translation.english import english
from ebft.tasks.translation.sentences import NounPhrase, Sentence
from ebft.tasks.translation.words import ADJECTIVES, NOUNS, TIMES, VERBS

NOUN = {noun.english: noun for noun in NOUNS}
VERB = {verb.english: verb for verb in VERBS}
OPEN = next(word for word in ADJECTIVES if word.english == "open")


@pytest.mark.parametrize(
    ("sentence", "all_english"),
    [
        (Sentence("she", VERB["sleep"], None), ["she sleeps.", "she is sleeping."]),
        (
            Sentence("they", VERB["look for"], NounPhrase("the", NOUN["key"], True), "past"),
            ["they looked for the keys.", "they have looked for the keys."],
        ),
        (
            Sentence("I", VERB["work"], None, "past", progressive=True, negative=True),
            ["I was not working.", "I did not work."],
        ),
        (Sentence("he", VERB["have"], NounPhrase("her", NOUN["cat"], False)), ["he has her cat.", "he has his cat."]),
        (Sentence("I", VERB["wait"], None, "future"), ["I will wait.", "I am going to wait."]),
        (
            Sentence(NounPhrase("this", NOUN["door"], True), None, OPEN),
            ["these doors are open.", "those doors are open."],
        ),
        (
            Sentence("we", VERB["read"], NounPhrase("", NOUN["story"], True), negative=True),
            [
                "we do not read stories.",
                "we are not reading stories.",
                "we do not read any stories.",
                "we are not reading any stories.",
            ],
        ),
        (Sentence("Paul", VERB["fall"], None, "past", time=TIMES["past"][0]), ["Paul fell yesterday."]),
        (Sentence("you", None, OPEN, "past", negative=True), ["you were not open."]),
        (
            Sentence("I", VERB["see"], NounPhrase("a", NOUN["owl"], False, OPEN)),
            ["I see an open owl.", "I am seeing an open owl."],
        ),
    ],
)
def test_all_english_of_one_french(sentence: Sentence, all_english: list[str]) -> None:
    assert list(english(sentence)) == all_english
