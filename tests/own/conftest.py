"""Tests of a user's own code."""

import pytest


@pytest.fixture(autouse=True)
def only_while_it_runs(built_in_methods: None) -> None:
    """Methods that a test brings along."""
