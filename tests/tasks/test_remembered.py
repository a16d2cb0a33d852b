"""What a text came to is found once, and not for ever."""

from collections.abc import Sequence

import pytest

from ebft.tasks import remembered
from ebft.tasks.remembered import Remembered


def test_an_outcome_is_found_once_unless_it_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MOST", 2)
    asked: list[list[int]] = []

    def find(numbers: list[int]) -> Sequence[int]:
        asked.append(numbers)
        return [len(asked) * number for number in numbers]

    known = Remembered[str, int, int](find, says_something=lambda outcome: outcome != 0)
    assert known({"a": 3, "b": 0, "c": 5}) == {"a": 3, "b": 0, "c": 5}
    assert known({"c": 5, "a": 3}) == {"c": 5, "a": 3}
    assert known({"b": 0, "a": 3, "d": 7}) == {"b": 0, "a": 3, "d": 14}  # of three the first is forgotten
    assert known({"a": 3, "c": 5, "d": 7}) == {"a": 9, "c": 5, "d": 14}
    assert known({}) == {}
    assert asked == [[3, 0, 5], [0, 7], [3]]
