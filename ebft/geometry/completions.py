"""Attention of completions, many tokens behind one anchor a row, which leave the batch when they have ended.

Completions of a row sit at tables of at most so many seats. A table reads one copy of the row's keys and values and has
its completions' own behind it, step by step, seat by seat, so that one fused attention with a mask serves them all.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ebft.geometry.attention import Context, LayerAttention
from ebft.geometry.blocks import first_own, prefix_visible
from ebft.geometry.chunked import KeysValues, additive, attention
from ebft.types import Batch, Blocks

# of a table: on a CPU two completions read a prompt in the time of one, and more have too many neighbours' tokens to
# skip; a GPU meets every pair that it skips
SEATS = {"cpu": 2, "cuda": 1}


@dataclass
class CompletionContext(Context):
    """One more token of every completion."""

    cache: dict[int, KeysValues]  # of the tables, with room for all tokens to come
    document_ids: Int[Tensor, "B P"]  # of the tables' rows
    anchors: Int[Tensor, "B 1"]
    place: Int[Tensor, "R"]  # of a completion: its table times the seats of one, plus its seat
    num_seats: int
    num_steps: int
    step: int = 0
    # minus infinity at tokens that a seat does not see; with a window as at the step that stands in front
    masks: dict[tuple[int | None, int], tuple[int, Float[Tensor, "B 1 Q S"]]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, batch: Batch, blocks: Blocks, n_samples: int, row_cache: dict[int, KeysValues], num_steps: int
    ) -> "CompletionContext":
        (limit,) = blocks.reach
        num_tables = -(-n_samples // SEATS[batch.tokens.device.type])
        num_seats = -(-n_samples // num_tables)
        rows, samples = (torch.arange(size, device=batch.tokens.device) for size in (len(batch), n_samples))
        place = (rows[:, None] * num_tables * num_seats + samples).flatten()
        # under autocast, attention would cast rotated keys to the values' type at every step
        cache = {index: (keys.to(values.dtype), values) for index, (keys, values) in row_cache.items()}
        context = cls(cache, batch.document_ids[:, :limit], blocks.anchors, place, num_seats, num_steps)
        context._take(rows.repeat_interleave(num_tables))
        return context

    @property
    def passed(self) -> int:
        """Tokens of a table so far."""
        return self.document_ids.shape[1] + self.step * self.num_seats

    def keep(self, chosen: Int[Tensor, "_"]) -> None:
        """Go on with the chosen completions, in their order."""
        self.place = self.place[chosen]
        tables, number = (self.place // self.num_seats).unique_consecutive(return_inverse=True)
        self.place = number * self.num_seats + self.place % self.num_seats
        if len(tables) < len(self.anchors):
            self._take(tables)

    def _take(self, tables: Int[Tensor, "_"]) -> None:
        """Go on with these tables, or rows, each as often as it is named."""
        self.document_ids, self.anchors, self.masks = self.document_ids[tables], self.anchors[tables], {}
        for index, cached in self.cache.items():
            keys, values = (self._roomy(x, tables) for x in cached)
            self.cache[index] = keys, values

    def _roomy(self, cached: Float[Tensor, "B h U d"], tables: Int[Tensor, "_"]) -> Float[Tensor, "_ h S d"]:
        size = self.document_ids.shape[1] + self.num_steps * self.num_seats
        roomy = cached.new_empty((len(tables), cached.shape[1], size, cached.shape[3]))
        roomy[:, :, : self.passed] = cached[tables, :, : self.passed]
        return roomy

    def attend(self, layer: LayerAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Query heads that share a key head stand in the place of several queries."""
        num_heads, end = key.shape[1], self.passed + self.num_seats
        keys, values = (x[:, :, :end] for x in self.cache[layer.index])
        keys[:, :, self.passed :], values[:, :, self.passed :] = self._seated(key), self._seated(value)
        grouped = self._seated(query).unflatten(1, (num_heads, -1))
        mask = self._mask(layer.window, grouped.shape[2], value.dtype)[..., :end]
        out = attention(grouped.flatten(2, 3), keys, values, mask, layer.scaling, layer.softcap)
        every = out.unflatten(1, grouped.shape[2:4]).permute(0, 2, 3, 1, 4).flatten(2, 3).flatten(0, 1)
        return (every if self.is_full else every[self.place])[:, None]

    @property
    def is_full(self) -> bool:
        return len(self.place) == len(self.anchors) * self.num_seats

    def _seated(self, x: Float[Tensor, "R H 1 d"]) -> Float[Tensor, "B H N d"]:
        """Every table's completions in their seats, with zeros in those that are free."""
        x = x.squeeze(2)
        if not self.is_full:
            seats = x.new_zeros((len(self.anchors) * self.num_seats, *x.shape[1:]))
            x = seats.index_copy_(0, self.place, x)
        return x.unflatten(0, (-1, self.num_seats)).transpose(1, 2)

    def _mask(self, window: int | None, num_groups: int, dtype: torch.dtype) -> Float[Tensor, "B 1 Q S"]:
        """What is added to scores, group by group and seat by seat. A window as wide as all positions is none."""
        if window is not None and window >= self.document_ids.shape[1] + self.num_steps:
            window = None
        step, mask = self.masks.get((window, num_groups), (-1, None))
        if mask is None or (window is not None and step != self.step):
            of_row = prefix_visible(self.document_ids, self.anchors, self.step, window)
            steps = torch.arange(self.num_steps, device=of_row.device) >= first_own(self.step, window)
            own = torch.eye(self.num_seats, dtype=torch.bool, device=of_row.device).repeat(1, self.num_steps)
            own &= steps.repeat_interleave(self.num_seats)
            seen = torch.cat([of_row.expand(-1, len(own), -1), own.expand(len(of_row), -1, -1)], dim=-1)
            mask = additive(seen).to(dtype).repeat(1, num_groups, 1)[:, None]
            self.masks[window, num_groups] = self.step, mask
        return mask
