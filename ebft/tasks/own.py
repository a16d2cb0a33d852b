"""A user's own task: a class with a method `verify`, or a function that scores a completion."""

import inspect
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ebft.config import doors
from ebft.config.schema import RunFailure, UserError
from ebft.output.metric_names import check_directions
from ebft.tasks.base import Question, Verdict
from ebft.tasks.unit_tests import ProgramRunner


class OwnTask:
    """The verifier behind a door.

    A class has `verify(prompt, completion, row) -> float | Verdict`, where `row` maps column names to cells. A score
    lies in [0, 1], and 1 passes. With `executes = True` it is built with what runs programs in the sandbox, otherwise
    without arguments. It may have `metrics(completions, rows) -> {name: number}`, figures of all held-out answers, and
    must then have `directions = {name: "higher", "lower" or "neither"}`. With `references_pass = True` a run is refused
    where a reference answer does not pass. A function is a class with `verify` alone.
    """

    def __init__(self, reference: str, key: str, make_runner: Callable[[], ProgramRunner] | None = None) -> None:
        """Raises UserError for what has no such method, and for what cannot be built."""
        self.reference, self.key = reference, key
        made = doors.load(reference, key)
        self.executes = inspect.isclass(made) and bool(vars(made).get("executes", False))
        if inspect.isclass(made):
            made = self._build(made, make_runner)
        elif not callable(made):
            raise UserError(f"{key}={reference} is {type(made).__name__}; a task is a class or a function.")
        self.references_pass = bool(getattr(made, "references_pass", False))
        self._metrics, self.directions = getattr(made, "metrics", None), getattr(made, "directions", {})
        self._verify = made.verify if hasattr(made, "verify") else made
        self._check()

    def _build(self, cls: type, make_runner: Callable[[], ProgramRunner] | None) -> Any:
        if not hasattr(cls, "verify"):
            raise UserError(f"{self.key}={self.reference} has no method verify(prompt, completion, row).")
        arguments = [make_runner()] if self.executes and make_runner is not None else []
        try:
            return cls(*arguments)
        except doors.FAULTS as error:
            raise UserError(doors.explained(error, f"{self.key}={self.reference} cannot be built")) from error

    def _check(self) -> None:
        self._check_takes(self._verify, ("", "", {}), "take (prompt, completion, row) and give a score in [0, 1]")
        if self._metrics is not None:
            self._check_takes(self._metrics, ([], []), "have metrics(completions, rows)")
        check_directions(self.directions, f"{self.key}={self.reference}")

    def _check_takes(self, function: Callable[..., Any], arguments: tuple[Any, ...], rule: str) -> None:
        try:
            inspect.signature(function).bind(*arguments)
        except (TypeError, ValueError) as error:  # ValueError: a built-in function that does not say what it takes
            raise UserError(f"{self.key}={self.reference} must {rule}: {error}.") from error

    def verify(self, text: str, question: Question) -> Verdict:
        """Raises RunFailure, with the user's traceback, for an exception and for what is no score."""
        try:
            said = self._verify(question.prompt, text, question.row)
        except doors.FAULTS as error:
            raise RunFailure(
                doors.explained(error, f"{self.key}={self.reference} failed on {question.origin}")
            ) from error
        if isinstance(said, Verdict):
            return said
        if not isinstance(said, numbers.Real) or not 0 <= float(said) <= 1:
            raise RunFailure(
                f"{self.key}={self.reference} gave {said!r} for {question.origin}; a score is a plain number in [0, 1]."
            )
        passed = float(said) == 1.0
        return Verdict(score=float(said), passed=passed, kind="passed" if passed else "failed")

    def verify_all(self, texts: Sequence[str], questions: Sequence[Question]) -> list[Verdict]:
        return [self.verify(text, question) for text, question in zip(texts, questions, strict=True)]

    def metrics(self, texts: Sequence[str], questions: Sequence[Question]) -> dict[str, float]:
        """Raises RunFailure for a figure without a direction and for what is no finite number."""
        if self._metrics is None:
            return {}
        try:
            found: Mapping[str, Any] = self._metrics(list(texts), [question.row for question in questions])
        except doors.FAULTS as error:
            raise RunFailure(doors.explained(error, f"{self.key}={self.reference} failed in metrics")) from error
        if not isinstance(found, Mapping):
            raise RunFailure(
                f"{self.key}={self.reference} returned {type(found).__name__} from metrics, not {{name: number}}."
            )
        for name, value in found.items():
            if name not in self.directions:
                raise RunFailure(
                    f"{self.key}={self.reference} gives the metric {name}, which directions does not name."
                )
            if not isinstance(value, numbers.Real) or not math.isfinite(value):
                raise RunFailure(
                    f"{self.key}={self.reference} gives {name} = {value!r}; a metric is a plain finite number."
                )
        return {name: float(value) for name, value in found.items()}
