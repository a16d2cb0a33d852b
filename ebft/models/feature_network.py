"""phi, the frozen feature network: hidden states of rollouts and of their references at the tapped layers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ebft.config.schema import FeaturesConfig, UserError
from ebft.geometry.blocks import Branches, block_branches, from_branches, token_places
from ebft.geometry.reuse import branches_of
from ebft.models.adapters import Adapters
from ebft.models.decoder import FORWARD_TOKENS, Decoder
from ebft.models.quantization import round_to_bfloat16
from ebft.objective.features import embed, reference_windows, tap_indices
from ebft.types import Batch, Embeddings, Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class FeatureNetwork:
    """phi: a frozen decoder, cut at its deepest tap and without an output head.

    With a policy's `adapters` it consists of that policy's own layers, run with the adapters off.
    """

    def __init__(
        self, model: "PreTrainedModel", features: FeaturesConfig, dtype: str, adapters: Adapters | None = None
    ) -> None:
        module = model.base_model
        if not hasattr(module, "layers"):
            raise UserError(
                f"{type(module).__name__} keeps its layers where ebft cannot tap them; use a Llama-like model."
            )
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
        self.decoder = Decoder(
            module, dtype, len(module.layers) / full, nullcontext if adapters is None else adapters.disabled
        )

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
            layers[tap].register_forward_pre_hook(
                lambda _, args, kwargs, tap=tap: seen[tap].append(args[0]), with_kwargs=True
            )
            for tap in seen
            if tap < len(layers)
        ]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()

    def continuations(
        self, batch: Batch, rollout: Rollout, reuse: bool
    ) -> tuple[Float[Tensor, "B N K G L H"], Float[Tensor, "B K G L H"]]:
        """Tapped hidden states of every rollout, where it is valid, and of the row's real continuation of every block,
        from one forward."""
        _, n_samples, _, num_steps = rollout.tokens.shape
        with self.decoder.inference_mode():
            branches = branches_of(batch, rollout, reuse, FORWARD_TOKENS[batch.tokens.device.type])
            hidden = self.hidden(batch, branches)
            places = token_places(
                block_branches(rollout.blocks.anchors, n_samples), branches, batch.tokens.shape[1], num_steps
            )
            windows = reference_windows(rollout.blocks.anchors, num_steps, batch.tokens.shape[1])
            return from_branches(_at(hidden, places), n_samples), _at(hidden, windows)

    def embeddings(self, batch: Batch, rollout: Rollout, reuse: bool) -> Embeddings:
        """phi of rollouts and references over their whole length."""
        (found,) = self.by_horizon(batch, rollout, [rollout.tokens.shape[3]], reuse)
        return found

    def by_horizon(self, batch: Batch, rollout: Rollout, horizons: Sequence[int], reuse: bool) -> Iterator[Embeddings]:
        """phi of the first tokens of rollouts and references, for every number of them, from one forward."""
        rollouts, references = self.continuations(batch, rollout, reuse)
        for horizon in horizons:
            valid = rollout.valid[..., :horizon]
            yield self.pool(rollouts[..., :horizon, :, :], references[..., :horizon, :, :], valid)

    @property
    def tokens_forwarded(self) -> float:
        return self.decoder.tokens_forwarded

    def pool(
        self,
        rollout: Float[Tensor, "B N K G L H"],
        reference: Float[Tensor, "B K G L H"],
        valid: Bool[Tensor, "B N K G"],
    ) -> Embeddings:
        method, normalize = self.features.embed_method, self.features.normalize
        whole = torch.ones(reference.shape[:3], dtype=torch.bool, device=reference.device)
        return Embeddings(embed(rollout, valid, method, normalize), embed(reference, whole, method, normalize))


def _at(hidden: Float[Tensor, "B S L H"], places: Int[Tensor, "B X G"]) -> Float[Tensor, "B X G L H"]:
    return hidden[torch.arange(len(places), device=places.device)[:, None, None], places]


def _with_own_list(module: "PreTrainedModel") -> "PreTrainedModel":
    """A decoder of the same layers, embedding and norm, whose list of layers and config are its own to cut."""
    alike = deepcopy(module, {id(part): part for part in module.children()})
    alike.layers = nn.ModuleList(module.layers)
    return alike


def _replace_final_norm(module: "PreTrainedModel") -> None:
    names = [name for name in ("norm", "final_layer_norm") if hasattr(module, name)]
    if len(names) != 1:
        raise UserError(
            f"{type(module).__name__} has no final norm that ebft knows, so it cannot be cut at a tap; use a "
            "Llama-like model."
        )
    setattr(module, names[0], nn.Identity())
