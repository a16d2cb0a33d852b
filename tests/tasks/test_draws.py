from hashlib import shake_256

import pytest

from ebft.tasks.draws import NUM_PICKS, Draws


def test_picks_follow_the_digest_two_bytes_each() -> None:
    digest = shake_256(b"a name").digest(6)
    numbers = [int.from_bytes(digest[i : i + 2]) % 10 for i in (0, 2, 4)]
    one, several = Draws("a name"), Draws("a name")
    assert [one.pick("abcdefghij") for _ in range(3)] == ["abcdefghij"[number] for number in numbers]
    assert several.several(range(10), 3) == numbers


def test_picks_are_counted() -> None:
    draws = Draws("a name")
    draws.several(range(2), NUM_PICKS)
    with pytest.raises(StopIteration):
        draws.pick(range(2))
