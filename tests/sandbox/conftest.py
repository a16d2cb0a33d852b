"""One sandbox for the tests that only want programs run."""

from collections.abc import Iterator

import pytest

from ebft.sandbox import Sandbox
from tests.sandbox.helpers import CONFIG


@pytest.fixture(scope="package")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(CONFIG) as sandbox:
        yield sandbox
