"""A user's own feature map behind `features.network=file.py:Name`, such as a sentence encoder over decoded text."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ebft.config import doors
from ebft.config.schema import FeaturesConfig, RunFailure, UserError
from ebft.geometry.blocks import block_branches
from ebft.models.feature_network import FeatureNetwork
from ebft.objective.features import reference_windows
from ebft.types import Batch, Embeddings, Rollout

KEY = "features.network"


class OwnFeatureNetwork:
    """phi as a user's class defines it, with the interface of `FeatureNetwork`.

    The class is built as `Name(tokenizer, device)` and called as `phi(batch, anchors, tokens, valid)`:

        anchors  Int  [B X]     continuation x of row b stands behind batch.tokens[b, :anchors[b, x]]
        tokens   Int  [B X G]   its tokens
        valid    Bool [B X G]   False behind the end of a continuation

    It returns Float [B X D] without a gradient, and may count what it forwards in `tokens_forwarded`, in forwards of
    one token through the whole policy. Vectors are used as they are: reward and feature-matching loss want them on one
    scale, such as unit length.
    """

    def __init__(self, features: FeaturesConfig, tokenizer: PreTrainedTokenizerBase, device: str) -> None:
        """Raises UserError for a class that cannot be built, or that gives something else on two rows of a trial."""
        self.features, self.reference = features, features.network
        made = doors.load(self.reference, KEY)
        if not isinstance(made, type) or not any("__call__" in vars(cls) for cls in made.__mro__):
            raise UserError(f"{KEY}={self.reference} is no class with __call__(batch, anchors, tokens, valid).")
        self._width: int | None = None  # D, once it is known
        try:
            with torch.random.fork_rng(devices=[]):  # random weights are the same in every run, resume and evaluation
                torch.manual_seed(0)
                self.own: Any = made(tokenizer, torch.device(device))
        except doors.FAULTS as error:
            raise UserError(
                doors.explained(error, f"{KEY}={self.reference} cannot be built as Name(tokenizer, device)")
            ) from error
        self._try(torch.device(device))

    def _try(self, device: torch.device) -> None:
        """Two rows of seven tokens, three continuations of two."""
        tokens = torch.arange(14, device=device).view(2, 7)
        mask = torch.ones_like(tokens, dtype=torch.bool)
        batch = Batch(tokens, torch.zeros_like(tokens), mask, mask, torch.arange(2, device=device), masked=False)
        anchors = torch.tensor([[1, 3, 5]], device=device).repeat(2, 1)
        continuations, valid = (x[:, None, :2].repeat(1, 3, 1) for x in (tokens, mask))
        given = (tokens, mask, anchors, continuations, valid)
        before = [x._version for x in given]
        try:
            self._vectors(batch, anchors, continuations, valid)
        except RunFailure as error:  # nothing runs yet
            raise UserError(str(error)) from error
        if before != [x._version for x in given]:
            raise UserError(f"{KEY}={self.reference} writes into what it is given; work on a copy.")

    @property
    def tokens_forwarded(self) -> float:
        count = getattr(self.own, "tokens_forwarded", 0.0)
        try:
            return float(count)
        except (TypeError, ValueError) as error:
            raise RunFailure(
                f"{KEY}={self.reference} has tokens_forwarded = {count!r}; it must be a number."
            ) from error

    def embeddings(self, batch: Batch, rollout: Rollout, reuse: bool) -> Embeddings:
        (found,) = self.by_horizon(batch, rollout, [rollout.tokens.shape[3]], reuse)
        return found

    def by_horizon(self, batch: Batch, rollout: Rollout, horizons: Sequence[int], reuse: bool) -> Iterator[Embeddings]:
        """phi of the first tokens of rollouts and references, for every number of them."""
        anchors, num_samples = rollout.blocks.anchors, rollout.tokens.shape[1]
        windows = reference_windows(anchors, rollout.tokens.shape[3], batch.tokens.shape[1])
        references = batch.tokens[torch.arange(len(batch), device=windows.device)[:, None, None], windows]
        for horizon in horizons:
            tokens, valid = rollout.tokens[..., :horizon].transpose(1, 2), rollout.valid[..., :horizon].transpose(1, 2)
            of_rollouts = self._vectors(
                batch, block_branches(anchors, num_samples), tokens.flatten(1, 2), valid.flatten(1, 2)
            )
            whole = torch.ones_like(references[..., :horizon], dtype=torch.bool)
            of_references = self._vectors(batch, anchors, references[..., :horizon], whole)
            by_sample = of_rollouts.unflatten(1, (-1, num_samples)).transpose(1, 2)
            yield Embeddings(by_sample, of_references)

    def _vectors(
        self,
        batch: Batch,
        anchors: Int[Tensor, "B X"],
        tokens: Int[Tensor, "B X G"],
        valid: Bool[Tensor, "B X G"],
    ) -> Float[Tensor, "B X D"]:
        """Raises RunFailure, with the user's traceback, for an exception and for anything but finite vectors."""
        try:
            with torch.no_grad():
                found = self.own(batch, anchors, tokens, valid)
                found = found.to(anchors.device) if isinstance(found, Tensor) else found
        except doors.FAULTS as error:
            raise RunFailure(doors.explained(error, f"{KEY}={self.reference} failed")) from error
        expected = f"{KEY}={self.reference} must return [B X D] = [{anchors.shape[0]} {anchors.shape[1]} D]"
        if not isinstance(found, Tensor) or found.ndim != 3 or found.shape[:2] != anchors.shape or not found.shape[2]:
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise RunFailure(f"{expected}, and returned {shape}.")
        if not found.is_floating_point() or not bool(found.isfinite().all()):
            returned = "NaN or infinity" if found.is_floating_point() else str(found.dtype)
            raise RunFailure(f"{expected} of finite floating-point numbers, and returned {returned}.")
        if self._width not in (None, found.shape[2]):
            raise RunFailure(
                f"{expected} with the same D every time, and returned D = {found.shape[2]} after {self._width}."
            )
        self._width = found.shape[2]
        return found.detach().float()


Phi = FeatureNetwork | OwnFeatureNetwork
