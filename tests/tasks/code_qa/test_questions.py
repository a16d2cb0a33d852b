from hashlib import sha256
from itertools import islice
from typing import Any

import pytest

from ebft.data.documents import held_out, of_question
from ebft.tasks.base import Question
from ebft.tasks.code_qa.questions import FUNCTION_NAMES, questions
from tests.tasks.helpers import all_questions

pytestmark = pytest.mark.slow  # a process makes all questions


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    return all_questions("code_qa")


def function(question: Question) -> Any:
    assert question.tests is not None
    namespace: dict[str, Any] = {}
    exec(question.answer, namespace)  # of this project's own making
    return namespace[question.tests.entry_point]


def test_thousands_of_distinct_questions(asked: list[Question]) -> None:
    assert 6_000 < len(asked) == len({question.prompt for question in asked}) < 12_000
    assert len({question.key for question in asked}) > 2_000


def test_every_answer_passes_its_own_tests(asked: list[Question]) -> None:
    """Whichever of the spellings it is; what is wanted is what the first returns."""
    for question in asked:
        answer = function(question)
        assert question.tests is not None
        for case in question.tests.cases:
            result = answer(*case.arguments)
            assert (result, type(result)) == (case.expected, type(case.expected)), question


def test_tests_are_few_and_no_constant_passes_them(asked: list[Question]) -> None:
    for question in asked:
        assert question.tests is not None
        assert 4 <= len(question.tests.cases) <= 8
        assert len({repr(case.expected) for case in question.tests.cases}) > 1, question


def test_prompts_name_the_function_and_are_short(asked: list[Question]) -> None:
    for question in asked:
        assert question.tests is not None
        signature = question.answer.removeprefix("def ").partition(":\n")[0]
        assert signature.startswith(f"{question.tests.entry_point}(")
        assert f"`{signature}`" in question.prompt
        assert question.prompt.startswith("# ")
        assert question.prompt.count("\n") == 1
        assert question.prompt.endswith("\n")
        assert len(question.prompt.split()) <= 40
        assert question.answer.count("\n") <= 6
        assert question.answer.endswith("\n")
        assert "$" not in question.prompt + question.answer


def test_one_meaning_is_asked_and_answered_in_several_ways(asked: list[Question]) -> None:
    prompts = [question.prompt for question in asked if question.key == "pipeline list even unchanged sum"]
    assert len(prompts) == 3
    openings = {question.prompt.split("`")[0] for question in asked}
    assert openings == {"# Write a function ", "# Define ", "# ", "# Implement ", "# How do you write "}
    sums = {
        question.answer.split("\n")[1].split("(")[0]
        for question in asked
        if question.key.startswith("pipeline list") and question.key.endswith(" sum")
    }
    assert sums == {"    return sum", "    total = 0"}
    assert any("sum(map(" in question.answer for question in asked)


def test_a_split_by_key_shares_no_meaning_and_holds_out_about_its_fraction(asked: list[Question]) -> None:
    validation = held_out([of_question(question) for question in asked], 0.1)
    training = {question.key for question in asked} - validation
    assert not validation & training
    assert 0.1 <= sum(question.key in validation for question in asked) / len(asked) < 0.101


def test_names_and_constants_are_no_part_of_the_key(asked: list[Question]) -> None:
    assert not any(character.isdigit() for question in asked for character in question.key)
    assert any(question.tests is not None and question.tests.entry_point in FUNCTION_NAMES for question in asked)


def test_the_first_thousand_are_the_same_everywhere(asked: list[Question]) -> None:
    assert list(islice(questions(), 200)) == asked[:200], "another process, with other hashes of strings"
    text = repr([(x.key, x.prompt, x.answer, x.tests.entry_point, x.tests.cases) for x in asked[:1000] if x.tests])
    assert sha256(text.encode()).hexdigest() == "c9c123659255084624976f3325781ad0a886c1f1244d1915385ed49e68e192c6"
