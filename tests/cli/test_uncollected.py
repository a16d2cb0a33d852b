"""Imports make a million objects that all stay, which the collector need not look through."""

import gc

from ebft.cli.uncollected import uncollected


def test_nothing_is_collected_inside_and_what_is_there_is_not_looked_through_afterwards() -> None:
    with uncollected():
        made = [[]]
        assert not gc.isenabled()
    try:
        assert gc.isenabled()
        assert not any(found is made for found in gc.get_objects())
    finally:
        gc.unfreeze()
    assert any(found is made for found in gc.get_objects())
