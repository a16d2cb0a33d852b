"""How long a run still takes: its steps and its evaluations, each by what they took so far."""

import statistics
from collections import deque

RECENT = 20  # steps that the next ones are expected to be like


class Remaining:
    """Seconds from the run's present step to its last evaluation. The export behind it, seconds of a run of hours, is
    not counted."""

    def __init__(self, max_steps: int, eval_every_steps: int) -> None:
        self.max_steps, self.every = max_steps, eval_every_steps
        self._steps = deque[float](maxlen=RECENT)
        self._is_warm = False
        self._evaluation = 0.0  # the latest; nothing is known before it

    def stepped(self, seconds: float) -> None:
        if self._steps and not self._is_warm:  # the first one warmed up
            self._steps.clear()
            self._is_warm = True
        self._steps.append(seconds)

    def evaluated(self, seconds: float) -> None:
        self._evaluation = seconds

    def seconds(self, step: int, evaluated: int) -> float | None:
        """After `step` steps, the latest evaluation being of step `evaluated`; None where nothing was measured."""
        if not self._steps:
            return None
        steps = (self.max_steps - step) * statistics.median(self._steps)
        return steps + self._evaluations_after(step, evaluated) * self._evaluation

    def _evaluations_after(self, step: int, evaluated: int) -> int:
        """Those due at a step of at least `step` that is not evaluated yet."""
        first = max(step, evaluated + 1)
        regular = max(0, self.max_steps // self.every - (first - 1) // self.every)
        last_is_extra = self.max_steps % self.every != 0 and self.max_steps >= first
        return regular + last_is_extra
