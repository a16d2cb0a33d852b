import pytest

from ebft.tasks.translation import words
from ebft.tasks.translation.words import (
    FrenchAdjective,
    FrenchNoun,
    english_past,
    english_progressive,
    english_s,
    french_plural,
)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("cat", "cats"),
        ("box", "boxes"),
        ("bus", "buses"),
        ("church", "churches"),
        ("baby", "babies"),
        ("toy", "toys"),
        ("hero", "heroes"),
        ("cry", "cries"),
    ],
)
def test_english_s(word: str, expected: str) -> None:
    assert english_s(word) == expected


@pytest.mark.parametrize(
    ("word", "past", "progressive"),
    [("walk", "walked", "walking"), ("dance", "danced", "dancing"), ("cry", "cried", "crying")],
)
def test_regular_english_verbs(word: str, past: str, progressive: str) -> None:
    assert (english_past(word), english_progressive(word)) == (past, progressive)


@pytest.mark.parametrize(
    ("word", "expected"),
    [("chat", "chats"), ("souris", "souris"), ("gâteau", "gâteaux"), ("bleu", "bleus"), ("vieux", "vieux")],
)
def test_french_plurals(word: str, expected: str) -> None:
    assert french_plural(word) == expected


@pytest.mark.parametrize(
    ("adjective", "forms"),
    [
        ("small", ["petit", "petite", "petits", "petites"]),
        ("red", ["rouge", "rouge", "rouges", "rouges"]),
        ("beautiful", ["beau", "belle", "beaux", "belles"]),
        ("old", ["vieux", "vieille", "vieux", "vieilles"]),
        ("grey", ["gris", "grise", "gris", "grises"]),
        ("tired", ["fatigué", "fatiguée", "fatigués", "fatiguées"]),
    ],
)
def test_an_adjective_has_four_forms(adjective: str, forms: list[str]) -> None:
    (word,) = [word for word in words.ADJECTIVES if word.english == adjective]
    assert [word.french[0].form(gender, plural) for plural in (False, True) for gender in "mf"] == forms


def test_tables_are_read() -> None:
    nouns = {noun.english: noun for noun in words.NOUNS}
    assert nouns["horse"].french == (FrenchNoun("cheval", "chevaux", "m"),)
    assert nouns["man"].plural == "men"
    assert nouns["teacher"].french == (
        FrenchNoun("professeur", "professeurs", "m"),
        FrenchNoun("professeure", "professeures", "f"),
    )
    assert nouns["potato"].french == (FrenchNoun("pomme de terre", "pommes de terre", "f"),)
    assert nouns["water"].mass
    verbs = {verb.english: verb for verb in words.VERBS}
    assert (verbs["run"].past, verbs["run"].participle, verbs["run"].progressive) == ("ran", "run", "running")
    assert (verbs["come back"].past, verbs["come back"].particle, verbs["come back"].progressive) == (
        "came",
        "back",
        "coming",
    )
    assert (verbs["love"].state, verbs["love"].french, verbs["love"].past) == (True, ("aimer", "adorer"), "loved")
    assert verbs["sleep"].objects == frozenset()
    assert verbs["read"].objects == frozenset({"text"})
    big = next(adjective for adjective in words.ADJECTIVES if adjective.english == "big")
    assert big.french == (
        FrenchAdjective("grand", "grande", "grand", True),
        FrenchAdjective("gros", "grosse", "gros", True),
    )


def test_every_kind_has_nouns_and_adjectives() -> None:
    kinds = {noun.kind for noun in words.NOUNS}
    assert {kind for word in words.ADJECTIVES for kind in word.kinds} == kinds
    assert {kind for verb in words.VERBS for kind in verb.subjects | verb.objects} <= kinds


def test_a_few_hundred_words() -> None:
    assert len(words.NOUNS) + len(words.ADJECTIVES) + len(words.VERBS) > 200
    assert len({noun.english for noun in words.NOUNS}) == len(words.NOUNS)
