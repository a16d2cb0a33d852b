import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebft.config.schema import UserError
from ebft.data.epochs import order, steps_per_epoch


@settings(max_examples=40, deadline=None)
@given(batch_size=st.integers(1, 7), surplus=st.integers(0, 11), seed=st.integers(0, 99))
def test_an_epoch_holds_every_row_at_most_once_and_leaves_out_less_than_a_batch(
    batch_size: int, surplus: int, seed: int
) -> None:
    num_rows = batch_size + surplus
    num_steps = steps_per_epoch(num_rows, batch_size)
    for epoch in range(3):
        rows = [row for step in range(num_steps) for row in order(num_rows, seed, epoch * num_steps + step, batch_size)]
        assert len(rows) == len(set(rows)) > num_rows - batch_size
        assert set(rows) <= set(range(num_rows))


def test_a_step_needs_only_its_number() -> None:
    forwards = [order(17, 3, step, 5) for step in range(29)]
    assert [order(17, 3, step, 5) for step in reversed(range(29))] == forwards[::-1]


def test_epochs_and_seeds_differ() -> None:
    assert order(31, 0, 0, 31) != order(31, 0, 1, 31)
    assert order(31, 0, 0, 31) != order(31, 1, 0, 31)


def test_the_order_of_released_versions_stays() -> None:
    assert [order(7, 0, step, 3) for step in range(5)] == [[2, 4, 3], [6, 5, 0], [1, 3, 6], [0, 4, 2], [5, 2, 0]]


def test_a_batch_above_the_data_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"trainer\.batch_size=5 is above the 3 rows of the training data; lower it or add data\."
    ):
        order(3, 0, 0, 5)
