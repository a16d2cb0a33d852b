"""The policy behind the geometry: log-probs where they are needed, and gradients of branches part by part."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ebft.geometry.attention import BranchContext, RowContext, StepContext
from ebft.geometry.blocks import Branches, OwnTokens, row_positions
from ebft.geometry.completions import CompletionContext
from ebft.models.adapters import Adapters
from ebft.models.decoder import Decoder, HiddenSlice, RowForward
from ebft.models.logprobs import Labels, TokenLogProbs, needed
from ebft.parallel.world import World
from ebft.types import Batch, Blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NOWHERE = 2**31  # a place in the flat row that no label has
# elements, of 4 bytes each, and a few copies of them: what caches hold, and what is little of a GPU's memory
LOGITS_AT_A_TIME = {"cpu": 2**25, "cuda": 2**28}


class LanguageModel:
    """The policy: a decoder and its output head, and adapters where they are what is trained."""

    def __init__(
        self, model: "PreTrainedModel", dtype: str, adapters: Adapters | None = None, unknown: Sequence[int] = ()
    ) -> None:
        """`unknown` are ids that the model embeds and its tokenizer does not have: they are in no softmax, so that none
        is ever sampled and none takes probability from the others."""
        self.model, self.adapters, self.unknown = model, adapters, sorted(unknown)
        self.decoder = Decoder(model.base_model, dtype)
        self.head = model.get_output_embeddings()
        self._unknown_ids: Int[Tensor, U] | None = None
        self.softcap = model.config.to_dict().get("final_logit_softcapping")

    @property
    def device(self) -> torch.device:
        return self.model.device

    def shard(self, world: World) -> None:
        """Leave this process its part of the weights, of their gradients and moments."""
        self.decoder.shard(world, owner=self.model)
        if self.adapters is not None:
            self.adapters.find()

    @property
    def trained(self) -> nn.Module:
        """Holds the weights that training changes, which are what a checkpoint keeps."""
        return self.model if self.adapters is None else self.adapters.trained

    def base(self) -> "LanguageModel":
        """A policy of the same weights with the adapters off, which counts its own tokens. Its output head has no
        adapters."""
        assert self.adapters is not None
        base = LanguageModel(self.model, self.decoder.dtype, unknown=self.unknown)
        base.decoder.state, base.decoder.shards = self.adapters.disabled, self.decoder.shards
        return base

    @property
    def max_logit_positions(self) -> int:
        """Whose logits may exist together."""
        return max(1, LOGITS_AT_A_TIME[self.device.type] // self.head.weight.shape[0])

    def row_hidden(self, batch: Batch) -> Float[Tensor, "B T H"]:
        return self.decoder.run(batch.tokens, row_positions(batch), RowContext.of(batch))

    def flat_hidden(self, batch: Batch, branches: Branches) -> Float[Tensor, "B S H"]:
        """Hidden states of the flat row."""
        return self.decoder.flat(batch, branches)

    def kept_forward(self, batch: Batch) -> RowForward | None:
        """The row's forward with its graph, to sample from and to differentiate; None with gradient checkpointing,
        which is there to hold less."""
        return None if self.decoder.recomputes else self.decoder.forward_rows(batch)

    def hidden_slices(self, batch: Batch, branches: Branches, row: RowForward | None = None) -> Iterator[HiddenSlice]:
        """Hidden states of the flat row to differentiate slice by slice: the branches' groups, and at last the row.

        Take every slice's gradients, with its `carried`, before the next one. So no more than the row and one group is
        held at a time, and the gradients add up to the flat row's: a group sees the row's keys and values as leaves,
        and what reaches them there goes on through the row. `row` is its forward if that was kept.
        """
        row = row or self.decoder.forward_rows(batch)
        leaves = {
            layer: (key.requires_grad_(), value.requires_grad_())
            for layer, (key, value) in row.detached().cache.items()
        }
        groups = self._padded_groups(batch, [*branches.groups()])
        for start, group in groups:
            hidden = self.decoder.run(group.tokens, group.positions, BranchContext.of(batch, group, leaves))
            yield HiddenSlice(batch.tokens.shape[1] + start, hidden, torch.zeros((), device=hidden.device))
            del hidden
        reached = [leaf.grad for pair in leaves.values() for leaf in pair if groups]
        yield HiddenSlice(
            0, row.hidden, CarryGradient.apply(reached, *(x for pair in row.cache.values() for x in pair))
        )

    def _padded_groups(self, batch: Batch, groups: list[tuple[int, OwnTokens]]) -> list[tuple[int, OwnTokens]]:
        """Brings the groups to as many as any process has, where their passes are collective: behind the others come
        groups of one token that predicts nothing."""
        if self.decoder.shards is None:
            return groups
        (most,) = self.decoder.shards.world.all_reduce_max([len(groups)])
        first = batch.tokens[:, :1]
        empty = OwnTokens(first, torch.ones_like(first), torch.zeros_like(first), reach=(1,), depth=(0,))
        return groups + [(NOWHERE, empty)] * (most - len(groups))

    def prefill(
        self, batch: Batch, blocks: Blocks, n_samples: int, num_steps: int, row: RowForward | None = None
    ) -> tuple[Float[Tensor, "B T H"], StepContext]:
        """Forward the row once, unless that was done, and keep its keys and values for `num_steps` tokens of every
        branch."""
        row = self.decoder.forward_rows(batch) if row is None else row.detached()
        return row.hidden, StepContext.of(batch, blocks, n_samples, row.cache, num_steps)

    def prefill_completions(
        self, batch: Batch, blocks: Blocks, n_samples: int, num_steps: int, row: RowForward | None = None
    ) -> tuple[Float[Tensor, "B T H"], CompletionContext]:
        """Does what `prefill` does for rows of one block, whose branches become rows of their own."""
        row = self.decoder.forward_rows(batch) if row is None else row.detached()
        return row.hidden, CompletionContext.of(batch, blocks, n_samples, row.cache, num_steps)

    def step_hidden(
        self, tokens: Int[Tensor, "B R"], anchors: Int[Tensor, "B R"], context: StepContext | CompletionContext
    ) -> Float[Tensor, "B R H"]:
        """Append one token to every branch."""
        hidden = self.decoder.run(tokens, anchors + context.step, context)
        context.step += 1
        return hidden

    def logits(self, hidden: Float[Tensor, "*b H"]) -> Float[Tensor, "*b V"]:
        with self.decoder.autocast_on(hidden.device):
            logits = self.head(hidden).float()
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits if not self.unknown else logits.index_fill_(-1, self._unknown_on(logits.device), -math.inf)

    def _unknown_on(self, device: torch.device) -> Int[Tensor, "U"]:
        if self._unknown_ids is None or self._unknown_ids.device != device:
            with torch.inference_mode(False):  # autograd keeps it
                self._unknown_ids = torch.tensor(self.unknown, device=device)
        return self._unknown_ids

    def log_probs(self, hidden: Float[Tensor, "B S H"], *requests: Labels) -> list[Float[Tensor, "B M"]]:
        """Log-probs of all requested labels."""
        return self.decoder.run_gathered(self._log_probs, hidden, *requests)

    def _log_probs(self, hidden: Float[Tensor, "B S H"], *requests: Labels) -> list[Float[Tensor, "B M"]]:
        """Logits are computed once, only at positions that predict a wanted label, and so many at a time that no tensor
        of the whole row and vocabulary exists; where there are several such chunks, once more on the way back."""
        (positions, places), rows = needed(hidden, requests), hidden.flatten(0, 1)
        size = self.max_logit_positions
        results = [torch.zeros(labels.wanted.shape, device=hidden.device) for labels in requests]
        for start in range(0, len(positions), size):
            chunk = rows[positions[start : start + size]], [place - start for place in places], requests
            if len(positions) <= size or not torch.is_grad_enabled():
                found = self._chunk_log_probs(*chunk)
            else:
                found = checkpoint(self._chunk_log_probs, *chunk, use_reentrant=False, preserve_rng_state=False)
            results = [result + part for result, part in zip(results, found, strict=True)]
        return results

    def _chunk_log_probs(
        self, hidden: Float[Tensor, "P H"], places: Sequence[Int[Tensor, "B _"]], requests: Sequence[Labels]
    ) -> list[Float[Tensor, "B _"]]:
        """Log-probs of the labels that a chunk of positions predicts, 0 for all others."""
        logits, found = self.logits(hidden), []
        for place, labels in zip(places, requests, strict=True):
            inside, near = (place >= 0) & (place < len(hidden)), place.clamp(0, len(hidden) - 1)
            found.append(torch.where(inside, TokenLogProbs.apply(logits, near, labels.tokens, labels.temperature), 0))
        return found

    @contextmanager
    def inference_mode(self) -> Iterator[None]:
        """Switches dropout and gradients off inside the block (see `Decoder.inference_mode`). Autocast keeps its copies
        of the weights until the end of the block."""
        was_training = self.model.training
        self.model.eval()
        try:
            with self.decoder.inference_mode(), self.decoder.autocast_on(self.device):
                yield
        finally:
            self.model.train(was_training)


class CarryGradient(torch.autograd.Function):
    """The value 0, whose gradient towards every tensor is the given one."""

    @staticmethod
    def forward(context: Any, gradients: Sequence[Tensor], *tensors: Tensor) -> Float[Tensor, ""]:
        context.gradients = gradients
        return torch.zeros((), device=tensors[0].device)

    @staticmethod
    def backward(context: Any, gradient: Float[Tensor, ""]) -> tuple[Tensor | None, ...]:
        return (
            None,
            *(gradient * towards for towards in context.gradients),
            *[None] * (len(context.needs_input_grad) - 1 - len(context.gradients)),
        )
