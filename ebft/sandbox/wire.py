"""Plain data on a socket: how values travel between the processes of a run, and when two of them are the same.

A value becomes a tree of JSON: None, bool, str, float, a list, and an int of 64 bits stand for themselves; whatever
else is plain is an object with one key, its type: {"tuple": [...]}, {"dict": [[key, value], ...]}, {"bytes": hex}.
Types are exact, because a subclass may compare as it pleases; only the three dictionaries of `collections` travel as
the dict that they equal. Nothing else travels: no object, no generator, no function. Reading a tree runs no code of the
sender's, and comparing two takes time by the size of the trusted one.
"""

import json
import math
import socket
import time
from collections import Counter, OrderedDict, defaultdict
from typing import Any

Tree = Any  # of JSON

_LENGTH_BYTES = 4
_CHUNK_BYTES = 1 << 16


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
    if kind in (dict, Counter, OrderedDict, defaultdict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    if kind is bytes:
        return {"bytes": value.hex()}
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    raise NotPlainData(f"{kind.__name__} is no plain data")


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
    if kind == "complex":
        return complex(*content)
    if kind == "dict":
        return {decode(key): decode(item) for key, item in content}
    return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](map(decode, content))


def same(tree: Tree, expected: Tree) -> bool:
    """Whether two trees are one value: of the same types, floats within a relative 1e-9 (as keys and in sets exactly),
    nan equal to nan.

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
    ((kind, content),) = expected.items()
    if tree.keys() != {kind}:
        return False
    if kind == "dict":
        return _same_pairs(tree[kind], content)
    if kind in ("set", "frozenset"):
        return json.dumps(tree[kind]) == json.dumps(content)
    return same(tree[kind], content)


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
    """Messages, each a list of JSON, over a stream socket; `deadline` (of time.monotonic) and `max_bytes` bind our side
    only.

    TimeoutError behind the deadline, EOFError where the other side is gone, TooLong and ValueError for a message that
    is none.
    """

    def __init__(self, end: socket.socket, max_bytes: float = math.inf) -> None:
        self._end, self._max_bytes = end, max_bytes
        self.deadline: float | None = None

    def send(self, *message: Tree) -> None:
        content = json.dumps(message).encode()
        self._wait_at_most()
        try:
            self._end.sendall(len(content).to_bytes(_LENGTH_BYTES, "big") + content)
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

    def _read(self, size: int) -> bytes:
        content = bytearray()
        while len(content) < size:
            self._wait_at_most()
            try:
                chunk = self._end.recv(min(size - len(content), _CHUNK_BYTES))
            except ConnectionError as error:
                raise EOFError from error
            if not chunk:
                raise EOFError
            content += chunk
        return bytes(content)

    def _wait_at_most(self) -> None:
        if self.deadline is not None:
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._end.settimeout(left)
