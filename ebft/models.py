"""Language models behind the geometry: run them over rows and branches, read log-probs and hidden states where they are needed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from ebft.adapters import Adapters
from ebft.attention import NAME, BranchContext, CompletionContext, Context, Held, KeysValues, RowContext, StepContext
from ebft.blocks import Branches, OwnTokens, block_branches, from_branches, predictors, row_positions, to_branches, token_places
from ebft.config import FeaturesConfig, UserError
from ebft.distributed import World
from ebft.features import embed, reference_windows, tap_indices
from ebft.pulse import PULSE
from ebft.quantization import round_to_bfloat16
from ebft.reuse import branches_of, largest
from ebft.sharded import Shards
from ebft.types import Batch, Blocks, Embeddings, Rollout, moved

Result = TypeVar("Result")

FORWARD_TOKENS = {"cpu": 1024, "cuda": 16384}  # of a row's branches at a time where no gradient is taken: what caches hold, and what fills a GPU
NOWHERE = 2**31  # a place in the flat row that no label has
LOGITS_AT_A_TIME = 2**25  # elements, of 4 bytes each, and a few copies of them


@dataclass(frozen=True)
class Row:
    """A forward of rows: their last hidden states, and every layer's keys and values for branches that follow."""

    hidden: Float[Tensor, "B T H"]
    cache: dict[int, KeysValues]

    def detached(self) -> "Row":
        """The same numbers without their graph."""
        return Row(self.hidden.detach(), {layer: (key.detach(), value.detach()) for layer, (key, value) in self.cache.items()})


