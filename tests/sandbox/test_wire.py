"""Plain data travels exactly, nothing else does, and two values are the same only if Python's == and their types say
so."""

import json
import math
import socket
import time
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings, strategies

from ebft.sandbox.wire import Channel, NotPlainData, TooLong, decode, encode, same

HASHABLE = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers(-(2**70), 2**70)
    | strategies.floats(allow_nan=False) | strategies.text()
    | strategies.binary() | strategies.complex_numbers(allow_nan=False),
    lambda inner: strategies.lists(inner, max_size=3).map(tuple) | strategies.frozensets(inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
PLAIN = strategies.recursive(
    HASHABLE,
    lambda inner: (
        strategies.lists(inner, max_size=3)
        | strategies.dictionaries(HASHABLE, inner, max_size=3)
        | strategies.sets(HASHABLE, max_size=3)
        | strategies.lists(inner, max_size=3).map(tuple)
    ),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(PLAIN)
def test_a_value_returns_as_it_left(value: Any) -> None:
    tree = json.loads(json.dumps(encode(value)))
    assert repr(decode(tree)) == repr(value) or decode(tree) == value  # a set's order, and so its repr, may differ
    assert same(tree, encode(value))


@settings(max_examples=50, deadline=None)
@given(PLAIN, PLAIN)
def test_values_that_python_tells_apart_are_not_the_same(left: Any, right: Any) -> None:
    if not same(encode(left), encode(right)):
        return
    assert left == right or "." in repr(left) or "e" in repr(left)  # only floats may be close rather than equal


DIFFERENT = [
    (1, True), (1, 1.0), (0, False), (0, None), ("1", 1), (b"a", "a"), (1j, 1.0), (2**70, 2**70 + 1),
    (1.0, 1.00001), (1.0, math.nan),
    ([1], (1,)), ((), []), ([1, 2], [1]), ([1], [1, 2]), ({1}, frozenset({1})), ({1}, [1]), ({1}, {1.0}), ({}, set()),
    ({1: 2}, {True: 2}), ({1: 2}, {1: 2.0}), ({1: 2}, {}), ({1: 2}, {3: 2}),
]  # fmt: skip
SAME = [
    (0.1 + 0.2, 0.3), ([0.1 + 0.2], [0.3]), ({"a": 0.1 + 0.2}, {"a": 0.3}), (math.nan, math.nan),
    (math.inf, math.inf), (-0.0, 0.0),
    (1 + 0.3j, 1 + (0.1 + 0.2) * 1j), ("\ud800\0", "\ud800\0"), ([10**5000], [10**5000]),
    ({1, 2, 3}, {3, 2, 1}), ({frozenset({1, 2}), frozenset({3})}, {frozenset({3}), frozenset({2, 1})}),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    (Counter("aab"), {"a": 2, "b": 1}), (defaultdict(int, a=1), {"a": 1}), (OrderedDict(a=1), {"a": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("left", "right"), DIFFERENT)
def test_these_differ(left: Any, right: Any) -> None:
    assert not same(encode(left), encode(right))
    assert not same(encode(right), encode(left))


@pytest.mark.parametrize(("left", "right"), SAME)
def test_these_are_the_same(left: Any, right: Any) -> None:
    assert same(json.loads(json.dumps(encode(left))), encode(right))


@pytest.mark.parametrize(
    "value",
    [
        Counter("aab"), OrderedDict(b=1, a=2), defaultdict(list, a=[1]), defaultdict(None, a=1),
        deque([1, 2], maxlen=3),
        range(7, 1, -2), bytearray(b"ab"), Fraction(2, 2**70 + 1), Decimal("1.10"), [{"a": deque([(Decimal("NaN"),)])}],
    ],
)  # fmt: skip
def test_containers_and_numbers_of_the_library_keep_their_type(value: Any) -> None:
    """`f("aab").most_common(1)` is a test like any other."""
    returned = decode(json.loads(json.dumps(encode(value))))
    assert type(returned) is type(value)
    assert repr(returned) == repr(value)  # with the order, the longest length, the factory, the digits


class Text(str):
    """Of a subclass, which may compare as it pleases."""


OBJECTS = [
    object(), len, (x for x in "a"), iter([]), namedtuple("Pair", "a b")(1, 2), defaultdict(lambda: 1),
    IntEnum("N", "a")(1), Text("a"), ValueError(), [{"a": {1: Text("a")}}], {}.keys(),
]  # fmt: skip
NOT_OURS = [
    {"dict": 5}, {"dict": [5]}, {"dict": [[1]]}, {"dict": [[1, 2, 3]]}, {"set": 5}, {"set": None}, {"tuple": "ab"},
    {"complex": [1]}, {}, {"x": 1}, {"set": [1], "list": [1]},
]  # fmt: skip


@pytest.mark.parametrize("value", OBJECTS)
def test_what_is_not_plain_does_not_travel(value: Any) -> None:
    with pytest.raises(NotPlainData):
        encode(value)


@pytest.mark.parametrize("tree", NOT_OURS)
def test_any_json_may_be_compared(tree: Any) -> None:
    assert not any(same(tree, encode(right)) for right in [{1: 2}, {1}, (1, 2), 1j, {}, set(), [1], 5, None, "ab"])


@pytest.mark.slow
def test_keys_that_collide_cost_no_time() -> None:
    """Ints that are multiples of 2^61 - 1 all hash to 0: a dict of them, built by the sender's leave, would take
    minutes."""
    pairs = [[{"int": hex(number * (2**61 - 1))}, 0] for number in range(50_000)]
    started = time.process_time()
    assert not same({"dict": pairs}, encode({1: 2}))
    assert not same({"set": [key for key, _ in pairs]}, encode({1}))
    assert time.process_time() - started < 1


def test_messages_arrive_in_pieces_and_in_order() -> None:
    left, right = socket.socketpair()
    with left, right:
        sender, receiver = Channel(left), Channel(right)
        sender.send("a", [1, {"tuple": []}])
        sender.send("\ud800")
        assert receiver.receive() == ["a", [1, {"tuple": []}]]
        assert receiver.receive() == ["\ud800"]


def test_a_message_over_the_limit_is_not_read() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.sendall((1001).to_bytes(4, "big"))
        with pytest.raises(TooLong):
            Channel(right, max_bytes=1000).receive()


def test_a_sender_that_drips_meets_the_deadline() -> None:
    left, right = socket.socketpair()
    with left, right:
        channel = Channel(right)
        channel.patient(0.05)
        left.sendall(b"\0")
        with pytest.raises(TimeoutError):
            channel.receive()
        left.sendall(b"\0\0\2[]")
        with pytest.raises(TimeoutError):
            channel.receive()


def test_a_receiver_that_reads_nothing_meets_the_deadline() -> None:
    left, right = socket.socketpair()
    with left, right:
        channel = Channel(left)
        channel.patient(0.05)
        with pytest.raises(TimeoutError):
            channel.send("x" * 10_000_000)


def test_the_other_side_gone_is_an_end_of_file() -> None:
    left, right = socket.socketpair()
    with right:
        left.close()
        channel = Channel(right)
        with pytest.raises(EOFError):
            channel.receive()
        with pytest.raises(EOFError):
            channel.send("a")


@pytest.mark.parametrize("content", [b"{]}", b'{"a": 1}', b"\xff\xff", b"", b"9" * 5000])
def test_what_is_no_message_is_an_error(content: bytes) -> None:
    left, right = socket.socketpair()
    with left, right:
        left.sendall(len(content).to_bytes(4, "big") + content)
        with pytest.raises(ValueError):  # noqa: PT011
            Channel(right).receive()
