"""Early stopping by the median rule (Golovin et al. 2017, Google Vizier, section 3.2.2): a run goes when others were better at the same step."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from ebft.files import whole_lines

MIN_OTHERS = 2  # runs of other cells that must have come as far

Course = Mapping[int, float]  # step -> metric, the base at step 0 among them


def is_hopeless(course: Course, others: Sequence[Course], lower_is_better: bool, after: int) -> bool:
    """Whether the run's best value so far is worse than the median over `others` of their means up to the same step.

    A run has `after` evaluations besides the base before it can go; `others` count from when they have come as far, and MIN_OTHERS of them must.
    """
    steps = sorted(step for step in course if step > 0)
    if len(steps) < after:
        return False
    last, sign = steps[-1], 1 if lower_is_better else -1
    averages = [_mean_until(other, last) for other in others if max(other, default=0) >= last]
    if len(averages) < MIN_OTHERS:
        return False
    best = min(sign * course[step] for step in steps)
    return best > median(sign * average for average in averages)


def _mean_until(course: Course, last: int) -> float:
    values = [value for step, value in course.items() if 0 < step <= last]
    return sum(values) / len(values)


def course(run: Path, metric: str) -> Course:
    """What the evaluations of a run folder have measured so far, empty where there is none."""
    lines = [line for line in whole_lines(run / "metrics.jsonl") if f'"{metric}"' in line]
    return {row["step"]: row[metric] for row in map(json.loads, lines)}
