"""From documents to rows of `sequence_length` tokens: one flat stream of tokens, then a place in the grid of rows for
each of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ebft.config.schema import DataConfig
from ebft.data.bad_rows import BadRows, too_long
from ebft.data.documents import Document
from ebft.data.tokenization import TokenIds, Tokenization
from ebft.types import Batch

PADDING = -1  # document id
PAIRS_LOOKED_AT = 1000


@dataclass(frozen=True)
class Stream:
    """Documents one after the other, each with what begins and ends it."""

    tokens: Int[np.ndarray, "S"]
    document: Int[np.ndarray, "S"]  # index of the document that a token, its BOS and EOS included, belongs to
    completion: Bool[np.ndarray, "S"]
    starts: Bool[np.ndarray, "S"]  # BOS, which nothing predicts, those inside a conversation too


@dataclass(frozen=True)
class Rows:
    """All rows of one side of the data, on the CPU."""

    tokens: Int[Tensor, "rows T"]
    document_ids: Int[Tensor, "rows T"]
    loss_mask: Bool[Tensor, "rows T"]
    completion_mask: Bool[Tensor, "rows T"]
    masked: bool  # attention stays inside a document
    num_documents: int
    documents: tuple[str, ...]  # by row: the key of the document that most of its tokens belong to
    starts: Bool[Tensor, "rows T"] | None = None  # BOS; None: there is none

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def num_tokens(self) -> int:
        """Tokens without padding, every BOS and EOS included."""
        return int((self.document_ids != PADDING).sum())

    @cached_property
    def digest(self) -> str:
        """Of everything that a step or an evaluation reads of the rows."""
        found = sha256(f"{self.masked} {tuple(self.tokens.shape)}".encode())
        starts = [] if self.starts is None else [self.starts]
        for values in (self.tokens, self.document_ids, self.loss_mask, self.completion_mask, *starts):
            found.update(values.contiguous().numpy().data)
        return found.hexdigest()

    def batch(self, indices: Sequence[int]) -> Batch:
        rows = torch.tensor(indices, dtype=torch.int64)
        return Batch(
            tokens=self.tokens[rows].long(),
            document_ids=self.document_ids[rows].long(),
            loss_mask=self.loss_mask[rows],
            completion_mask=self.completion_mask[rows],
            row_ids=rows,
            masked=self.masked,
            starts=None if self.starts is None else self.starts[rows],
        )


def to_rows(documents: Sequence[Document], config: DataConfig, tokenization: Tokenization) -> Rows:
    documents = [part for document in documents for part in document.apart]
    stream = tokenise(documents, tokenization)
    if config.layout == "padded":
        _check_pairs_fit(documents, stream, config.sequence_length)
    keys = [document.key for document in documents]
    return _fill(stream, _places(stream, config, tokenization.bos), config, tokenization, keys)


def num_tokens(documents: Sequence[Document], tokenization: Tokenization) -> list[int]:
    """The number of tokens of every document, its BOS and EOS included; of one that is laid out as several, the most
    that one of them has."""
    if not documents:
        return []
    parts = [document.apart for document in documents]
    lengths = iter(np.bincount(tokenise([part for each in parts for part in each], tokenization).document).tolist())
    return [max(next(lengths) for _ in each) for each in parts]


def tokenise(documents: Sequence[Document], tokenization: Tokenization) -> Stream:
    """Prompt and completion apart, so that the border between them is a border between tokens; a BOS before a document
    where the model wants one and the text has none, and the end token behind it if the text has none."""
    pieces = [document.pieces for document in documents]
    first = iter(tokenization.encode([parts[0].text for parts in pieces]))
    before = [piece.text for parts in pieces for piece in parts[:-1]]
    later = iter(tokenization.encode_within([piece.text for parts in pieces for piece in parts[1:]], before))
    encoded = [
        _document([next(first), *(next(later) for _ in parts[1:])], document, tokenization)
        for document, parts in zip(documents, pieces, strict=True)
    ]
    tokens, completion, starts = (np.concatenate(arrays) for arrays in zip(*encoded, strict=True))
    lengths = [len(document[0]) for document in encoded]
    return Stream(tokens, np.repeat(np.arange(len(documents), dtype=np.int32), lengths), completion, starts)


def _document(
    pieces: list[TokenIds], document: Document, tokenization: Tokenization
) -> tuple[Int[np.ndarray, "n"], Bool[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """Tokens of a document, which of them are completions, and which are its BOS."""
    ended = document.has_own_ends or pieces[-1][-1:].tolist() == [tokenization.end]
    ends = [] if ended else [np.array([tokenization.end], dtype=np.int32)]
    tokens = np.concatenate([*pieces, *ends])
    learned = np.concatenate(
        [np.full(len(ids), piece.learned) for ids, piece in zip(pieces, document.pieces, strict=True)]
        + [np.ones(len(end), dtype=np.bool_) for end in ends]
    )
    if tokenization.bos is not None and (not len(tokens) or tokens[0] != tokenization.bos):
        tokens, learned = np.insert(tokens, 0, tokenization.bos), np.insert(learned, 0, False)
    starts = np.zeros(len(tokens), dtype=np.bool_)
    if tokenization.bos is not None:
        starts[:] = tokens == tokenization.bos if tokenization.bos not in tokenization.stop_tokens else False
        starts[0] = True
    return tokens, learned & ~starts, starts


def _places(stream: Stream, config: DataConfig, bos: int | None) -> Int[np.ndarray, "S"]:
    """Where in the flattened grid of rows every token stands. With a BOS the first place of every row holds one: that
    of a document which begins there, or one more."""
    if config.layout == "padded":
        return padded_places(stream.document, config.sequence_length, 0 if bos is None else 1)
    if bos is None:
        return np.arange(len(stream.tokens))
    places, row, done = np.empty(len(stream.tokens), dtype=np.int64), 0, 0
    while done < len(places):
        first = 0 if stream.starts[done] else 1
        part = places[done : done + config.sequence_length - first]
        part[:] = row * config.sequence_length + first + np.arange(len(part))
        row, done = row + 1, done + len(part)
    return places


def share_that_cuts_a_word(documents: Sequence[Document], tokenization: Tokenization) -> float:
    """Of pairs, how many have a prompt that ends in a space which the tokenizer, given the whole text, joins with the
    word behind it: tokens that no text of the model's training had there."""
    pairs = [document for document in documents if document.prompt and not document.conversation]
    ending = [document for document in pairs if document.prompt.endswith(" ")][:PAIRS_LOOKED_AT]
    if not ending:
        return 0.0
    apart = tokenization.encode([document.prompt for document in ending])
    whole = tokenization.encode([document.prompt + document.completion for document in ending])
    cut = sum(not np.array_equal(ids[: len(prompt)], prompt) for prompt, ids in zip(apart, whole, strict=True))
    return cut / len(ending) * sum(document.prompt.endswith(" ") for document in pairs) / len(pairs)


