"""From documents to rows of `sequence_length` tokens: one flat stream of tokens, then a place in the grid of rows for
each of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ebft.config.schema import DataConfig, UserError
from ebft.data.bad_rows import BadRows, too_long
from ebft.data.documents import Document
from ebft.types import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_BATCH_DOCUMENTS = 1000
PADDING = -1  # document id

TokenIds = Int[np.ndarray, "..."]  # of one document, so that lengths in a list may differ


@dataclass(frozen=True)
class Stream:
    """Documents one after the other, an EOS after each."""

    tokens: Int[np.ndarray, "S"]
    document: Int[np.ndarray, "S"]  # index of the document that a token, its EOS included, belongs to
    completion: Bool[np.ndarray, "S"]


@dataclass(frozen=True)
class Rows:
    """All rows of one side of the data, on the CPU."""

    tokens: Int[Tensor, "rows T"]
    document_ids: Int[Tensor, "rows T"]
    loss_mask: Bool[Tensor, "rows T"]
    completion_mask: Bool[Tensor, "rows T"]
    masked: bool  # attention stays inside a document
    num_documents: int

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def num_tokens(self) -> int:
        """Tokens without padding, every document's EOS included."""
        return int((self.document_ids != PADDING).sum())

    @cached_property
    def digest(self) -> str:
        """Of everything that a step or an evaluation reads of the rows."""
        found = sha256(f"{self.masked} {tuple(self.tokens.shape)}".encode())
        for values in (self.tokens, self.document_ids, self.loss_mask, self.completion_mask):
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
        )


def to_rows(documents: Sequence[Document], config: DataConfig, tokenizer: "PreTrainedTokenizerBase") -> Rows:
    stream = tokenise(documents, tokenizer)
    if config.layout == "padded":
        _check_pairs_fit(documents, stream, config.sequence_length)
        places = padded_places(stream.document, config.sequence_length)
    else:
        places = np.arange(len(stream.tokens))
    return _fill(stream, places, config, tokenizer.eos_token_id, len(documents))


def num_tokens(documents: Sequence[Document], tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The number of tokens of every document, its EOS included."""
    return [] if not documents else np.bincount(tokenise(documents, tokenizer).document).tolist()


def tokenise(documents: Sequence[Document], tokenizer: "PreTrainedTokenizerBase") -> Stream:
    """Prompt and completion apart, so that the border between them is a border between tokens, and without special
    tokens but the EOS."""
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"The tokenizer of {tokenizer.name_or_path} has no end-of-sequence token to put between documents; set "
            "its eos_token."
        )
    prompts = _encode([document.prompt for document in documents], tokenizer)
    completions = _encode([document.completion for document in documents], tokenizer)
    end = np.array([tokenizer.eos_token_id], dtype=np.int32)
    tokens = [
        np.concatenate([prompt, completion, end]) for prompt, completion in zip(prompts, completions, strict=True)
    ]
    num_prompt = np.array([len(prompt) for prompt in prompts])
    lengths = np.array([len(document) for document in tokens])
    offset = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
    return Stream(
        tokens=np.concatenate(tokens),
        document=np.repeat(np.arange(len(documents), dtype=np.int32), lengths),
        completion=offset >= np.repeat(num_prompt, lengths),
    )


def _encode(texts: list[str], tokenizer: "PreTrainedTokenizerBase") -> list[TokenIds]:
    encoded: list[TokenIds] = []
    for start in range(0, len(texts), TOKENIZER_BATCH_DOCUMENTS):
        part = texts[start : start + TOKENIZER_BATCH_DOCUMENTS]
        ids = tokenizer(part, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        encoded.extend(np.array(document, dtype=np.int32) for document in ids)
    return encoded


def padded_places(document: Int[np.ndarray, "S"], sequence_length: int) -> Int[np.ndarray, "S"]:
    """Places in the flattened grid when every document begins a row of its own and runs on into as many more as it
    needs."""
    lengths = np.bincount(document)
    num_rows = -(-lengths // sequence_length)
    first_row = num_rows.cumsum() - num_rows
    offset = np.arange(len(document)) - (lengths.cumsum() - lengths)[document]
    return first_row[document] * sequence_length + offset


def _check_pairs_fit(documents: Sequence[Document], stream: Stream, sequence_length: int) -> None:
    """A plain text may run on into further rows, a completion without its prompt may not."""
    long = [
        too_long(document.origin, length, sequence_length)
        for document, length in zip(documents, np.bincount(stream.document).tolist(), strict=True)
        if document.prompt and length > sequence_length
    ]
    if long:
        raise BadRows.of(long)


def _fill(
    stream: Stream, places: Int[np.ndarray, "S"], config: DataConfig, padding_token: int, num_documents: int
) -> Rows:
    length = config.sequence_length
    shape = (int(places[-1]) // length + 1, length)

    def grid(values: np.ndarray, padding: int) -> Tensor:
        flat = np.full(shape, padding, dtype=values.dtype).reshape(-1)
        flat[places] = values
        return torch.from_numpy(flat.reshape(shape))

    document_ids = grid(stream.document if config.document_masking else np.zeros_like(stream.document), PADDING)
    # each row's documents are 0, 1, ...
    document_ids = torch.where(document_ids == PADDING, PADDING, document_ids - document_ids[:, :1])
    completion_mask = grid(stream.completion, False)
    counted = completion_mask if config.loss_tokens == "completion" else document_ids != PADDING
    return Rows(
        tokens=grid(stream.tokens, padding_token),
        document_ids=document_ids,
        loss_mask=counted & has_context(document_ids),
        completion_mask=completion_mask,
        masked=config.document_masking,
        num_documents=num_documents,
    )


def has_context(document_ids: Int[Tensor, "rows T"]) -> Bool[Tensor, "rows T"]:
    """Places whose predecessor in the row is of the same document, so that something predicts their token."""
    result = torch.zeros_like(document_ids, dtype=torch.bool)
    result[:, 1:] = document_ids[:, 1:] == document_ids[:, :-1]
    return result
