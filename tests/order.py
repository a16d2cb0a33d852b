"""The order of the tests, in which workers end at the same time."""

from collections import defaultdict
from collections.abc import Sequence

import pytest


def by_worker(items: Sequence[pytest.Item], num_workers: int) -> list[pytest.Item]:
    """As many tests for each worker, one worker's after the other's as xdist's worksteal deals them out: first slow
    ones, of whole files, then others, so that what one worker takes from another at the end is short."""
    files: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if is_slow(item):
            files[item.nodeid.partition("::")[0]].append(item)
    parts: list[list[pytest.Item]] = [[] for _ in range(num_workers)]
    for tests in sorted(files.values(), key=len, reverse=True):
        min(parts, key=len).extend(tests)
    others = [item for item in items if not is_slow(item)]
    for number, part in enumerate(parts, start=1):
        size = len(items) * number // num_workers - len(items) * (number - 1) // num_workers
        taken = len(others) if number == num_workers else max(0, size - len(part))
        part += others[:taken]
        del others[:taken]
    return [test for part in parts for test in part]


def is_slow(test: pytest.Item) -> bool:
    return test.get_closest_marker("slow") is not None