def padded_places(document: Int[np.ndarray, "S"], sequence_length: int, reserved: int = 0) -> Int[np.ndarray, "S"]:
    """Places in the flattened grid when every document begins a row of its own and runs on into as many more as it
    needs, of which each leaves its first `reserved` places free."""
    lengths, room = np.bincount(document), sequence_length - reserved
    num_rows = 1 + np.maximum(0, -(-(lengths - sequence_length) // room))
    first_row = num_rows.cumsum() - num_rows
    offset = np.arange(len(document)) - (lengths.cumsum() - lengths)[document]
    further = np.maximum(0, offset - sequence_length)
    later = offset >= sequence_length
    row = np.where(later, 1 + further // room, 0)
    column = np.where(later, reserved + further % room, offset)
    return (first_row[document] + row) * sequence_length + column


def _check_pairs_fit(documents: Sequence[Document], stream: Stream, sequence_length: int) -> None:
    """A plain text may run on into further rows, a completion without its prompt may not."""
    long = {  # the last of those that one row is laid out as
        document.origin: too_long(document.origin, length, sequence_length)
        for document, length in zip(documents, np.bincount(stream.document).tolist(), strict=True)
        if document.prompt and length > sequence_length
    }
    if long:
        raise BadRows.of(long.values())


def _fill(
    stream: Stream, places: Int[np.ndarray, "S"], config: DataConfig, tokenization: Tokenization, keys: Sequence[str]
) -> Rows:
    length = config.sequence_length
    shape = (int(places[-1]) // length + 1, length)

    def grid(values: np.ndarray, padding: int) -> Tensor:
        flat = np.full(shape, padding, dtype=values.dtype).reshape(-1)
        flat[places] = values
        return torch.from_numpy(flat.reshape(shape))

    document_ids = grid(stream.document if config.document_masking else np.zeros_like(stream.document), PADDING)
    tokens, starts = grid(stream.tokens, tokenization.end), grid(stream.starts, False)
    if tokenization.bos is not None:  # of rows that go on with a document
        going_on = document_ids[:, 0] == PADDING
        tokens[going_on, 0], starts[going_on, 0] = tokenization.bos, True
        document_ids[going_on, 0] = document_ids[going_on, 1]
    # each row's documents are 0, 1, ...
    document_ids = torch.where(document_ids == PADDING, PADDING, document_ids - document_ids[:, :1])
    completion_mask = grid(stream.completion, False)
    counted = completion_mask if config.loss_tokens == "completion" else document_ids != PADDING
    return Rows(
        tokens=tokens,
        document_ids=document_ids,
        loss_mask=counted & has_context(document_ids) & ~starts,
        completion_mask=completion_mask,
        starts=None if tokenization.bos is None else starts,
        masked=config.document_masking,
        num_documents=len(keys),
        documents=tuple(keys[number] for number in _mostly(stream.document, places // length)),
    )


def _mostly(document: Int[np.ndarray, "S"], row: Int[np.ndarray, "S"]) -> list[int]:
    """For every row the document that has most of its tokens, the first of those that have as many. Tokens come in the
    order of their rows, and in a row in that of their documents."""
    begins = np.flatnonzero((np.diff(row, prepend=-1) != 0) | (np.diff(document, prepend=-1) != 0))
    counts = np.diff(begins, append=len(row))
    rows, documents = row[begins], document[begins]
    first_best = np.lexsort((documents, -counts, rows))
    _, starts = np.unique(rows[first_best], return_index=True)
    return documents[first_best[starts]].tolist()


def has_context(document_ids: Int[Tensor, "rows T"]) -> Bool[Tensor, "rows T"]:
    """Places whose predecessor in the row is of the same document, so that something predicts their token."""
    result = torch.zeros_like(document_ids, dtype=torch.bool)
    result[:, 1:] = document_ids[:, 1:] == document_ids[:, :-1]
    return result
