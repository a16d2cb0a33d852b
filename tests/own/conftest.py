"""Methods that a test has brought along are gone afterwards."""

from collections.abc import Iterator

import pytest

from ebft.config.methods import METHODS


@pytest.fixture(autouse=True)
def built_in_methods() -> Iterator[None]:
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)
