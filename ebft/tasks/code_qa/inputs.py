"""The arguments of hidden tests: edge cases by hand, chosen around a question's constants, and a few drawn ones."""

from collections.abc import Callable, Sequence
from typing import Any

from ebft.tasks.draws import Draws

Arguments = tuple[Any, ...]

# What the arguments may be called; one name an argument.
ARGUMENT_NAMES = {
    "numbers": (("numbers",), ("values",), ("items",), ("nums",)),
    "short": (("numbers",), ("values",), ("items",), ("nums",)),
    "limit": (("n",), ("limit",), ("top",)),
    "digits": (("n",), ("number",), ("value",)),
    "number": (("n",), ("x",), ("number",), ("value",)),
    "pair": (("a", "b"), ("x", "y"), ("first", "second"), ("left", "right")),
    "table": (("scores",), ("prices",), ("ages",), ("table",)),
    "text": (("text",), ("s",), ("line",)),
    "sentence": (("text",), ("sentence",), ("s",)),
    "words": (("words",), ("names",), ("strings",)),
}
WORDS = (
    "apple",
    "bat",
    "crab",
    "at",
    "table",
    "test",
    "bus",
    "essence",
    "sea",
    "club",
    "strawberry",
    "notebook",
    "set",
    "a",
    "area",
    "ice",
)
TEXTS = ("", " ", "aeiou", "Tap 3 times, then 12", "XYZ b7 aab", "see the best tea", "9876", "Bottle of ice")


def inputs(kind: str, n: int, p: int, draws: Draws) -> list[Arguments]:
    """Arguments for functions that take `kind`, a key above; n is the bound and p the divisor of a question's
    condition."""
    if kind == "pair":
        return [(0, 0), (5, 3), (3, 5), (-4, 6), (6, -4), (n, n), (-7, draws.pick(range(-9, 0)))]
    return [(value,) for value in ONE_ARGUMENT[kind](n, p, draws)]


def lists(n: int, p: int, draws: Draws) -> list[list[int]]:
    drawn = draws.several(range(-14, 22), 28)
    edges = [n - 1, n, n + 1, 2 * p, -p, 3 * p, -2 * p]
    return [[], [0], edges, [-4, 7, 7, 3, -3, 0, 12, -4, 7], *(drawn[i : i + 7] for i in range(0, 28, 7))]


def word_lists(n: int, p: int, draws: Draws) -> list[list[str]]:
    drawn = draws.several(WORDS, 13)
    return [[], drawn[:1], list(WORDS[:8]), list(WORDS[8:]), drawn[1:7], drawn[7:]]


ONE_ARGUMENT: dict[str, Callable[[int, int, Draws], Sequence[Any]]] = {
    "numbers": lists,
    "short": lambda n, p, draws: (
        [],
        [n],
        [n - 1, n + 1],
        [n + 1, n + 3],
        [2 * p, 6 * p],
        [3 * p, 9 * p],
        [-p, -3 * p],
        [-2 * p],
    ),
    "limit": lambda n, p, draws: (0, 1, n - 1, n, n + 1, 2 * p, 15),
    "digits": lambda n, p, draws: (
        0,
        11 * n,
        11 * n - 1,
        100 * p + 7,
        9375,
        2486,
        1203,
        draws.pick(range(100, 200)) * 37,
    ),
    "number": lambda n, p, draws: (0, n - 1, n, n + 1, -2 * p, -3 * p, 6 * p, -1),
    "table": lambda n, p, draws: [
        dict(zip(WORDS[3 * i :], values, strict=False)) for i, values in enumerate(lists(n, p, draws)[:6])
    ],
    "text": lambda n, p, draws: TEXTS,
    "words": word_lists,
    "sentence": lambda n, p, draws: ["  ".join(words) for words in word_lists(n, p, draws)],
}
