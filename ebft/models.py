"""Language models behind the geometry: run them over rows and branches, read log-probs and hidden states where they are needed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from ebft.attention import NAME, CompletionContext, Context, FlatContext, RowContext, StepContext
from ebft.blocks import (
    Branches,
    block_branches,
    flat_positions,
    flat_tokens,
    from_branches,
    predictors,
    row_positions,
    to_branches,
    token_places,
)
from ebft.config import FeaturesConfig, UserError
from ebft.features import embed, reference_windows, tap_indices
from ebft.reuse import branches_of
from ebft.types import Batch, Blocks, Embeddings, Rollout


class Decoder:
    """A stack of transformer layers that runs rows and branches and counts the tokens it forwards."""

    def __init__(self, module: PreTrainedModel, dtype: str, depth: float = 1.0) -> None:
        module.set_attn_implementation(NAME)
        self.module = module
        self.autocast = dtype == "bf16"
        self.depth = depth  # share of the full network's layers
        self.tokens_forwarded = 0.0  # full-network forwards; a backward counts as two (method.md section 9)

    def run(self, tokens: Int[Tensor, "B S"], positions: Int[Tensor, "B S"], context: Context) -> Float[Tensor, "B S H"]:
        """Last hidden states."""
        self.tokens_forwarded += tokens.numel() * self.depth * (3 if torch.is_grad_enabled() else 1)
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.autocast):
            output = self.module(input_ids=tokens, position_ids=positions, use_cache=False, context=context)
        return output.last_hidden_state


@dataclass(frozen=True)
class Labels:
    """Tokens whose log-probs are wanted, each with the position of the hidden states that predicts it."""

    index: Int[Tensor, "B M"]
    tokens: Int[Tensor, "B M"]
    wanted: Bool[Tensor, "B M"]  # elsewhere the result is arbitrary and must be masked
    temperature: float


class LanguageModel:
    """The policy: a decoder and its output head."""

    def __init__(self, model: PreTrainedModel, dtype: str) -> None:
        self.model = model
        self.decoder = Decoder(model.base_model, dtype)
        self.head = model.get_output_embeddings()
        self.softcap = model.config.to_dict().get("final_logit_softcapping")

    @property
    def device(self) -> torch.device:
        return self.model.device

    def row_hidden(self, batch: Batch) -> Float[Tensor, "B T H"]:
        return self.decoder.run(batch.tokens, row_positions(batch), RowContext.of(batch))

    def flat_hidden(self, batch: Batch, branches: Branches) -> Float[Tensor, "B S H"]:
        """Hidden states of the flat row (see `blocks.py`)."""
        return self.decoder.run(flat_tokens(batch, branches), flat_positions(batch, branches), FlatContext.of(batch, branches))

    def prefill(self, batch: Batch, blocks: Blocks, n_samples: int, num_steps: int) -> tuple[Float[Tensor, "B T H"], StepContext]:
        """Forward the row once and keep its keys and values for `num_steps` tokens of every branch."""
        context = RowContext.of(batch, keep=True)
        hidden = self.decoder.run(batch.tokens, row_positions(batch), context)
        return hidden, StepContext.of(batch, blocks, n_samples, context.cache, num_steps)

    def prefill_completions(self, batch: Batch, blocks: Blocks, n_samples: int, num_steps: int) -> tuple[Float[Tensor, "B T H"], CompletionContext]:
        """The same for rows of one block, whose branches become rows of their own."""
        context = RowContext.of(batch, keep=True)
        hidden = self.decoder.run(batch.tokens, row_positions(batch), context)
        return hidden, CompletionContext.of(batch, blocks, n_samples, context.cache, num_steps)

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
        """Log-probs of all requested labels; logits are computed once, and only at positions that predict a wanted label."""
        batch, length = hidden.shape[:2]
        needed = torch.zeros(batch, length, dtype=torch.bool, device=hidden.device)
        for labels in requests:
            needed.view(-1)[_flat_index(labels.index, length)[labels.wanted]] = True
        width = max(1, int(needed.sum(1).max()))
        positions = needed.int().argsort(dim=1, descending=True, stable=True)[:, :width]
        place = (needed.cumsum(1) - 1).clamp_min(0)
        logits = self.logits(hidden.take_along_dim(positions[..., None], dim=1))
        totals = {temperature: _log_total(logits, temperature) for temperature in {labels.temperature for labels in requests}}
        return [_gather_log_probs(logits, totals[labels.temperature], place.gather(1, labels.index), labels) for labels in requests]

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Without dropout and without gradients."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.train(was_training)


def _flat_index(index: Int[Tensor, "B M"], length: int) -> Int[Tensor, "B M"]:
    return index + length * torch.arange(index.shape[0], device=index.device)[:, None]


def _log_total(logits: Float[Tensor, "B P V"], temperature: float) -> Float[Tensor, "B P"]:
    """log sum exp(logits / temperature); temperature 1 saves a copy of the largest tensor there is."""
    return (logits if temperature == 1 else logits / temperature).logsumexp(-1)


def _gather_log_probs(
    logits: Float[Tensor, "B P V"], totals: Float[Tensor, "B P"], index: Int[Tensor, "B M"], labels: Labels
) -> Float[Tensor, "B M"]:
    chosen = logits.flatten(1).gather(1, index * logits.shape[2] + labels.tokens)
    return chosen / labels.temperature - totals.gather(1, index)


def row_labels(batch: Batch) -> Labels:
    """The row's tokens after the first, at temperature 1, wanted where they count in the cross-entropy."""
    index = row_positions(batch)[:, :-1]
    return Labels(index, batch.tokens[:, 1:], batch.loss_mask[:, 1:], temperature=1.0)


