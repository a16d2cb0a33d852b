"""The median rule on courses worked out by hand."""

import json
from pathlib import Path

import pytest

from ebft.sweep.stopping import course, is_hopeless

OTHERS = [
    {0: 9.0, 5: 4.0, 10: 2.0},
    {0: 9.0, 5: 6.0, 10: 6.0},
    {0: 9.0, 5: 5.0},
]  # means up to 5: 4, 6, 5; up to 10: 3, 6


@pytest.mark.parametrize(
    ("run", "hopeless"),
    [
        ({0: 9.0, 5: 5.1}, True),  # the median at 5 is 5
        ({0: 9.0, 5: 5.0}, False),
        ({0: 1.0, 5: 5.1}, True),  # the base is nobody's merit
        ({0: 9.0, 5: 5.1, 10: 4.4}, False),  # the median at 10 is 4.5, of the two that are there
        ({0: 9.0, 5: 4.6, 10: 9.0}, True),
        ({0: 9.0, 5: 4.4, 10: 9.0}, False),  # its best value counts
        ({0: 9.0, 5: 5.1, 10: 4.6, 15: 4.6}, True),  # nobody else has come to 15
        ({0: 9.0, 5: 5.1, 10: 4.6, 15: 4.4}, False),
        ({0: 9.0}, False),
        ({}, False),
    ],
)
def test_the_median_rule(run: dict[int, float], hopeless: bool) -> None:
    assert is_hopeless(run, OTHERS, lower_is_better=True, after=1) == hopeless
    upside_down = [{step: -value for step, value in each.items()} for each in (run, *OTHERS)]
    assert is_hopeless(upside_down[0], upside_down[1:], lower_is_better=False, after=1) == hopeless


def test_a_run_has_its_grace() -> None:
    assert not is_hopeless({0: 9.0, 5: 5.1}, OTHERS, lower_is_better=True, after=2)
    assert is_hopeless({0: 9.0, 5: 5.1, 10: 5.1}, OTHERS, lower_is_better=True, after=2)


def test_one_other_run_is_not_enough() -> None:
    assert not is_hopeless({0: 9.0, 5: 50.0}, OTHERS[:1], lower_is_better=True, after=1)


def test_a_course_is_read_while_it_is_written(tmp_path: Path) -> None:
    rows = [
        {"step": 0, "eval/greedy": 0.25},
        {"step": 1, "train/loss": 2.0},
        {"step": 5, "eval/greedy": 0.5, "eval/greedy_stderr": 0.1},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 10, "eval/gre')
    assert course(tmp_path, "eval/greedy") == {0: 0.25, 5: 0.5}
    assert course(tmp_path / "absent", "eval/greedy") == {}
