"""Questions in English about short Python functions, judged by hidden unit tests.

A prompt names a function and its arguments in a comment and ends where the function's source must begin; the answer is
that source, all of it. Questions differ in meaning (code_meanings.py, code_scalars.py), and within one meaning in
phrasing, names, constants and in which of several right spellings is the answer. The key is the meaning without
constants, so a split by key holds out whole combinations of parts.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from string import Template
from textwrap import indent
from typing import Any

from ebft.sandbox.programs import Case, Tests
from ebft.tasks.base import Question
from ebft.tasks.code_qa import meanings as code_meanings
from ebft.tasks.code_qa import scalars as code_scalars
from ebft.tasks.code_qa.inputs import ARGUMENT_NAMES, Arguments, inputs
from ebft.tasks.code_qa.meanings import Meaning
from ebft.tasks.draws import Draws

QUESTIONS_PER_MEANING = 3  # before doubles are left out
PROMPTS = (
    "# Write a function `$call` that returns $what.\n",
    "# Define `$call` to return $what.\n",
    "# `$call` returns $what.\n",
    "# Implement `$call`: return $what.\n",
    "# How do you write `$call` so that it returns $what?\n",
)
FUNCTION_NAMES = ("solve", "run", "answer", "get")  # beside those of a meaning
BOUNDS = range(2, 8)
DIVISORS = (3, 5, 7)
OPERANDS = range(2, 10)
LETTERS = "abest"
WORD_PAIRS = (("yes", "no"), ("on", "off"), ("left", "right"), ("hot", "cold"), ("big", "small"), ("ok", "bad"))


def questions() -> Iterator[Question]:
    """Yields the same questions in the same order on every machine."""
    seen = set()
    for meaning in chain(code_meanings.meanings(), code_scalars.meanings()):
        for number in range(QUESTIONS_PER_MEANING):
            question = ask(meaning, number)
            if question.prompt not in seen and tells(question):
                seen.add(question.prompt)
                yield question


def ask(meaning: Meaning, number: int) -> Question:
    """Question `number` of a meaning: whatever is still open in it is drawn."""
    key = " ".join(meaning.parts)
    draws = Draws(f"{key} {number}")
    n, p, k, m, c, words = draws.one_of_each(BOUNDS, DIVISORS, OPERANDS, OPERANDS, LETTERS, WORD_PAIRS)
    arguments, name, body, phrase, prompt = draws.one_of_each(
        ARGUMENT_NAMES[meaning.inputs],
        meaning.function_names + FUNCTION_NAMES,
        meaning.bodies,
        meaning.phrases,
        PROMPTS,
    )
    call = f"{name}({', '.join(arguments)})"
    names = {
        "n": n,
        "p": p,
        "k": k,
        "m": m,
        "c": c,
        "yes": words[0],
        "no": words[1],
        "xs": arguments[0],
        "ys": arguments[-1],
    }
    right, answer = (source(call, Template(spelling).substitute(names)) for spelling in (meaning.bodies[0], body))
    return Question(
        key=key,
        prompt=Template(prompt).substitute(call=call, what=Template(phrase).substitute(names)),
        answer=answer,
        origin=f"code_qa question {key!r} {number}",
        tests=Tests(name, run(right, name, inputs(meaning.inputs, n, p, draws))),
    )


def tells(question: Question) -> bool:
    """Whether the tests want more than one value, so that no constant passes them."""
    assert question.tests is not None
    return len({repr(case.expected) for case in question.tests.cases}) > 1


def source(call: str, body: str) -> str:
    return f"def {call}:\n{indent(body, '    ')}\n"


def run(program: str, name: str, arguments: Sequence[Arguments]) -> tuple[Case, ...]:
    """What a function of ours returns. Nothing that a model wrote comes here."""
    namespace: dict[str, Any] = {}
    exec(program, namespace)
    return tuple(Case(given, namespace[name](*given)) for given in arguments)
