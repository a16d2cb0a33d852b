"""Early stopping by the median rule (Golovin et al. 2017, Google Vizier, section 3.2.2): a run goes when others were
better at the same step."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from ebft.output.files import read_rows

MIN_OTHERS = 2  # runs of other cells that must have come as far

Course = Mapping[int, float]  # step -> metric, the base at step 0 among them


def is_hopeless(run: Course, others: Sequence[Course], lower_is_better: bool, after: int) -> bool:
    """Whether the run's best value so far is worse than the median over `others` of their means up to the same step:
    the run's latest one that MIN_OTHERS of the others have reached as well. The run must have `after` evaluations
    besides the base by then.
    """
    steps = sorted(step for step in run if step > 0)
    sign = 1 if lower_is_better else -1
    for last in reversed(steps[after - 1 :]):
        averages = [sign * _mean_until(other, last) for other in others if max(other, default=0) >= last]
        if len(averages) >= MIN_OTHERS:
            return min(sign * run[step] for step in steps) > median(averages)
    return False


def _mean_until(course: Course, last: int) -> float:
    values = [value for step, value in course.items() if 0 < step <= last]
    return sum(values) / len(values)


def course(run: Path, metric: str) -> Course:
    """What the evaluations of a run folder have measured so far, empty where there is none."""
    return {row["step"]: row[metric] for row in read_rows(run / "metrics.jsonl", mentioning=f'"{metric}"')}
