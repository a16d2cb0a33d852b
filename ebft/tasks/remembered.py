"""What was found out about a text before."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Key = TypeVar("Key", bound=Hashable)
Outcome = TypeVar("Outcome")

MOST = 1 << 16  # that are remembered, the latest: some tens of megabytes


class Remembered(Generic[Key, Asked, Outcome]):
    """Finds an outcome once for each key; one that says nothing, for the machine failed, is found anew."""

    def __init__(
        self, find: Callable[[list[Asked]], Sequence[Outcome]], says_something: Callable[[Outcome], bool]
    ) -> None:
        self._find, self._says_something = find, says_something
        self._known: dict[Key, Outcome] = {}

    def __call__(self, asked: Mapping[Key, Asked]) -> dict[Key, Outcome]:
        new = [key for key in asked if key not in self._known]
        found = dict(zip(new, self._find([asked[key] for key in new]), strict=True)) if new else {}
        outcomes = {key: found[key] if key in found else self._known[key] for key in asked}
        self._known |= {key: outcome for key, outcome in found.items() if self._says_something(outcome)}
        for key in list(self._known)[: max(0, len(self._known) - MOST)]:
            del self._known[key]
        return outcomes