def branch_labels(batch: Batch, rollout: Rollout, branches: Branches, temperature: float) -> Labels:
    """All generated tokens, block-major, wanted where they are valid."""
    num_samples, num_steps = rollout.tokens.shape[1], rollout.tokens.shape[3]
    index = predictors(block_branches(rollout.blocks.anchors, num_samples), branches, batch.tokens.shape[1], num_steps)
    tokens, wanted = to_branches(rollout.tokens), to_branches(rollout.valid)
    return Labels(index.flatten(1), tokens.flatten(1), wanted.flatten(1), temperature)


class FeatureNetwork:
    """phi: a frozen decoder, cut at its deepest tap and without an output head."""

    def __init__(self, model: PreTrainedModel, features: FeaturesConfig, dtype: str) -> None:
        module = model.base_model
        if not hasattr(module, "layers"):
            raise UserError(f"{type(module).__name__} keeps its layers where ebft cannot tap them; use a Llama-like model.")
        self.features = features
        self.taps = tap_indices(list(features.feature_layers), len(module.layers))
        deepest, full = max(self.taps), len(module.layers)
        if deepest < full:  # hidden state i < L is what layer i hands on; only the top one passes the final norm
            del module.layers[max(1, deepest) :]
            module.config.num_hidden_layers = len(module.layers)
            _replace_final_norm(module)
        module.requires_grad_(False).eval()
        if dtype == "bf16":  # parameters only: rotary frequencies, which are buffers, turn wrong angles when rounded
            for parameter in module.parameters():
                parameter.data = parameter.data.to(torch.bfloat16)
        self.decoder = Decoder(module, dtype, depth=len(module.layers) / full)

    def hidden(self, tokens: Tensor, positions: Tensor, context: Context) -> Float[Tensor, "B S L H"]:
        """Hidden states at the taps."""
        seen: dict[int, Tensor] = {}
        layers = self.decoder.module.layers
        hooks = [
            layers[tap].register_forward_pre_hook(lambda _, args, kwargs, tap=tap: seen.__setitem__(tap, args[0]), with_kwargs=True)
            for tap in set(self.taps)
            if tap < len(layers)
        ]
        try:
            top = self.decoder.run(tokens, positions, context)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack([seen[tap] if tap < len(layers) else top for tap in self.taps], dim=2)

    @torch.no_grad()
    def continuations(self, batch: Batch, rollout: Rollout, reuse: bool) -> tuple[Float[Tensor, "B N K G L H"], Float[Tensor, "B K G L H"]]:
        """Tapped hidden states of every rollout, where it is valid, and of the row's real continuation of every block, from one forward."""
        _, n_samples, _, num_steps = rollout.tokens.shape
        branches = branches_of(batch, rollout.blocks, rollout.tokens, rollout.valid, reuse)
        hidden = self.hidden(flat_tokens(batch, branches), flat_positions(batch, branches), FlatContext.of(batch, branches))
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


def _replace_final_norm(module: PreTrainedModel) -> None:
    names = [name for name in ("norm", "final_layer_norm") if hasattr(module, name)]
    if len(names) != 1:
        raise UserError(f"{type(module).__name__} has no final norm that ebft knows, so it cannot be cut at a tap; use a Llama-like model.")
    setattr(module, names[0], nn.Identity())
