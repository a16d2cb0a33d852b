"""What hidden tests tell apart. A sibling of a meaning differs from it in one part; asked with the same constants and
names, it must not pass the other's tests."""

from collections import defaultdict
from dataclasses import replace
from itertools import chain, combinations
from string import Template

import pytest

from ebft.tasks.code_qa import meanings as code_meanings
from ebft.tasks.code_qa import scalars as code_scalars
from ebft.tasks.code_qa.meanings import Meaning
from ebft.tasks.code_qa.questions import ask

MEANINGS = list(chain(code_meanings.meanings(), code_scalars.meanings()))
BY_PARTS = {meaning.parts: meaning for meaning in MEANINGS}
NUM_DRAWS = 5  # of constants, of which most must tell two meanings apart


def test_no_meaning_comes_twice() -> None:
    assert len(BY_PARTS) == len(MEANINGS)


def wanted(meaning: Meaning, asked_as: Meaning, number: int) -> str:
    """What the tests of a meaning want, with the constants, names and arguments of another's question."""
    tests = ask(replace(meaning, parts=asked_as.parts), number).tests
    assert tests is not None
    return repr(tests.cases)


def share_told_apart(first: Meaning, second: Meaning) -> float:
    return sum(wanted(first, first, number) != wanted(second, first, number) for number in range(NUM_DRAWS)) / NUM_DRAWS


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("all list above", "all list at_least"),
        ("all digits odd", "all digits even"),
        ("indices list positive", "indices list at_least"),
        ("indices words starting", "indices words containing"),
        ("tally characters vowel", "tally characters letter"),
        ("whether below", "whether at_most"),
        ("whether even+positive", "whether even"),
        ("whether divisible", "whether odd+divisible"),
        ("word negative+divisible", "word divisible"),
        ("nested pair difference", "nested pair distance"),
        ("nested pair larger", "nested pair sum"),
        ("nested number argument half", "nested number argument minus"),
        ("nested number argument double", "nested number argument square"),
        ("nested text argument start", "nested text argument head"),
        ("pipeline characters vowel unchanged joined", "pipeline characters lower unchanged joined"),
        ("pipeline words longer unchanged list", "pipeline words length unchanged list"),
        ("pipeline words any length sum", "pipeline words any length largest"),
        ("pipeline words starting unchanged first", "pipeline words ending unchanged first"),
        ("pipeline words longer unchanged list", "pipeline words longer unchanged sorted"),
        ("pipeline words longer unchanged list", "pipeline words longer unchanged backwards"),
    ],
)
def test_near_misses_fail(first: str, second: str) -> None:
    one, other = (BY_PARTS[tuple(parts.split())] for parts in (first, second))
    assert min(share_told_apart(one, other), share_told_apart(other, one)) >= 0.8


@pytest.mark.slow
def test_siblings_fail() -> None:
    """The few that pass mean the same for these constants or for good, such as the absolute values of positive
    numbers."""
    groups = defaultdict(list)
    for meaning in MEANINGS:
        for i in range(1, len(meaning.parts)):
            groups[*meaning.parts[:i], "*", *meaning.parts[i + 1 :]].append(meaning)
    pairs = [pair for group in groups.values() for pair in combinations(group, 2) if pair[0].inputs == pair[1].inputs]
    sample = pairs[:: len(pairs) // 400]
    assert sum(wanted(first, first, 0) != wanted(second, first, 0) for first, second in sample) / len(sample) > 0.95


NAMES = {"xs": "given", "ys": "other", "n": 4, "p": 3, "k": 3, "m": 5, "c": "a", "yes": "on", "no": "off"}


@pytest.mark.parametrize(
    ("parts", "phrase", "bodies"),
    [
        (
            "pipeline list even+above square sum",
            "the sum of the squares of the even numbers greater than 4 in given",
            [
                "return sum(x ** 2 for x in given if x % 2 == 0 and x > 4)",
                "total = 0\nfor x in given:\n    if x % 2 == 0 and x > 4:\n        total += x ** 2\nreturn total",
            ],
        ),
        (
            "pipeline list any unchanged largest",
            "the largest of the numbers in given, or 0 if none",
            ["return max(given, default=0)", "found = given\nreturn max(found) if found else 0"],
        ),
        (
            "pipeline list odd unchanged list",
            "a list of the odd numbers in given",
            [
                "return [x for x in given if x % 2 == 1]",
                "return list(filter(lambda x: x % 2 == 1, given))",
                "result = []\nfor x in given:\n    if x % 2 == 1:\n        result.append(x)\nreturn result",
            ],
        ),
        (
            "pipeline words starting unchanged count",
            "the number of words starting with 'a' in the list given",
            [
                'return len([w for w in given if w.startswith("a")])',
                'return sum(1 for w in given if w.startswith("a"))',
                'count = 0\nfor w in given:\n    if w.startswith("a"):\n        count += 1\nreturn count',
            ],
        ),
        (
            "all digits odd+at_least",
            "whether all digits in given are odd and at least 4",
            [
                "return all(d % 2 == 1 and d >= 4 for d in map(int, str(given)))",
                "for d in map(int, str(given)):\n    if not (d % 2 == 1 and d >= 4):\n        return False\nreturn "
                "True",
            ],
        ),
        (
            "nested pair sum negate square",
            "the square of the negative of the sum of given and other",
            ["return (-(given + other)) ** 2", "result = -(given + other)\nreturn result ** 2"],
        ),
        (
            "nested number argument times minus",
            "5 less than the product of 3 and given",
            ["return (given * 3) - 5", "result = given * 3\nreturn result - 5"],
        ),
        (
            "word negative+divisible",
            "'on' if given is negative and divisible by 3, otherwise 'off'",
            [
                'return "on" if given < 0 and given % 3 == 0 else "off"',
                'if given < 0 and given % 3 == 0:\n    return "on"\nreturn "off"',
            ],
        ),
    ],
)
def test_meanings_in_english_and_python(parts: str, phrase: str, bodies: list[str]) -> None:
    meaning = BY_PARTS[tuple(parts.split())]
    assert Template(meaning.phrases[0]).substitute(NAMES) == phrase
    assert [Template(body).substitute(NAMES) for body in meaning.bodies] == bodies
