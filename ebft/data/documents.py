"""What every source yields, and how documents are split and ordered: by hashes of their names, so neither depends on
machine or seed."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from ebft.tasks.base import Question


@dataclass(frozen=True)
class Piece:
    """A text between two borders of tokens."""

    text: str
    learned: bool  # it is what a model is to say


@dataclass(frozen=True)
class Document:
    """One document. Plain text is all completion and has an empty prompt."""

    key: str  # what the split hashes: documents of one key are never on both sides
    prompt: str
    completion: str
    origin: str  # how an error message names it, such as path:line
    question: Question | None = None  # what its completion answers, where completions can be verified
    messages: tuple[Mapping[str, Any], ...] = ()  # of a conversation, each with its role and content
    conversation: tuple[Piece, ...] = ()  # in place of prompt and completion: turns, as the chat template writes them
    earlier: tuple[tuple[Piece, ...], ...] = ()  # up to earlier answers, where the template writes those differently

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Texts that are tokenised apart, in their order."""
        if self.conversation:
            return self.conversation
        completion = Piece(self.completion, True)
        return (Piece(self.prompt, False), completion) if self.prompt else (completion,)

    @property
    def last_turn(self) -> "Document":
        """The same with its last turn alone to be learned; tokens stay those of the whole conversation."""
        *before, last = self.pieces
        return replace(self, conversation=(*(replace(piece, learned=False) for piece in before), last), earlier=())

    @property
    def apart(self) -> "list[Document]":
        """The documents that it is laid out as: one for each of its answers where those cannot stand in one text."""
        return [*(replace(self, conversation=pieces, earlier=()) for pieces in self.earlier), self]

    @property
    def has_own_ends(self) -> bool:
        """Whether its texts hold the tokens that end them."""
        return bool(self.conversation)


def of_question(question: Question) -> Document:
    return Document(question.key, question.prompt, question.answer, question.origin, question)


def in_both_directions(documents: Sequence[Document]) -> list[Document]:
    """Translations under one key with what translates them back, and with what shares a text with either, so that a
    split parts no pair. The source is the line of the prompt, with or without a heading such as "German: ", that is
    another row's completion; a row without one keeps its key."""
    completions = {document.completion.strip() for document in documents}
    sources = [_lines(document.prompt) & completions for document in documents]
    parents: dict[str, str] = {}

    def root(text: str) -> str:
        while (parent := parents.setdefault(text, text)) != text:
            parents[text] = text = parents[parent]
        return text

    for document, texts in zip(documents, sources, strict=True):
        for text in texts:
            low, high = sorted((root(text), root(document.completion.strip())))
            parents[high] = low
    return [
        replace(document, key=root(document.completion.strip())) if texts else document
        for document, texts in zip(documents, sources, strict=True)
    ]


def _lines(prompt: str) -> set[str]:
    lines = {line.strip() for line in prompt.split("\n")}
    return {text for line in lines for text in (line, line.partition(": ")[2]) if text}


def held_out(documents: Sequence[Document], fraction: float) -> set[str]:
    """The keys of the validation side: those with the smallest hashes that have `fraction` of all documents, to the
    nearest document; one key at least, and never all. A smaller fraction's are among a larger one's."""
    return _smallest(documents, fraction, "")


def in_part(documents: Sequence[Document], part: str) -> list[Document]:
    """Of held-out documents, the `selection` half, on which settings are chosen, or the `report` half; with `all`,
    all. No key is in both."""
    if part == "all":
        return list(documents)
    selection = _smallest(documents, 0.5, "part ")
    return [document for document in documents if (document.key in selection) == (part == "selection")]


def _smallest(documents: Sequence[Document], fraction: float, salt: str) -> set[str]:
    counts = Counter(document.key for document in documents)
    wanted, number, chosen = max(1, math.floor(fraction * len(documents) + 0.5)), 0, set()
    for key in sorted(counts, key=lambda key: _digest(salt + key))[:-1]:
        if number >= wanted:
            break
        chosen.add(key)
        number += counts[key]
    return chosen


def in_hash_order(documents: Iterable[Document]) -> list[Document]:
    """Documents in an order unrelated to that of the source, independent of what else is in the list; copies of one key
    lie apart."""
    occurrences: Counter[str] = Counter()
    ranked = []
    for document in documents:
        occurrences[document.key] += 1
        ranked.append((_digest(f"order {occurrences[document.key]} {document.key}"), document))
    return [document for _, document in sorted(ranked, key=lambda pair: pair[0])]


def _digest(text: str) -> bytes:
    return sha256(text.encode()).digest()
