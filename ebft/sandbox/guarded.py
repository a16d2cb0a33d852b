"""Comparisons in a program's own process that a value of the program's cannot decide: where plain data is expected, an
object of a class with an `__eq__` of its own is something else, whatever it says.

This module and beside.py hold Python's builtins as they were before the program ran.
"""

import builtins
from collections import Counter, OrderedDict, UserDict, UserList, UserString, defaultdict, deque
from collections.abc import Iterator
from collections.abc import Mapping as AbstractMapping
from collections.abc import Set as AbstractSet
from fractions import Fraction
from typing import Any

globals()["__builtins__"] = dict(vars(builtins))

_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes})
_CONTAINERS = (list, tuple, dict, set, frozenset, deque)
_EXACT = frozenset({*_CONTAINERS, Counter, OrderedDict, defaultdict})
_WRAPPER = type(int.__eq__)  # of what is written in C
_PYTHON = tuple(
    kind.__dict__["__eq__"]
    for kind in (Fraction, Counter, UserList, UserString, AbstractMapping, AbstractSet)
    if "__eq__" in kind.__dict__
)
_classes, _members = type.__dict__["__mro__"].__get__, type.__dict__["__dict__"].__get__


def compare(operator: str, left: Any, right: Any, trusted: tuple[type, ...]) -> Any:
    """left OPERATOR right. `trusted` are the classes under test, which the tests name: they compare as they please."""
    if type(left) not in _ATOMS or type(right) not in _ATOMS:
        disguised = (is_plain(left) and not is_honest(right, trusted)) or (
            is_plain(right) and not is_honest(left, trusted)
        )
        if operator in ("in", "not_in") and type(right) not in _EXACT:  # a container of the program's own
            disguised = False
        if disguised:
            return operator in ("ne", "not_in")
    match operator:
        case "eq":
            return left == right
        case "ne":
            return left != right
        case "in":
            return left in right
    return left not in right


def is_plain(value: Any) -> bool:
    """Whether a value is built-in data all the way down."""
    return all(type(part) in _ATOMS or type(part) in _EXACT for part in _parts(value))


def is_honest(value: Any, trusted: tuple[type, ...]) -> bool:
    """Whether all that a value holds compares as Python and its library do."""
    return all(type(part) in _ATOMS or _compares_honestly(type(part), trusted) for part in _parts(value))


def _compares_honestly(kind: type, trusted: tuple[type, ...]) -> bool:
    if any(kind is one for one in trusted):
        return True
    for owner in _classes(kind):
        if "__eq__" in _members(owner):
            equal = _members(owner)["__eq__"]
            return type(equal) is _WRAPPER or any(equal is known for known in _PYTHON)
    return False


def _parts(value: Any) -> Iterator[Any]:
    """A value and all that it contains, by what containers hold and not by what their classes say; each once."""
    left, seen = [value], set()
    while left:
        part = left.pop()
        yield part
        kind = next((kind for kind in _CONTAINERS if kind in _classes(type(part))), None)
        if kind is not None and id(part) not in seen:
            seen.add(id(part))
            if kind is dict:
                left.extend(dict.keys(part))
                left.extend(dict.values(part))
            else:
                left.extend(kind.__iter__(part))
        elif type(part) in (UserDict, UserList, UserString):
            left.append(part.data)
