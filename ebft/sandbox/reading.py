"""Where in a text its program is: answers come in Markdown fences, with prose around them, with a blank in front.

A model's texts are read in a confined process (inside.py): what the parser makes of one can take any time and memory.
"""

import ast
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from ebft.sandbox.functions import cut, parse, says_something
from ebft.sandbox.statements import bound

END_OF_THOUGHTS = "</think>"  # as DeepSeek-R1, Qwen3 and others write it
_FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})(?P<info>[^\n]*)$")


@dataclass(frozen=True)
class Reading:
    """A program in a text."""

    source: str
    how: str  # text, continuation, whole, fence, behind_thoughts, or stripped where blanks in front were in the way
    ended: bool  # the text goes on behind the program


@dataclass(frozen=True)
class Completion:
    """A function that a text completes."""

    kind: str  # passed, syntax, empty
    ended: bool  # the text goes on behind it


@dataclass(frozen=True)
class Block:
    """What stands in a Markdown fence."""

    code: str
    closed: bool


def read(text: str, prefix: str, entry_point: str) -> Reading:
    """The program that an answer makes: the first fenced block that defines the entry point, otherwise the text.

    With a prefix, as HumanEval has it, the text goes on behind it up to the end of the function, unless it, or a block
    in it, holds the whole function once more. Without an entry point the first block that compiles is the program.
    Thoughts, and the programs that are tried in them, are no part of it.
    """
    text = text.replace("\r\n", "\n")
    _, end, answer = text.rpartition(END_OF_THOUGHTS)
    if end and parse(prefix + text) is None:  # a program may hold the mark in its own texts
        found = _read(answer.lstrip("\n"), prefix, entry_point)
        return replace(found, how="behind_thoughts") if found.how == "text" else found
    return _read(text, prefix, entry_point)


def complete(text: str, prefix: str) -> Completion:
    """Whether prefix and text, up to the end of the function, compile, and the function's body does something."""
    body = cut(prefix, text)
    tree = parse(prefix + body)
    kind = "syntax" if tree is None else "passed" if says_something(tree) else "empty"
    return Completion(kind, ended=len(body) < len(text))


WAYS: Mapping[str, Callable[..., Reading | Completion]] = {"read": read, "complete": complete}  # of reading a text


def _read(text: str, prefix: str, entry_point: str) -> Reading:
    return _continued(text, prefix, entry_point) if prefix else _alone(text, entry_point)


def _alone(text: str, entry_point: str) -> Reading:
    if _defines(parse(text), entry_point):  # a program may hold fences in its own texts
        return Reading(text, "text", ended=False)
    block = _defining(text, entry_point)
    if block is not None:
        return block
    stripped = (candidate for candidate in _stripped(text) if _defines(parse(candidate), entry_point))
    found = next(stripped, None)
    return Reading(text, "text", ended=False) if found is None else Reading(found, "stripped", ended=False)


def _continued(text: str, prefix: str, entry_point: str) -> Reading:
    body = cut(prefix, text)
    if body.strip() and parse(prefix + body) is not None and not _FENCE.match(body.lstrip("\n").partition("\n")[0]):
        return Reading(prefix + body, "continuation", ended=len(body) < len(text))
    block = _defining(text, entry_point)
    if block is not None:
        return block
    for candidate in (text, *_stripped(text)):
        if _defines(parse(candidate), entry_point):
            return Reading(candidate, "whole", ended=False)
    for found in blocks(text):
        inner = cut(prefix, found.code)
        if inner.strip() and parse(prefix + inner) is not None:
            return Reading(prefix + inner, "fence", ended=found.closed)
    if text.startswith(" ") and parse(prefix + cut(prefix, text[1:])) is not None:
        return Reading(prefix + cut(prefix, text[1:]), "stripped", ended=len(cut(prefix, text[1:])) < len(text) - 1)
    return Reading(prefix + body, "continuation", ended=len(body) < len(text))


def _defining(text: str, entry_point: str) -> Reading | None:
    """The first fenced block that defines the entry point."""
    for block in blocks(text):
        code = textwrap.dedent(block.code)
        if _defines(parse(code), entry_point):
            return Reading(code, "fence", ended=block.closed)
    return None


def _defines(tree: ast.Module | None, name: str) -> bool:
    """Whether a program compiles and binds the name outside its functions."""
    if tree is None:
        return False
    if not name:
        return bool(tree.body)
    return any(
        statement.name == name
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        else name in bound(statement)
        for statement in tree.body
    )


def _stripped(text: str) -> Iterator[str]:
    """The text without blanks in front of its first line, and of all its lines."""
    yield text.strip("\n").lstrip(" \t\ufeff\u2581")
    yield textwrap.dedent(text.strip("\n"))


def blocks(text: str) -> Iterator[Block]:
    """What stands in the Markdown fences of a text, also of one that is indented: a fence ends by one at least as long
    of the same kind and no deeper by four, or with the text."""
    lines: list[str] = []
    opened: re.Match[str] | None = None
    for line in text.replace("\r\n", "\n").split("\n"):
        found = _FENCE.match(line)
        if opened is None:
            opened = found if found is not None and "`" not in found["info"] else None
            lines = []
        elif found is not None and _closes(found, opened):
            yield Block("\n".join([*lines, ""]), closed=True)
            opened = None
        else:
            lines.append(line.removeprefix(opened["indent"]))
    if opened is not None:
        yield Block("\n".join(lines), closed=False)


def _closes(found: re.Match[str], opened: re.Match[str]) -> bool:
    same = found["fence"][0] == opened["fence"][0] and len(found["fence"]) >= len(opened["fence"])
    return same and not found["info"].strip() and len(found["indent"]) < len(opened["indent"]) + 4
