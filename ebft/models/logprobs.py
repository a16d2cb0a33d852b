"""Log-probs of tokens: which are wanted, where they are predicted, and a softmax that keeps one copy of the logits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from ebft.geometry.blocks import Branches, block_branches, predictors, row_positions, to_branches
from ebft.geometry.reuse import largest
from ebft.models.decoder import HiddenSlice
from ebft.types import Batch, Rollout, to_device


@dataclass(frozen=True)
class Labels:
    """Tokens whose log-probs are wanted, each with the position of the hidden states that predicts it."""

    index: Int[Tensor, "B M"]
    tokens: Int[Tensor, "B M"]
    wanted: Bool[Tensor, "B M"]  # elsewhere the result is arbitrary and must be masked
    temperature: float
    max_wanted: int  # at most so many positions predict a wanted token

    def to(self, device: torch.device) -> "Labels":
        return Labels(
            to_device(self.index, device),
            to_device(self.tokens, device),
            to_device(self.wanted, device),
            self.temperature,
            self.max_wanted,
        )

    def within(self, hidden_slice: HiddenSlice) -> "Labels":
        """The labels that a slice of the hidden states predicts."""
        index, length = self.index - hidden_slice.start, hidden_slice.hidden.shape[1]
        inside = (index >= 0) & (index < length)
        max_wanted = min(self.max_wanted, hidden_slice.hidden.shape[:2].numel())
        return Labels(index.clamp(0, length - 1), self.tokens, self.wanted & inside, self.temperature, max_wanted)


@cache
def _fused(temperature: float) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """What `TokenLogProbs` takes of logits on the way there and back, each compiled into one pass over them."""
    totals = torch.compile(lambda logits: (logits / temperature).logsumexp(-1), dynamic=True)
    towards = torch.compile(
        lambda logits, totals, weights: -weights[:, None] * (logits / temperature - totals[:, None]).exp(), dynamic=True
    )
    return totals, towards


class TokenLogProbs(torch.autograd.Function):
    """log softmax(logits / temperature) of tokens, each at its position; at most one copy of the logits on the way
    there and one on the way back."""

    @staticmethod
    def forward(
        context: Any,
        logits: Float[Tensor, "P V"],
        place: Int[Tensor, "B M"],
        tokens: Int[Tensor, "B M"],
        temperature: float,
    ) -> Float[Tensor, "B M"]:
        if logits.is_cuda:
            totals = _fused(temperature)[0](logits)
        else:
            scaled = logits / temperature
            highest = scaled.amax(-1, keepdim=True)
            totals = scaled.sub_(highest).exp_().sum(-1).log_().add_(highest.squeeze(-1))
        context.save_for_backward(logits, totals, place, tokens)
        context.temperature = temperature
        return logits[place, tokens] / temperature - totals[place]

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Float[Tensor, "B M"]) -> tuple[Float[Tensor, "P V"], None, None, None]:
        logits, totals, place, tokens = context.saved_tensors
        scaled, place = gradient.flatten() / context.temperature, place.flatten()
        weights = torch.zeros_like(totals).index_add_(0, place, scaled)
        if logits.is_cuda:
            towards = _fused(context.temperature)[1](logits, totals, weights)
        else:
            towards = (logits / context.temperature).sub_(totals[:, None]).exp_().mul_(-weights[:, None])
        towards.view(-1).index_add_(0, place * logits.shape[1] + tokens.flatten(), scaled)
        return towards, None, None, None


def needed(
    hidden: Float[Tensor, "B S H"], requests: Sequence[Labels]
) -> tuple[Int[Tensor, "P"], list[Int[Tensor, "B _"]]]:
    """Positions, counted over all rows, that predict a wanted label, in their order; and of every label the place of
    its own among them."""
    num_rows, length = hidden.shape[:2]
    indices = [labels.index + length * torch.arange(num_rows, device=hidden.device)[:, None] for labels in requests]
    wanted = torch.zeros(num_rows * length, dtype=torch.long, device=hidden.device)
    for index, labels in zip(indices, requests, strict=True):
        wanted.index_add_(0, index.flatten(), labels.wanted.flatten().long())
    needed = wanted > 0
    count = largest(needed.sum()[None], sum(labels.max_wanted for labels in requests))
    order, place = needed.int().argsort(descending=True, stable=True), needed.cumsum(0) - 1
    return order[: max(1, count)], [place[index] for index in indices]


def row_labels(batch: Batch) -> Labels:
    """The row's tokens after the first, at temperature 1, wanted where they count in the cross-entropy."""
    index, wanted = row_positions(batch)[:, :-1], batch.loss_mask[:, 1:]
    return Labels(index, batch.tokens[:, 1:], wanted, temperature=1.0, max_wanted=int(wanted.sum()))


def branch_labels(batch: Batch, rollout: Rollout, branches: Branches, temperature: float) -> Labels:
    """All generated tokens, block-major, wanted where they are valid."""
    num_samples, num_steps = rollout.tokens.shape[1], rollout.tokens.shape[3]
    index = predictors(block_branches(rollout.blocks.anchors, num_samples), branches, batch.tokens.shape[1], num_steps)
    tokens, wanted = to_branches(rollout.tokens), to_branches(rollout.valid)
    return Labels(index.flatten(1), tokens.flatten(1), wanted.flatten(1), temperature, max_wanted=tokens.numel())
