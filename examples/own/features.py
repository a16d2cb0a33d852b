"""A feature map of your own: counts of character trigrams of the decoded continuation, hashed into a vector.

    ebft-train features.network=examples/own/features.py:Trigrams

In place of the counts may stand any encoder of texts. What a row has before the anchor is not used here.
"""

from zlib import crc32

import torch

from ebft.types import Batch

WIDTH = 257


class Trigrams:
    def __init__(self, tokenizer, device):
        self.tokenizer, self.device = tokenizer, device

    def __call__(self, batch: Batch, anchors: torch.Tensor, tokens: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """tokens [B X G] with valid [B X G] to vectors of unit length [B X WIDTH]."""
        counts = torch.zeros(*tokens.shape[:2], WIDTH)
        for row, (continuations, masks) in enumerate(zip(tokens.cpu(), valid.cpu(), strict=True)):
            for place, (continuation, mask) in enumerate(zip(continuations, masks, strict=True)):
                text = self.tokenizer.decode(continuation[mask])
                for start in range(len(text) - 2):
                    counts[row, place, crc32(text[start : start + 3].encode()) % WIDTH] += 1
        return torch.nn.functional.normalize(counts, dim=-1).to(self.device)
