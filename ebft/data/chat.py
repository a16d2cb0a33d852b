"""Conversations as a tokenizer's chat template writes them, cut where an assistant begins and ends to speak."""

import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ebft.config.schema import ColumnsDataConfig, UserError
from ebft.data.bad_rows import MALFORMED, BadCell, BadRow, Sieve
from ebft.data.documents import Document, Piece

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, Any]]

MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")  # around what an assistant says, in templates that have them
PROBED = "A question and an answer"
PROBE = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
ANSWER = "zq8"  # a text that no template has of itself
RENDERING_SECONDS = 10.0  # of one conversation, which takes milliseconds


@dataclass(frozen=True)
class ChatTemplate:
    """How a model's conversations are written."""

    tokenizer: "PreTrainedTokenizerBase"
    template: str
    name: str  # how an error names it

    @classmethod
    def of(cls, config: ColumnsDataConfig, tokenizer: "PreTrainedTokenizerBase") -> "ChatTemplate":
        """The tokenizer's own, or that of the file `data.chat_template`. Raises UserError where there is none."""
        if config.chat_template == "none":
            raise UserError("The rows hold messages, but data.chat_template=none; use auto, or a file with a template.")
        if config.chat_template != "auto":
            path = Path(config.chat_template)
            if not path.is_file():
                raise UserError(
                    f"data.chat_template={path} is not a file; name one with a Jinja template, auto, or none."
                )
            return cls(tokenizer, path.read_text(encoding="utf-8"), f"data.chat_template={path}")
        if tokenizer.chat_template is None:
            raise UserError(
                f"The rows hold messages, but the tokenizer of {tokenizer.name_or_path} has no chat template; name a "
                "file with one as data.chat_template."
            )
        return cls(tokenizer, tokenizer.get_chat_template(), f"the chat template of {tokenizer.name_or_path}")

    @cached_property
    def end(self) -> int:
        """The token that ends an assistant's turn. Raises UserError for a template that writes no conversation."""
        try:
            text = self._conversations(PROBE, PROBED)[-1][-1].text
        except BadCell as error:
            raise UserError(f"{error.row.problem}; name another template (data.chat_template).") from error
        token = next(token for token in self._tokens if text.endswith(token))
        return int(self.tokenizer.convert_tokens_to_ids(token))

    def written_all(self, documents: Sequence[Document], sieve: Sieve) -> list[Document]:
        """All documents that can be written; the sieve takes down the others."""
        written = []
        for document in documents:
            try:
                written.append(self.written(document) if document.messages else document)
            except BadCell as error:
                sieve.add(error.row)
        return written

    def written(self, document: Document) -> Document:
        """The document as pieces of text, of which those that an assistant says are learned, each with the token that
        ends its turn; what follows the last of them is left out. Raises BadCell for what the template cannot write or
        leaves out, and where it does not tell who speaks."""
        *earlier, pieces = self._conversations(document.messages, document.origin)
        before = "".join(piece.text for piece in pieces[:-1])
        question = document.question and replace(document.question, prompt=before)
        return replace(document, prompt=before, conversation=pieces, earlier=tuple(earlier), question=question)

    def _conversations(self, messages: Messages, origin: str) -> list[tuple[Piece, ...]]:
        """The whole conversation; or, of a template that writes a turn differently once others follow, the conversation
        up to and with each turn, which is what the model is asked for there."""
        turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        if not turns:
            raise _bad(f"{origin} holds no message of an assistant", "add one")
        if MARKS.search(self.template):
            whole, marked = self._render(messages[: turns[-1] + 1], origin, marks=True)
            found = [_cut(whole, [(start, self._end_of_turn(whole, start, stop, origin)) for start, stop in marked])]
        else:
            ended = [self._up_to(messages, turn, origin) for turn in turns]
            whole = ended[-1][0]
            spans = [(start, len(text)) for text, start in ended]
            together = all(whole.startswith(text) for text, _ in ended)
            found = [_cut(whole, spans)] if together else [_cut(text, [(start, len(text))]) for text, start in ended]
        for turn, pieces in zip(turns[-len(found) :], found, strict=True):
            self._check_said("".join(piece.text for piece in pieces[-2:]), messages[turn], turn, origin)
        return found

    def _up_to(self, messages: Messages, turn: int, origin: str) -> tuple[str, int]:
        """The conversation's text up to and with the token that ends an assistant's turn, and where in it the turn
        begins: behind what the template adds to everything before it, the cue to speak, and what else it writes before
        what is said."""
        said, _ = self._render(messages[: turn + 1], origin)
        try:
            cued, _ = self._render(messages[:turn], origin, cue=True)
        except BadCell as error:
            if turn:
                raise
            raise _bad(
                f"{origin} begins with an answer, and {self.name} asks for none before a question",
                "put a message of a user before it",
            ) from error
        if not said.startswith(cued):
            raise _bad(
                f"{origin} cannot be cut into turns: {self.name} does not write before message {turn + 1} what it "
                "writes to ask for it",
                "use a template that does, or one with generation marks (data.chat_template)",
            )
        start = len(cued)
        start += len(self._heading) if said.startswith(self._heading, start) else 0
        behind, end = self._tail
        stop = len(said) - len(behind) + end if end and said.endswith(behind) else len(said)
        return said[: self._end_of_turn(said, start, stop, origin)], start

    def _check_said(self, text: str, message: Mapping[str, Any], turn: int, origin: str) -> None:
        """In the text of a turn and what stands before it, where empty thoughts of the message's own are. Templates may
        move blanks, but thoughts that one leaves out would be unlearned without a word."""
        if "".join(message["content"].split()) not in "".join(text.split()):
            raise _bad(
                f"{origin} cannot be learned from: {self.name} leaves out a part of message {turn + 1}, as thoughts",
                "take it out, or use a template that writes it (data.chat_template)",
            )

    @cached_property
    def _tail(self) -> tuple[str, int]:
        """What the template writes behind an answer, and where in it the first token of its own ends: 0 where there is
        none."""
        user, _ = PROBE
        said, _ = self._render([user, {"role": "assistant", "content": ANSWER}], PROBED)
        behind = said.rpartition(ANSWER)[2]
        found = re.search("|".join(map(re.escape, self._tokens)) or r"(?!)", behind)
        return behind, found.end() if found else 0

    @cached_property
    def _heading(self) -> str:
        """What the template itself writes between the cue and what an assistant says: the role, in a template without a
        cue, or empty thoughts. Blanks before an answer are the answer's."""
        user, _ = PROBE
        cued, _ = self._render([user], PROBED, cue=True)
        said, _ = self._render([user, {"role": "assistant", "content": ANSWER}], PROBED)
        heading = said.partition(ANSWER)[0].removeprefix(cued).rstrip(" ")
        return heading if said.startswith(cued) and heading.strip() else ""

    def _end_of_turn(self, whole: str, start: int, stop: int, origin: str) -> int:
        """Behind the token that ends the turn, which may be the first behind what is marked."""
        said = whole[start:stop].rstrip()
        if any(said.endswith(token) for token in self._tokens):
            return start + len(said)
        for token in self._tokens:
            if whole.startswith(token, stop):
                return stop + len(token)
        raise _bad(
            f"{origin} cannot be learned from: {self.name} ends an assistant's turn with no token of its own, so that "
            "a model would never learn to stop",
            "use a template that does (data.chat_template)",
        )

    @cached_property
    def _tokens(self) -> list[str]:
        """Texts that are one token wherever they stand, the longest first."""
        added = {token.content for token in self.tokenizer.added_tokens_decoder.values()}
        return sorted(added | set(map(str, self.tokenizer.all_special_tokens)), key=len, reverse=True)

    def _render(
        self, messages: Messages, origin: str, cue: bool = False, marks: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        """A conversation's text, and where in it the template says that an assistant speaks."""
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            with _in_time():
                texts, spans = render_jinja_template(
                    conversations=[list(map(dict, messages))],
                    chat_template=self.template,
                    add_generation_prompt=cue,
                    return_assistant_tokens_mask=marks,
                    **self.tokenizer.special_tokens_map,
                )
        except Exception as error:  # a template is somebody's program, and throws what comes
            reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
            problem = f"{origin} cannot be written with {self.name}: {reason}"
            raise _bad(problem, "correct the row, or name another template (data.chat_template)") from error
        return texts[0], [(start, stop) for start, stop in spans[0]] if marks else []


def _cut(text: str, spans: Sequence[tuple[int, int]]) -> tuple[Piece, ...]:
    """Pieces up to the last span, of which the spans are learned."""
    pieces, done = [], 0
    for start, stop in spans:
        pieces += [Piece(text[done:start], False), Piece(text[start:stop], True)]
        done = stop
    return tuple(piece for piece in pieces if piece.text)


@contextmanager
def _in_time() -> Iterator[None]:
    """A block that ends with TimeoutError after RENDERING_SECONDS: a template may loop for ever. Signals reach the main
    thread alone; in another the block has no limit. One operation on huge numbers or texts is not cut short."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it takes longer than {RENDERING_SECONDS:g} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, RENDERING_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _bad(problem: str, fix: str) -> BadCell:
    return BadCell(BadRow(MALFORMED, problem, fix))
