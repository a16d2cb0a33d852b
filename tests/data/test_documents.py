import itertools

from ebft.data.documents import held_out, in_hash_order
from tests.data.helpers import text


def test_the_split_is_the_first_digits_of_sha256() -> None:
    # sha256("abc") begins with ba7816bf, the standard's own test vector; 0xba7816bf / 2**32 = 0.72839...
    assert held_out("abc", 0.7284)
    assert not held_out("abc", 0.7283)


def test_order_does_not_follow_the_source() -> None:
    names = [f"module_{number:02d}" for number in range(31)]
    ordered = [document.key for document in in_hash_order(text(name) for name in names)]
    assert sorted(ordered) == names
    assert ordered == [document.key for document in in_hash_order(text(name) for name in reversed(names))]
    assert ordered != names


def test_removing_documents_leaves_the_order_of_the_rest() -> None:
    names = [f"module_{number:02d}" for number in range(31)]
    everything = [document.key for document in in_hash_order(text(name) for name in names)]
    assert [document.key for document in in_hash_order(text(name) for name in names[::3])] == [
        name for name in everything if name in names[::3]
    ]


def test_copies_of_a_text_do_not_end_up_side_by_side() -> None:
    """A copy as a neighbour in a packed row would be read off the first one's tokens instead of predicted."""
    ordered = [
        document.key
        for document in in_hash_order(text(word) for word in ["same"] * 5 + [f"other {number}" for number in range(95)])
    ]
    places = [place for place, key in enumerate(ordered) if key == "same"]
    assert all(after - before > 1 for before, after in itertools.pairwise(places))
