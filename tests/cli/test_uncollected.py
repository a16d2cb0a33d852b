"""Imports of a million objects that all stay, which the collector need not look through."""

import gc

import pytest

from ebft.cli.uncollected import uncollected


def test_nothing_is_collected_inside_and_what_is_there_is_not_looked_through_afterwards() -> None:
    before = gc.get_freeze_count()
    with pytest.raises(KeyboardInterrupt), uncollected():
        made = [[]]
        assert not gc.isenabled()
        raise KeyboardInterrupt
    try:
        assert gc.isenabled()
        assert gc.get_freeze_count() > before
        assert not any(found is made for found in gc.get_objects())
    finally:
        gc.unfreeze()
