"""What methods know elsewhere at one cross-entropy on the run's own held-out rows, so that neither who learned faster
nor who was stopped sooner decides.

Every run's course is followed from evaluation to evaluation to the first place where its own cross-entropy has fallen
to the point; its other figures are interpolated linearly there. The point is the lowest that every run reaches, of
cells that fall below the base at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ebft.comparison.runs import RunResult
from ebft.comparison.statistics import Estimate, estimate

OWN = "eval/cross_entropy"


@dataclass(frozen=True)
class EqualPoint:
    """Figures at one cross-entropy on the run's own rows."""

    place: float
    figures: Mapping[str, Mapping[str, Estimate | None]]  # by cell and metric, with intervals over seeds alone
    never: Sequence[str]  # cells of which a run never falls below its base, and that are left out


def equal_point(cells: Mapping[str, Sequence[RunResult]], metrics: Sequence[str]) -> EqualPoint | None:
    """None where fewer than two cells fall below the base, or no metric but the cross-entropy itself is asked for."""
    elsewhere = [metric for metric in metrics if metric != OWN]
    reached: dict[str, float] = {}
    for name, runs in cells.items():
        lowest = [low for run in runs if (low := _lowest(run)) is not None]
        if runs and len(lowest) == len(runs):
            reached[name] = max(lowest)
    if len(reached) < 2 or not elsewhere:
        return None
    place = max(reached.values())
    figures = {
        name: {
            metric: estimate([value for run in cells[name] if (value := at(run.course, place, metric)) is not None])
            for metric in elsewhere
        }
        for name in reached
    }
    return EqualPoint(place, figures, [name for name in cells if name not in reached])


def _lowest(run: RunResult) -> float | None:
    """The lowest cross-entropy of a run's course; None where it never falls below where it starts."""
    course = [row[OWN] for row in run.course if OWN in row]
    return min(course) if course and min(course) < course[0] else None


def at(course: Sequence[Mapping[str, float]], place: float, metric: str) -> float | None:
    """The metric where the own cross-entropy first falls to `place`, on the line between two evaluations."""
    rows = [row for row in course if OWN in row and metric in row]
    for before, after in pairwise(rows):
        if before[OWN] > place >= after[OWN]:
            share = (before[OWN] - place) / (before[OWN] - after[OWN])
            return before[metric] + share * (after[metric] - before[metric])
    return None
