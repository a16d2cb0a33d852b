"""Plain data on a socket: how values travel between the processes of a run, and when two of them are the same.

A value becomes a tree of JSON: None, bool, str, float, a list, and an int of 64 bits stand for themselves; whatever
else is plain is an object with one key, its type: {"tuple": [...]}, {"dict": [[key, value], ...]}, {"bytes": hex}.
Types are exact, because a subclass may compare as it pleases; beside the built-in ones these are the containers of
`collections`, Fraction and Decimal. Nothing else travels: no object, no generator, no function. Reading a tree runs no
code of the sender's, and comparing two takes time by the size of the trusted one.
"""

import json
import math
import socket
import time
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

Tree = Any  # of JSON

_LENGTH_BYTES = 4
_CHUNK_BYTES = 1 << 16
_LOOK_SECONDS = 0.1  # between two looks at a run's limits while a message is awaited

_MAPPINGS: dict[str, Callable[[dict[Any, Any]], Any]] = {"dict": dict, "Counter": Counter, "OrderedDict": OrderedDict}
_FACTORIES = {kind.__name__: kind for kind in (int, float, str, bool, list, dict, set, tuple)} | {"None": None}


class NotPlainData(ValueError):
    """A value that cannot travel."""


class TooLong(ValueError):
    """A message above the limit."""


def encode(value: Any) -> Tree:
    """The tree of a value. NotPlainData where there is none, RecursionError where a value contains itself."""
    kind = type(value)
    if value is None or kind in (bool, str, float):
        return value
    if kind is int:
        return value if -(2**63) <= value < 2**63 else {"int": hex(value)}
    if kind is list:
        return [encode(item) for item in value]
    if kind is tuple:
        return {"tuple": [encode(item) for item in value]}
    if kind in (set, frozenset):
        return {kind.__name__: sorted((encode(item) for item in value), key=json.dumps)}
    if kind in (dict, Counter, OrderedDict):
        return {kind.__name__: _pairs(value)}
    if kind is defaultdict:
        return {"defaultdict": [_factory(value.default_factory), _pairs(value)]}
    if kind in (bytes, bytearray):
        return {kind.__name__: value.hex()}
    return _rarely(value, kind)


def _rarely(value: Any, kind: type) -> Tree:
    if kind is range:
        return {"range": [encode(part) for part in (value.start, value.stop, value.step)]}
    if kind is deque:
        return {"deque": [value.maxlen, [encode(item) for item in value]]}
    if kind is Fraction:
        return {"Fraction": [encode(value.numerator), encode(value.denominator)]}
    if kind is Decimal:
        return {"Decimal": str(value)}
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    raise NotPlainData(f"{kind.__name__} is no plain data")


def _pairs(value: dict[Any, Any]) -> list[list[Tree]]:
    return [[encode(key), encode(item)] for key, item in value.items()]


def _factory(factory: Any) -> str:
    for name, known in _FACTORIES.items():
        if factory is known:
            return name
    raise NotPlainData("a defaultdict of a function")


