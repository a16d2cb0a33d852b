"""What held-out rows are called in every run over the same tokens, and which document each belongs to."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import torch

from ebft.types import Batch

DIGITS = 16  # of a digest, in hexadecimal


@dataclass(frozen=True)
class Names:
    """Of rows, in their order."""

    rows: list[str]
    documents: list[str]


def digest(data: bytes) -> str:
    return sha256(data).hexdigest()[:DIGITS]


def names_of(batch: Batch, documents: Sequence[str] | None) -> Names:
    """Rows by a digest of their tokens and masks. `documents` are the documents of all rows by row id, each named by
    any text; None: every row is a document of its own."""
    columns = (batch.tokens.long(), batch.document_ids.long(), batch.loss_mask.long(), batch.completion_mask.long())
    rows = [digest(row.contiguous().numpy().tobytes()) for row in torch.stack(columns, dim=1).cpu()]
    if documents is None:
        return Names(rows, rows)
    return Names(rows, [digest(documents[row].encode()) for row in batch.row_ids.tolist()])


def joined(parts: Sequence[Names]) -> Names:
    """The rows of several batches as one. The second copy of a row is another row, NAME-2."""
    seen: Counter[str] = Counter()
    rows = []
    for row in (row for part in parts for row in part.rows):
        seen[row] += 1
        rows.append(row if seen[row] == 1 else f"{row}-{seen[row]}")
    return Names(rows, [document for part in parts for document in part.documents])
