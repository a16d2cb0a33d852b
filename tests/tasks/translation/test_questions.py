import re
from collections import Counter
from hashlib import sha256
from itertools import islice

import pytest

from ebft.data.documents import held_out, of_question
from ebft.tasks.base import Question
from ebft.tasks.text_match import ChrF, ExactMatch
from ebft.tasks.translation.questions import NUM_QUESTIONS, questions
from tests.tasks.helpers import all_questions

pytestmark = pytest.mark.slow  # a process makes all questions


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    return all_questions("translation")


@pytest.fixture(scope="module")
def asked_back() -> list[Question]:
    return list(islice(questions("fr-en"), 500))


def test_ten_thousand_distinct_questions(asked: list[Question]) -> None:
    assert len(asked) == NUM_QUESTIONS == len({question.prompt for question in asked})
    assert len({question.key for question in asked}) > 5_000


def test_the_form_of_a_question(asked: list[Question], asked_back: list[Question]) -> None:
    for question in asked:
        lines = question.prompt.split("\n")
        assert lines[0].startswith("English: ")
        assert lines[1:] == ["French:"]
        assert question.answer == f" {question.references[0]}\n"
        assert question.direction == "en-fr"
        assert len(set(question.references)) == len(question.references)
        assert question.answer.endswith(".\n")
        assert "  " not in question.prompt + question.answer
    assert asked_back[0].prompt.startswith("French: ")
    assert asked_back[0].prompt.endswith("\nEnglish:")
    assert asked_back[0].direction == "fr-en"


def test_both_directions_ask_about_the_same_sentences(asked: list[Question], asked_back: list[Question]) -> None:
    english = asked[0].prompt.split("\n")[0].removeprefix("English: ")
    assert asked_back[0].references[0] == english
    assert asked_back[0].prompt.split("\n")[0] == f"French: {asked[0].references[0]}"
    assert asked_back[0].key == asked[0].key


def test_every_answer_is_right(asked: list[Question]) -> None:
    assert all(verdict.passed for verdict in ExactMatch().verify_all([question.answer for question in asked], asked))
    assert {
        ChrF().verify(reference, question).score for question in asked[:100] for reference in question.references
    } == {1.0}


def test_a_split_by_key_shares_no_combination_of_words(asked: list[Question]) -> None:
    """Tense, number, articles, attributes and circumstances are no part of the combination."""
    validation = held_out([of_question(question) for question in asked], 0.1)
    training = {question.key for question in asked} - validation
    assert not validation & training
    assert 0.1 <= sum(question.key in validation for question in asked) / len(asked) < 0.101


def test_words_of_held_out_questions_are_known_from_others(asked: list[Question]) -> None:
    """What is held out is how words combine, not the words."""
    validation = held_out([of_question(question) for question in asked], 0.1)
    training = Counter(word for question in asked if question.key not in validation for word in words(question))
    assert all(training[word] for question in asked if question.key in validation for word in words(question))


def words(question: Question) -> list[str]:
    return question.prompt.replace(".", "").split()


@pytest.mark.parametrize(
    "wrong",
    [
        " le eau",
        " la eau",
        " je ai",
        " je aime",
        " ne a",
        " ne est ",
        " de eau",
        " de le",
        " à le",
        " ma amie",
        " sa école",
        " ce homme",
        " ce arbre",
        " beau arbre",
        " vieux homme",
        " vieux arbre",
        " nouveau hôtel",
        " l'héros",
        " l'hibou",
        " l'hérisson",
        " l'haricot",
        " l'hache",
        " les chevals",
        " pas un",
        " pas des",
        " pas du",
    ],
)
def test_no_translation_has_a_known_mistake(asked: list[Question], wrong: str) -> None:
    found = re.compile(rf"{wrong}\b")
    assert [reference for question in asked for reference in question.references if found.search(f" {reference}")] == []


def test_the_first_thousand_are_the_same_everywhere(asked: list[Question]) -> None:
    assert list(islice(questions(), 200)) == asked[:200], "another process, with other hashes of strings"
    text = repr([(question.key, question.prompt, question.references) for question in asked[:1000]])
    assert sha256(text.encode()).hexdigest() == "4beb6c1182fddcccce7eb98a622158866699194ae6838a64033d0d5b4ff482a8"
