"""The time left, against a run that is played through."""

from itertools import product

import pytest

from ebft.train.remaining import Remaining

STEP, EVALUATION, WARM_UP = 0.7, 13.0, 5.0


def seconds_to_come(step: int, evaluated: int, max_steps: int, every: int) -> float:
    """As the loop takes them: between two steps it evaluates where that is due and not done."""
    seconds = 0.0
    while True:
        if (step == max_steps or step % every == 0) and evaluated < step:
            seconds, evaluated = seconds + EVALUATION, step
        if step == max_steps:
            return seconds
        step, seconds = step + 1, seconds + STEP


@pytest.mark.parametrize(("max_steps", "every"), [(1, 1), (7, 3), (9, 3), (10, 4), (5, 20)])
def test_what_is_left_is_what_the_loop_still_does(max_steps: int, every: int) -> None:
    remaining = Remaining(max_steps, every)
    for seconds in (WARM_UP, STEP, STEP):
        remaining.stepped(seconds)
    remaining.evaluated(EVALUATION)
    for step, evaluated in product(range(max_steps + 1), range(-1, max_steps + 1)):
        if evaluated <= step:
            expected = seconds_to_come(step, evaluated, max_steps, every)
            assert remaining.seconds(step, evaluated) == pytest.approx(expected), (step, evaluated)


def test_nothing_is_said_before_a_step_and_the_first_one_counts_until_there_are_others() -> None:
    remaining = Remaining(40, 100)
    remaining.evaluated(EVALUATION)
    assert remaining.seconds(0, 0) is None
    remaining.stepped(WARM_UP)
    assert remaining.seconds(1, 0) == pytest.approx(39 * WARM_UP + EVALUATION)
    remaining.stepped(STEP)
    assert remaining.seconds(2, 0) == pytest.approx(38 * STEP + EVALUATION)


def test_recent_steps_count() -> None:
    remaining = Remaining(1000, 1000)
    for number in range(100):
        remaining.stepped(1.0 if number < 79 else 3.0)
    assert remaining.seconds(100, 0) == pytest.approx(900 * 3)
