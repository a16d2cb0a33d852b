"""The axis legend, and the frozen dataclasses that cross stages.

Axes, everywhere in this program and in this order where several meet:

    B  documents (rows) of a batch        N  rollouts per context        K  blocks (anchors) of a row
    G  generated steps of a block         T  tokens of a row             R  a row's rollouts, block-major: r = k * N + n
    D  feature width                      L  tapped layers               V  vocabulary
    W  own tokens of a row's branches     S  flat row, S = T + W

A row is `sequence_length` tokens. A block is an anchor in the row; a branch is what one or several equal rollouts have
that is not the row's.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


def to_device(x: Shaped[Tensor, "..."], device: torch.device) -> Shaped[Tensor, "..."]:
    """Sends a tensor on its way to the device, without waiting until it has arrived: only pinned memory is read
    behind the host's back, and only a tensor that has a place for every element can be pinned."""
    if device.type != "cuda" or x.is_cuda:
        return x.to(device)
    return x.contiguous().pin_memory().to(device, non_blocking=True)


def is_any(tokens: Int[Tensor, "*b"], ids: tuple[int, ...]) -> Bool[Tensor, "*b"]:
    """Which of the tokens are one of `ids`; nothing is sent to a device for it."""
    found = torch.zeros_like(tokens, dtype=torch.bool)
    for one in ids:
        found |= tokens == one
    return found


@dataclass(frozen=True)
class Batch:
    """Rows of tokens with everything that the stages need to know about them."""

    tokens: Int[Tensor, "B T"]
    # attention and blocks never cross two ids; -1 on padding; all 0 without document masking
    document_ids: Int[Tensor, "B T"]
    loss_mask: Bool[Tensor, "B T"]  # tokens that count as targets of the cross-entropy
    completion_mask: Bool[Tensor, "B T"]  # tokens of a completion; every real token where the data is plain text
    row_ids: Int[Tensor, "B"]  # the rows' places in the data set
    masked: bool  # rows hold several document ids, so that attention within a row needs a mask
    starts: Bool[Tensor, "B T"] | None = (
        None  # beginning-of-sequence tokens, which nothing predicts; None: there are none
    )

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def to(self, device: torch.device) -> "Batch":
        return self._map(lambda x: to_device(x, device))

    def rows(self, start: int, stop: int) -> "Batch":
        """The rows start..stop-1 as a batch of their own."""
        return self._map(lambda x: x[start:stop])

    def columns(self, stop: int) -> "Batch":
        """The rows without their tokens from `stop` on."""
        return self._map(lambda x: x[:, :stop] if x.ndim == 2 else x)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch(
            tokens=change(self.tokens),
            document_ids=change(self.document_ids),
            loss_mask=change(self.loss_mask),
            completion_mask=change(self.completion_mask),
            row_ids=change(self.row_ids),
            masked=self.masked,
            starts=None if self.starts is None else change(self.starts),
        )


@dataclass(frozen=True)
class Blocks:
    """The anchors that rollouts hang from: block k of a row conditions on tokens[:anchor] and has tokens[anchor :
    anchor + G] as reference."""

    anchors: Int[Tensor, "B K"]
    valid: Bool[Tensor, "B K"]  # False: no such block in this row; its anchor is a placeholder
    reach: tuple[int, ...]  # the largest anchor of block k over the batch, known without asking the device

    def to(self, device: torch.device) -> "Blocks":
        return Blocks(to_device(self.anchors, device), to_device(self.valid, device), self.reach)


@dataclass(frozen=True)
class Rollout:
    """Sampled continuations of every block."""

    blocks: Blocks
    tokens: Int[Tensor, "B N K G"]
    log_probs: Float[Tensor, "B N K G"]  # at the sampling temperature
    valid: Bool[Tensor, "B N K G"]  # False in blocks that do not exist and after a branch's EOS
    matches: Int[Tensor, "B R"] | None = (
        None  # on the host: tokens with which a rollout repeats its row, G where no block is; None: not counted
    )

    @property
    def predicting(self) -> "Rollout":
        """The tokens but the last, valid where a valid token is predicted from them."""
        return Rollout(self.blocks, self.tokens[..., :-1], self.log_probs[..., :-1], self.valid[..., 1:], self.matches)

    def of(self, rows: slice, blocks: Blocks) -> "Rollout":
        """Those of some rows, whose blocks are the first of these."""
        num_samples, num_blocks = self.tokens.shape[1], blocks.anchors.shape[1]
        tokens, log_probs, valid = (x[rows, :, :num_blocks] for x in (self.tokens, self.log_probs, self.valid))
        matches = None if self.matches is None else self.matches[rows, : num_blocks * num_samples]
        return Rollout(blocks, tokens, log_probs, valid, matches)

    def max_branches(self, step: int) -> int | None:
        """The largest number of branches: at most so many rollouts of a row have left it before `step`, if `matches`
        tell."""
        return None if self.matches is None else int((self.matches < step).sum(1).max())

    @property
    def max_own_tokens(self) -> int | None:
        """The largest number of own tokens: at most so many tokens of a row's rollouts are not the row's, if
        `matches` tell."""
        return None if self.matches is None else int((self.tokens.shape[3] - self.matches).clamp_min(0).sum(1).max())

    def like_tokens(self, flat: Shaped[Tensor, "B M"]) -> Shaped[Tensor, "B N K G"]:
        """Values of block-major branch tokens, R * G of them, in the shape of `tokens`."""
        _, num_samples, num_blocks, num_steps = self.tokens.shape
        return flat.unflatten(1, (num_blocks, num_samples, num_steps)).transpose(1, 2)


@dataclass(frozen=True)
class Embeddings:
    """phi of the rollouts and of the real continuation."""

    rollout: Float[Tensor, "B N K D"]
    reference: Float[Tensor, "B K D"]
