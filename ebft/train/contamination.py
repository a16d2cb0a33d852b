"""How much of held-out rows is in the training data: whole prompts, whole completions, or any 13 tokens in a row, the
length that GPT-3's authors looked for in words (Brown et al., arXiv 2005.14165, appendix C).

Generated tasks share templates, so most of their rows have 13 tokens in common with the training data although no
question is the same; the share says what a low loss may rest on, not that a set is useless.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt

from ebft.data import Rows
from ebft.data.rows import PADDING
from ebft.types import Batch

LENGTH = 13  # tokens
ROWS_AT_A_TIME = 4096
WEIGHTS = np.random.default_rng(0).integers(1, 2**63, LENGTH, dtype=np.uint64) | np.uint64(1)


@dataclass(frozen=True)
class Contamination:
    """Shares of held-out rows; None for rows without a prompt of their own, which are plain text or packed."""

    num_rows: int
    prompts: float | None
    completions: float | None
    windows: float  # rows with 13 tokens in a row that stand in one training row

    def __str__(self) -> str:
        whole = "" if self.prompts is None else f"prompts {self.prompts:.1%}, completions {self.completions:.1%}, "
        return f"{whole}{LENGTH} tokens in a row {self.windows:.1%} of {self.num_rows} rows".replace("%", " %")


def contamination(train: Rows, held_out: Sequence[Batch], has_pairs: bool) -> Contamination:
    """`has_pairs`: every row of both is one prompt with its completion."""
    found = [_windows(batch.tokens.numpy(), batch.document_ids.numpy() != PADDING) for batch in held_out]
    codes = [code for windows, valid in found for code in _by_row(windows, valid)]
    wanted = np.unique(np.concatenate(codes))
    there = np.zeros(len(wanted), dtype=np.bool_)
    for start in range(0, len(train), ROWS_AT_A_TIME):
        stop = start + ROWS_AT_A_TIME
        windows, valid = _windows(train.tokens[start:stop].numpy(), train.document_ids[start:stop].numpy() != PADDING)
        there |= np.isin(wanted, windows[valid])
    hit = [bool(there[np.searchsorted(wanted, own)].any()) for own in codes]
    prompts = completions = None
    if has_pairs:
        prompts, completions = (_share_of_whole(train, held_out, completion=completion) for completion in (False, True))
    return Contamination(len(codes), prompts, completions, sum(hit) / len(hit))


def _windows(
    tokens: Int[np.ndarray, "rows T"], real: Bool[np.ndarray, "rows T"]
) -> tuple[UInt[np.ndarray, "rows places"], Bool[np.ndarray, "rows places"]]:
    """A code of 64 bits for the 13 tokens from every place on, sum_i w_i (token_i + 1), and which of them are real."""
    places = max(0, tokens.shape[1] - LENGTH + 1)
    codes = np.zeros((len(tokens), places), dtype=np.uint64)
    valid = np.ones((len(tokens), places), dtype=np.bool_)
    for shift, weight in enumerate(WEIGHTS):
        codes += weight * (tokens[:, shift : shift + places].astype(np.uint64) + np.uint64(1))
        valid &= real[:, shift : shift + places]
    return codes, valid


def _by_row(
    windows: UInt[np.ndarray, "rows places"], valid: Bool[np.ndarray, "rows places"]
) -> Iterator[UInt[np.ndarray, "found"]]:
    yield from (own[kept] for own, kept in zip(windows, valid, strict=True))


def _share_of_whole(train: Rows, held_out: Sequence[Batch], completion: bool) -> float:
    """The share of held-out rows whose prompt, or completion, is that of a training row."""
    seen = set(_parts(train.batch(range(len(train))), completion))
    own = [part for batch in held_out for part in _parts(batch, completion)]
    return sum(part in seen for part in own) / len(own)


def _parts(batch: Batch, completion: bool) -> Iterator[bytes]:
    real = (batch.document_ids != PADDING) & (batch.completion_mask == completion)
    yield from (row[mask].tobytes() for row, mask in zip(batch.tokens.numpy(), real.numpy(), strict=True))