def decode(tree: Tree) -> Any:
    """The value of a tree. KeyError, TypeError or ValueError where it is none of ours."""
    if isinstance(tree, list):
        return [decode(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "int":
        return int(content, 16)
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "bytearray":
        return bytearray.fromhex(content)
    if kind == "complex":
        return complex(*content)
    if kind in _MAPPINGS:
        return _MAPPINGS[kind]({decode(key): decode(item) for key, item in content})
    if kind == "defaultdict":
        return defaultdict(_FACTORIES[content[0]], decode({"dict": content[1]}))
    if kind == "deque":
        return deque(map(decode, content[1]), content[0])
    if kind in ("range", "Fraction"):
        return {"range": range, "Fraction": Fraction}[kind](*map(decode, content))
    if kind == "Decimal":
        return Decimal(content)
    return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](map(decode, content))


def same(tree: Tree, expected: Tree) -> bool:
    """Whether two trees are one value: of the same types, floats within a relative 1e-9 (as keys and in sets exactly),
    nan equal to nan, the dictionaries of `collections` equal to the dict with the same pairs.

    `expected` is a tree of ours; `tree` may be any JSON.
    """
    if type(tree) is not type(expected):
        return False
    if isinstance(expected, float):
        return math.isclose(tree, expected, rel_tol=1e-9) or (math.isnan(tree) and math.isnan(expected))
    if isinstance(expected, list):
        return len(tree) == len(expected) and all(map(same, tree, expected))
    if not isinstance(expected, dict):
        return bool(tree == expected)
    tree, expected = _as_dict(tree), _as_dict(expected)
    ((kind, content),) = expected.items()
    if tree.keys() != {kind}:
        return False
    if kind == "dict":
        return _same_pairs(tree[kind], content)
    if kind in ("set", "frozenset"):
        return json.dumps(tree[kind]) == json.dumps(content)
    return same(tree[kind], content)


def _as_dict(tree: dict[str, Tree]) -> dict[str, Tree]:
    """The tree of the dict that a dictionary of `collections` equals; any other as it is."""
    match tree:
        case {"Counter": pairs} | {"OrderedDict": pairs} | {"defaultdict": [_, pairs]} if len(tree) == 1:
            return {"dict": pairs}
    return tree


def _same_pairs(pairs: Tree, expected: list[list[Tree]]) -> bool:
    """Whether two mappings have the same pairs, in any order. Keys are compared as text, so that 1, 1.0 and True
    differ and no key can be made slow to look up."""
    if (
        type(pairs) is not list
        or len(pairs) != len(expected)
        or any(type(pair) is not list or len(pair) != 2 for pair in pairs)
    ):
        return False
    found = {json.dumps(key): item for key, item in pairs}
    return all(json.dumps(key) in found and same(found[json.dumps(key)], item) for key, item in expected)


class Channel:
    """Messages, each a list of JSON, over a stream socket. `max_bytes` binds our side only, and so does `look`, which
    is called now and then while the other side is awaited, and raises when it has been for too long.

    EOFError where the other side is gone, TooLong and ValueError for a message that is none.
    """

    def __init__(self, end: socket.socket, max_bytes: float = math.inf) -> None:
        self._end, self._max_bytes = end, max_bytes
        self._look: Callable[[], None] | None = None
        self._looked = 0.0

    def watch(self, look: Callable[[], None]) -> None:
        self._look, self._looked = look, time.monotonic()
        self._end.settimeout(_LOOK_SECONDS)

    def patient(self, seconds: float, also: Callable[[], None] = lambda: None) -> None:
        """From here on wait no longer than `seconds`, and look with `also` meanwhile; TimeoutError behind them."""
        deadline = time.monotonic() + seconds

        def look() -> None:
            also()
            if time.monotonic() > deadline:
                raise TimeoutError

        self.watch(look)

    def send(self, *message: Tree) -> None:
        content = json.dumps(message).encode()
        self.send_bytes(len(content).to_bytes(_LENGTH_BYTES, "big") + content)

    def send_bytes(self, content: bytes) -> None:
        left = memoryview(content)
        while left:
            self._look_if_due()
            try:
                left = left[self._end.send(left) :]
            except TimeoutError:
                continue
            except ConnectionError as error:
                raise EOFError from error

    def receive(self) -> list[Tree]:
        size = int.from_bytes(self._read(_LENGTH_BYTES), "big")
        if size > self._max_bytes:
            raise TooLong
        message = json.loads(self._read(size))
        if not isinstance(message, list):
            raise ValueError("a message is a list")
        return message

    def primitives(self) -> tuple[Callable[[bytes], None], Callable[[int], bytes]]:
        """Ways to send and to receive bytes that no Python code can change."""
        return self._end.sendall, self._end.recv

    def _read(self, size: int) -> bytes:
        content = bytearray()
        while len(content) < size:
            self._look_if_due()
            try:
                chunk = self._end.recv(min(size - len(content), _CHUNK_BYTES))
            except TimeoutError:
                continue
            except ConnectionError as error:
                raise EOFError from error
            if not chunk:
                raise EOFError
            content += chunk
        return bytes(content)

    def _look_if_due(self) -> None:
        """The other side may also keep us busy without an end."""
        if self._look is not None and time.monotonic() - self._looked >= _LOOK_SECONDS:
            self._looked = time.monotonic()
            self._look()
