"""What every source yields, and how documents are split and ordered: by hashes of their names, so neither depends on
machine or seed."""

from collections import Counter
from collections.abc import Iterable, Mapping
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

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Texts that are tokenised apart, in their order."""
        if self.conversation:
            return self.conversation
        completion = Piece(self.completion, True)
        return (Piece(self.prompt, False), completion) if self.prompt else (completion,)

    @property
    def last_turn(self) -> "Document":
        """The same with its last turn alone to be learned."""
        *before, last = self.pieces
        return replace(self, conversation=(Piece("".join(piece.text for piece in before), False), last))

    @property
    def has_own_ends(self) -> bool:
        """Whether its texts hold the tokens that end them."""
        return bool(self.conversation)


def of_question(question: Question) -> Document:
    return Document(question.key, question.prompt, question.answer, question.origin, question)


def held_out(key: str, fraction: float) -> bool:
    """Whether a key belongs to the validation side, which gets `fraction` of all keys."""
    return int.from_bytes(_digest(key)[:8]) < fraction * 2**64


def in_part(key: str, part: str) -> bool:
    """Whether a held-out key belongs to the `selection` half, on which settings are chosen, or to the `report` half; to
    `all`, always."""
    return part == "all" or (int.from_bytes(_digest(f"part {key}")[:8]) < 2**63) == (part == "selection")


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