class Decoder:
    """A stack of transformer layers that runs rows and branches, each time inside `state`, and counts the tokens it forwards."""

    def __init__(
        self, module: PreTrainedModel, dtype: str, depth: float = 1.0, state: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        module.set_attn_implementation(NAME)
        self.module, self.state = module, state
        self.dtype = dtype
        self.autocast = dtype == "bf16"
        self.depth = depth  # a forward's cost over that of the full policy
        self.shards: Shards | None = None  # None: all weights are here
        self.tokens_forwarded = 0.0  # full-network forwards; a backward counts as two (method.md section 9)

    def compile(self) -> None:
        """Compile every layer for any length; attention is left out (see `attention.py`)."""
        for layer in self.module.layers:
            layer.compile(dynamic=True)

    def shard(self, world: World, owner: nn.Module | None = None, offloaded: bool = False) -> None:
        """Leave this process its part of the weights; of all of `owner`, where the layers are those of a larger module."""
        self.shards = Shards(owner or self.module, self.module.layers, world, self.dtype, offloaded)

    def through(self, work: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
        """`work` with the weights outside the layers at hand."""
        if self.shards is None:
            return work(*arguments, **named)
        PULSE.meet()
        result: Result = self.shards.whole(work, *arguments, **named)
        return result

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Forwards alone, of which none but the first is collective. What a gradient is to pass later must be cloned outside."""
        if self.shards is None:
            with torch.inference_mode():
                yield
        else:  # in inference mode the gathered weights could never again be trained through
            with torch.no_grad(), self.shards.gathered():
                yield

    def run(self, tokens: Int[Tensor, "B S"], positions: Int[Tensor, "B S"], context: Context) -> Float[Tensor, "B S H"]:
        """Last hidden states."""
        PULSE.move()
        self.tokens_forwarded += tokens.numel() * self.depth * (3 if torch.is_grad_enabled() else 1)
        with self.state(), torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.autocast):
            output = self.through(self.module, input_ids=tokens, position_ids=positions, use_cache=False, held=Held(context))
        return output.last_hidden_state

    @property
    def recomputes(self) -> bool:
        """Whether the layers' activations are computed again on the way back (gradient checkpointing)."""
        layer = self.module.layers[0]
        return isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing

    def row(self, batch: Batch) -> Row:
        context = RowContext.of(batch, keep=True)
        return Row(self.run(batch.tokens, row_positions(batch), context), context.cache)

    def flat(self, batch: Batch, branches: Branches) -> Float[Tensor, "B S H"]:
        """The row's hidden states and those of all own tokens."""
        row = self.row(batch)
        groups = [self.run(group.tokens, group.positions, BranchContext.of(batch, group, row.cache)) for _, group in branches.groups()]
        return torch.cat([row.hidden, *groups], dim=1)


@dataclass(frozen=True)
class Labels:
    """Tokens whose log-probs are wanted, each with the position of the hidden states that predicts it."""

    index: Int[Tensor, "B M"]
    tokens: Int[Tensor, "B M"]
    wanted: Bool[Tensor, "B M"]  # elsewhere the result is arbitrary and must be masked
    temperature: float
    most: int  # at most so many positions predict a wanted token

    def to(self, device: torch.device) -> "Labels":
        return Labels(moved(self.index, device), moved(self.tokens, device), moved(self.wanted, device), self.temperature, self.most)

    def within(self, part: "Part") -> "Labels":
        """Those that a part's hidden states predict."""
        index, length = self.index - part.start, part.hidden.shape[1]
        inside = (index >= 0) & (index < length)
        most = min(self.most, part.hidden.shape[:2].numel())
        return Labels(index.clamp(0, length - 1), self.tokens, self.wanted & inside, self.temperature, most)


@dataclass(frozen=True)
class Part:
    """Neighbours in the flat row (see `blocks.py`), from place `start` on. A loss with `pull` added takes gradients on to what earlier parts read."""

    start: int
    hidden: Float[Tensor, "B P H"]
    pull: Float[Tensor, ""]

    @property
    def is_row(self) -> bool:
        return self.start == 0


class LanguageModel:
    """The policy: a decoder and its output head, and adapters where they are what is trained."""

    def __init__(self, model: PreTrainedModel, dtype: str, adapters: Adapters | None = None) -> None:
        self.model, self.adapters = model, adapters
        self.decoder = Decoder(model.base_model, dtype)
        self.head = model.get_output_embeddings()
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
        """The same weights with the adapters off, which counts its own tokens. Its output head has no adapters."""
        assert self.adapters is not None
        alone = LanguageModel(self.model, self.decoder.dtype)
        alone.decoder.state, alone.decoder.shards = self.adapters.off, self.decoder.shards
        return alone

    @property
    def positions_at_a_time(self) -> int:
        """Whose logits may exist together."""
        return max(1, LOGITS_AT_A_TIME // self.head.weight.shape[0])

    def row_hidden(self, batch: Batch) -> Float[Tensor, "B T H"]:
        return self.decoder.run(batch.tokens, row_positions(batch), RowContext.of(batch))

    def flat_hidden(self, batch: Batch, branches: Branches) -> Float[Tensor, "B S H"]:
        """Hidden states of the flat row."""
        return self.decoder.flat(batch, branches)

    def kept_row(self, batch: Batch) -> Row | None:
        """The row's forward with its graph, to sample from and to differentiate; None with gradient checkpointing, which is there to hold less."""
        return None if self.decoder.recomputes else self.decoder.row(batch)

    def parts(self, batch: Batch, branches: Branches, row: Row | None = None) -> Iterator[Part]:
        """Hidden states of the flat row to differentiate part by part: the branches' groups, and at last the row.

        Take every part's gradients, with its `pull`, before the next one. So no more than the row and one group is held at a time, and the gradients
        add up to the flat row's: a group sees the row's keys and values as leaves, and what reaches them there goes on through the row. `row` is its
        forward if that was kept.
        """
        row = row or self.decoder.row(batch)
        leaves = {layer: (key.requires_grad_(), value.requires_grad_()) for layer, (key, value) in row.detached().cache.items()}
        groups = self._in_step(batch, [*branches.groups()])
        for start, group in groups:
            hidden = self.decoder.run(group.tokens, group.positions, BranchContext.of(batch, group, leaves))
            yield Part(batch.tokens.shape[1] + start, hidden, torch.zeros((), device=hidden.device))
            del hidden
        reached = [leaf.grad for pair in leaves.values() for leaf in pair if groups]
        yield Part(0, row.hidden, Pull.apply(reached, *(x for pair in row.cache.values() for x in pair)))

    def _in_step(self, batch: Batch, groups: list[tuple[int, OwnTokens]]) -> list[tuple[int, OwnTokens]]:
        """As many groups as any process has, where their passes are collective: behind the others come groups of one token that predicts nothing."""
        if self.decoder.shards is None:
            return groups
        (most,) = self.decoder.shards.world.most([len(groups)])
        first = batch.tokens[:, :1]
        empty = OwnTokens(first, torch.ones_like(first), torch.zeros_like(first), reach=(1,), depth=(0,))
        return groups + [(NOWHERE, empty)] * (most - len(groups))

    def prefill(
        self, batch: Batch, blocks: Blocks, n_samples: int, num_steps: int, row: Row | None = None
    ) -> tuple[Float[Tensor, "B T H"], StepContext]:
        """Forward the row once, unless that was done, and keep its keys and values for `num_steps` tokens of every branch."""
        row = self.decoder.row(batch) if row is None else row.detached()
        return row.hidden, StepContext.of(batch, blocks, n_samples, row.cache, num_steps)

    def prefill_completions(self, batch: Batch, blocks: Blocks, n_samples: int, num_steps: int) -> tuple[Float[Tensor, "B T H"], CompletionContext]:
        """The same for rows of one block, whose branches become rows of their own."""
        row = self.decoder.row(batch)
        return row.hidden, CompletionContext.of(batch, blocks, n_samples, row.cache, num_steps)

    def step_hidden(
        self, tokens: Int[Tensor, "B R"], anchors: Int[Tensor, "B R"], context: StepContext | CompletionContext
    ) -> Float[Tensor, "B R H"]:
        """Append one token to every branch."""
        hidden = self.decoder.run(tokens, anchors + context.step, context)
        context.step += 1
        return hidden

    def logits(self, hidden: Float[Tensor, "*b H"]) -> Float[Tensor, "*b V"]:
        with torch.autocast(hidden.device.type, torch.bfloat16, enabled=self.decoder.autocast):
            logits = self.head(hidden).float()
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def log_probs(self, hidden: Float[Tensor, "B S H"], *requests: Labels) -> list[Float[Tensor, "B M"]]:
        """Log-probs of all requested labels."""
        return self.decoder.through(self._log_probs, hidden, *requests)

    def _log_probs(self, hidden: Float[Tensor, "B S H"], *requests: Labels) -> list[Float[Tensor, "B M"]]:
        """Logits are computed once, only at positions that predict a wanted label, and so many at a time that
        no tensor of the whole row and vocabulary exists; where there are several such chunks, once more on the way back."""
        (positions, places), rows = _needed(hidden, requests), hidden.flatten(0, 1)
        size = self.positions_at_a_time
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
        """0 for labels that other positions predict."""
        logits, found = self.logits(hidden), []
        for place, labels in zip(places, requests, strict=True):
            inside, near = (place >= 0) & (place < len(hidden)), place.clamp(0, len(hidden) - 1)
            found.append(torch.where(inside, TokenLogProbs.apply(logits, near, labels.tokens, labels.temperature), 0))
        return found

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Without dropout and gradients (see `Decoder.reading`)."""
        was_training = self.model.training
        self.model.eval()
        try:
            with self.decoder.reading():
                yield
        finally:
            self.model.train(was_training)


class TokenLogProbs(torch.autograd.Function):
    """log softmax(logits / temperature) of tokens, each at its position; one copy of the logits on the way there and one on the way back."""

    @staticmethod
    def forward(
        context: Any, logits: Float[Tensor, "P V"], place: Int[Tensor, "B M"], tokens: Int[Tensor, "B M"], temperature: float
    ) -> Float[Tensor, "B M"]:
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
        towards = (logits / context.temperature).sub_(totals[:, None]).exp_().mul_(-weights[:, None])
        towards.view(-1).index_add_(0, place * logits.shape[1] + tokens.flatten(), scaled)
        return towards, None, None, None


class Pull(torch.autograd.Function):
    """0, whose gradient towards every tensor is the given one."""

    @staticmethod
    def forward(context: Any, gradients: Sequence[Tensor], *tensors: Tensor) -> Float[Tensor, ""]:
        context.gradients = gradients
        return torch.zeros((), device=tensors[0].device)

    @staticmethod
    def backward(context: Any, gradient: Float[Tensor, ""]) -> tuple[Tensor | None, ...]:
        return None, *(gradient * towards for towards in context.gradients), *[None] * (len(context.needs_input_grad) - 1 - len(context.gradients))


def _needed(hidden: Float[Tensor, "B S H"], requests: Sequence[Labels]) -> tuple[Int[Tensor, "P"], list[Int[Tensor, "B _"]]]:
    """Positions, counted over all rows, that predict a wanted label, in their order; and of every label the place of its own among them."""
    num_rows, length = hidden.shape[:2]
    indices = [labels.index + length * torch.arange(num_rows, device=hidden.device)[:, None] for labels in requests]
    wanted = torch.zeros(num_rows * length, dtype=torch.long, device=hidden.device)
    for index, labels in zip(indices, requests, strict=True):
        wanted.index_add_(0, index.flatten(), labels.wanted.flatten().long())
    needed = wanted > 0
    count = largest(needed.sum()[None], sum(labels.most for labels in requests))
    order, place = needed.int().argsort(descending=True, stable=True), needed.cumsum(0) - 1
    return order[: max(1, count)], [place[index] for index in indices]


def row_labels(batch: Batch) -> Labels:
    """The row's tokens after the first, at temperature 1, wanted where they count in the cross-entropy."""
    index, wanted = row_positions(batch)[:, :-1], batch.loss_mask[:, 1:]
    return Labels(index, batch.tokens[:, 1:], wanted, temperature=1.0, most=int(wanted.sum()))


def branch_labels(batch: Batch, rollout: Rollout, branches: Branches, temperature: float) -> Labels:
    """All generated tokens, block-major, wanted where they are valid."""
    num_samples, num_steps = rollout.tokens.shape[1], rollout.tokens.shape[3]
    index = predictors(block_branches(rollout.blocks.anchors, num_samples), branches, batch.tokens.shape[1], num_steps)
    tokens, wanted = to_branches(rollout.tokens), to_branches(rollout.valid)
    return Labels(index.flatten(1), tokens.flatten(1), wanted.flatten(1), temperature, most=tokens.numel())


class FeatureNetwork:
    """phi: a frozen decoder, cut at its deepest tap and without an output head.

    With a policy's `adapters` it consists of that policy's own layers, run with the adapters off.
    """

    def __init__(self, model: PreTrainedModel, features: FeaturesConfig, dtype: str, adapters: Adapters | None = None) -> None:
        module = model.base_model
        if not hasattr(module, "layers"):
            raise UserError(f"{type(module).__name__} keeps its layers where ebft cannot tap them; use a Llama-like model.")
        if adapters is not None:
            module = _with_own_list(module)
        self.features = features
        self.taps = tap_indices(list(features.feature_layers), len(module.layers))
        deepest, full = max(self.taps), len(module.layers)
        if deepest < full:  # hidden state i < L is what layer i hands on; only the top one passes the final norm
            del module.layers[max(1, deepest) :]
            module.config.num_hidden_layers = len(module.layers)
            _replace_final_norm(module)
        if adapters is None:
            module.requires_grad_(False).eval()
            if dtype == "bf16":
                round_to_bfloat16(module)
        self.decoder = Decoder(module, dtype, len(module.layers) / full, nullcontext if adapters is None else adapters.off)

    def hidden(self, batch: Batch, branches: Branches) -> Float[Tensor, "B S L H"]:
        """Hidden states of the flat row at the taps."""
        with self._tapped() as seen:
            top = self.decoder.flat(batch, branches)
        return torch.stack([torch.cat(seen[tap], dim=1) if seen[tap] else top for tap in self.taps], dim=2)

    @contextmanager
    def _tapped(self) -> Iterator[dict[int, list[Tensor]]]:
        """What every tapped layer is given, forward by forward; nothing for the tap behind the last layer."""
        layers, seen = self.decoder.module.layers, {tap: list[Tensor]() for tap in self.taps}
        hooks = [
            layers[tap].register_forward_pre_hook(lambda _, args, kwargs, tap=tap: seen[tap].append(args[0]), with_kwargs=True)
            for tap in seen
            if tap < len(layers)
        ]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()

    def continuations(self, batch: Batch, rollout: Rollout, reuse: bool) -> tuple[Float[Tensor, "B N K G L H"], Float[Tensor, "B K G L H"]]:
        """Tapped hidden states of every rollout, where it is valid, and of the row's real continuation of every block, from one forward."""
        _, n_samples, _, num_steps = rollout.tokens.shape
        with self.decoder.reading():
            branches = branches_of(batch, rollout, reuse, FORWARD_TOKENS[batch.tokens.device.type])
            hidden = self.hidden(batch, branches)
            places = token_places(block_branches(rollout.blocks.anchors, n_samples), branches, batch.tokens.shape[1], num_steps)
            windows = reference_windows(rollout.blocks.anchors, num_steps, batch.tokens.shape[1])
            return from_branches(_at(hidden, places), n_samples), _at(hidden, windows)

    def embeddings(self, batch: Batch, rollout: Rollout, reuse: bool) -> Embeddings:
        """phi of rollouts and references over their whole length."""
        return self.pool(*self.continuations(batch, rollout, reuse), rollout.valid)

    def pool(self, rollout: Float[Tensor, "B N K G L H"], reference: Float[Tensor, "B K G L H"], valid: Bool[Tensor, "B N K G"]) -> Embeddings:
        method, normalize = self.features.embed_method, self.features.normalize
        whole = torch.ones(reference.shape[:3], dtype=torch.bool, device=reference.device)
        return Embeddings(embed(rollout, valid, method, normalize), embed(reference, whole, method, normalize))


def _at(hidden: Float[Tensor, "B S L H"], places: Int[Tensor, "B X G"]) -> Float[Tensor, "B X G L H"]:
    return hidden[torch.arange(len(places), device=places.device)[:, None, None], places]


def _with_own_list(module: PreTrainedModel) -> PreTrainedModel:
    """A decoder of the same layers, embedding and norm, whose list of layers and config are its own to cut."""
    alike = deepcopy(module, {id(part): part for part in module.children()})
    alike.layers = nn.ModuleList(module.layers)
    return alike


def _replace_final_norm(module: PreTrainedModel) -> None:
    names = [name for name in ("norm", "final_layer_norm") if hasattr(module, name)]
    if len(names) != 1:
        raise UserError(f"{type(module).__name__} has no final norm that ebft knows, so it cannot be cut at a tap; use a Llama-like model.")
    setattr(module, names[0], nn.Identity())
