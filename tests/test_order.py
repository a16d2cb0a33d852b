from types import SimpleNamespace
from typing import Any

import pytest

from tests.order import by_worker


def test(name: str) -> Any:
    """A stand-in of pytest's, slow if its name says so."""
    return SimpleNamespace(nodeid=name, get_closest_marker=lambda _: "slow" in name or None)


test.__test__ = False  # type: ignore[attr-defined]
FILES = {"a": ["slow1", "2"], "b": ["1", "2", "3"], "c": ["slow1", "slow2", "3"], "d": ["slow1", "2"]}
ITEMS = [test(f"{file}::{name}") for file, names in FILES.items() for name in names]


@pytest.mark.parametrize(
    ("num_workers", "expected"),
    [
        (1, "c::slow1 c::slow2 a::slow1 d::slow1 a::2 b::1 b::2 b::3 c::3 d::2"),
        (2, "c::slow1 c::slow2 a::2 b::1 b::2 a::slow1 d::slow1 b::3 c::3 d::2"),
        (3, "c::slow1 c::slow2 a::2 a::slow1 b::1 b::2 d::slow1 b::3 c::3 d::2"),
    ],
)
def test_every_worker_has_as_many_and_its_slow_ones_first(num_workers: int, expected: str) -> None:
    found = [item.nodeid for item in by_worker(ITEMS, num_workers)]
    assert found == expected.split()
    assert sorted(found) == sorted(item.nodeid for item in ITEMS)
