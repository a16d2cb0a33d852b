import itertools

from ebft.data.documents import Document, held_out, in_both_directions, in_hash_order, in_part
from tests.data.helpers import text


def keys(fraction: float, *words: str) -> set[str]:
    return held_out([text(word) for word in words], fraction)


def test_the_split_is_an_exact_share_in_the_order_of_the_hashes() -> None:
    """sha256 of a, b, c, d, e begins with ca, 3e, 2e, 18, 3f. A coin for every document once left 50 rows without any
    held out."""
    assert keys(0.2, *"abcde") == {"d"}
    assert keys(0.4, *"edcba") == {"d", "c"}
    assert keys(0.5, *"abcde") == {"d", "c", "b"}  # two and a half
    assert keys(0.01, *"abcde") == {"d"}
    assert keys(0.99, *"abcde") == {"d", "c", "b", "e"}
    assert keys(0.1, *map(str, range(50))) > keys(0.05, *map(str, range(50)))
    assert [len(keys(0.1, *map(str, range(number)))) for number in (14, 15, 50, 997)] == [1, 2, 5, 100]
    assert keys(0.5, "a") == set()


def test_documents_of_one_key_stay_together_and_count() -> None:
    """c and d come first by hash; d alone has three of seven documents."""
    assert keys(0.4, "a", "b", "c", "d", "d", "d", "e") == {"d"}
    assert keys(0.5, "a", "b", "c", "d", "d", "d", "e") == {"d", "c"}


def test_translations_both_ways_and_what_shares_a_text_stay_together() -> None:
    """93 % of ALMA's held-out answers stood in a prompt that was trained on. `c` is German for `C` and `see`."""
    pairs = [("b", "B"), ("B", "b"), ("c", "C"), ("see", "c"), ("c ", "see"), ("d", "D")]
    documents = [
        Document(f"To X:\nX: {source}\nY:", f"To X:\nX: {source}\nY:", f" {answer}", "") for source, answer in pairs
    ]
    found = [document.key for document in in_both_directions(documents)]
    assert found[0] == found[1] == "B"
    assert found[2] == found[3] == found[4] == "C"
    assert found[5] == documents[5].key
    assert [document.completion for document in in_both_directions(documents)] == [x.completion for x in documents]


def test_the_halves_are_apart_whole_and_exact() -> None:
    documents = [text(word) for word in map(str, range(23))]
    selection, report = (in_part(documents, part) for part in ("selection", "report"))
    assert (len(selection), len(report)) == (12, 11)
    assert sorted(document.key for document in selection + report) == sorted(document.key for document in documents)
    assert in_part(documents[:1], "report") == in_part(documents[:1], "all") == documents[:1]


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
