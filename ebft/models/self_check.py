"""A model as it is loaded, against its own forward: rows and branches in evaluation and in training mode, behind its
window, and at all positions that the run can reach. What rollouts and update could not agree on is refused here."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ebft.config.schema import UserError
from ebft.geometry.attention import RowContext
from ebft.geometry.blocks import Branches, make_branches, row_positions
from ebft.models.policy import LanguageModel
from ebft.types import Batch, Blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LENGTH, ANCHORS, STEPS = 29, (5, 13, 23), 5  # of a row and its branches
WINDOW = 7  # in the place of a model's own, which would ask for longer texts
SEEDS = (1, 1, 2, 3, 4)  # the first twice
AT_RANDOM = ("drop", "jitter", "noise")  # in the names of settings


@dataclass(frozen=True)
class Specimen:
    """A row with branches, and the same as sequences of their own: the row, and the row up to an anchor with a branch
    behind it and tokens that no token of the branch sees."""

    batch: Batch
    branches: Branches
    sequences: Int[Tensor, "X T"]

    @classmethod
    def of(cls, vocabulary: int, device: torch.device) -> "Specimen":
        row = (torch.arange(LENGTH) * 7 + 3) % vocabulary
        own = (torch.arange(len(ANCHORS) * STEPS) * 5 + 2).view(len(ANCHORS), STEPS) % vocabulary
        alone = [torch.cat([row[:at], tokens, row[at + STEPS :]]) for at, tokens in zip(ANCHORS, own, strict=True)]
        mask = torch.ones(1, LENGTH, dtype=torch.bool, device=device)
        tokens = row[None].to(device)
        batch = Batch(tokens, torch.zeros_like(tokens), mask, mask, torch.zeros_like(tokens[:, 0]), masked=False)
        exist = torch.ones(1, len(ANCHORS), dtype=torch.bool, device=device)
        blocks = Blocks(torch.tensor([ANCHORS], device=device), exist, ANCHORS)
        return cls(batch, make_branches(blocks, own[None, None].to(device)), torch.stack([row, *alone]).to(device))

    def flat(self, logits: Float[Tensor, "X T V"]) -> Float[Tensor, "1 S V"]:
        """Logits of the sequences in the order of the flat row."""
        own = [logits[x, at : at + STEPS] for x, at in enumerate(ANCHORS, start=1)]
        return torch.cat([logits[0], *own])[None]


def self_check(model: "PreTrainedModel", name: str, num_positions: int, is_trained: bool) -> None:
    """Raises UserError for a model that needs more than ebft does: whose rows and branches differ from sequences of
    their own, or, for one that `is_trained`, from themselves in training mode, or whose first tokens depend on how long
    the text is, up to `num_positions`. The model is left in evaluation mode."""
    name, text = f"{name} ({model.config.model_type})", Specimen.of(model.config.vocab_size, model.device)
    model.eval()
    with torch.no_grad(), _short_window(model.config):
        try:
            expected = text.flat(model(input_ids=text.sequences).logits.float())
            policy = LanguageModel(model, "fp32")
            found = _logits(policy, text)
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise UserError(
                f"{name} does not run under branch attention: {str(error).strip().splitlines()[0]}"
            ) from error
        if not _equal(found, expected):
            raise UserError(f"{name} gives other logits through branch attention than on its own; not supported.")
        _check_lengths(policy, text, name, num_positions)
        if is_trained:
            model.train()
            try:
                _check_training(policy, text, name, expected)
            finally:
                model.eval()


def _logits(policy: LanguageModel, text: Specimen) -> Float[Tensor, "1 S V"]:
    return policy.logits(policy.flat_hidden(text.batch, text.branches))


def _equal(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@contextmanager
def _short_window(config: PreTrainedConfig) -> Iterator[None]:
    """Shortens the window from which `transformers` makes masks, if there is one."""
    own = config.to_dict().get("sliding_window")
    if not isinstance(own, int) or own <= WINDOW:
        yield
        return
    config.sliding_window = WINDOW
    try:
        yield
    finally:
        config.sliding_window = own


def _check_lengths(policy: LanguageModel, text: Specimen, name: str, num_positions: int) -> None:
    """The last token of a row at the last position of all: it is seen by no other, so the others must stay as they
    are."""
    positions = row_positions(text.batch).clone()
    near = policy.decoder.run(text.batch.tokens, positions, RowContext.of(text.batch))
    positions[:, -1] = max(LENGTH, num_positions) - 1
    far = policy.decoder.run(text.batch.tokens, positions, RowContext.of(text.batch))
    if not _equal(far[:, :-1], near[:, :-1]):
        raise UserError(
            f"{name} gives the first tokens of a text other logits where it reaches {num_positions} tokens: its "
            "positions depend on the length of the whole, so that rollouts and update cannot agree; shorten rows and "
            "completions to the length that it was trained on first."
        )


def _check_training(policy: LanguageModel, text: Specimen, name: str, expected: Float[Tensor, "1 S V"]) -> None:
    device, model = policy.device, policy.model
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(SEEDS[0])
        before = _generators(device)
        found = _logits(policy, text)
        has_drawn = any(not torch.equal(*pair) for pair in zip(before, _generators(device), strict=True))
        traces = [Trace.of(model, lambda: _logits(policy, text), seed) for seed in SEEDS] if has_drawn else []
    if traces and Trace.is_random(traces):
        settings, module = _suspects(model.config.to_dict()), Trace.random_module(traces)
        where = f", in {module} ({type(model.get_submodule(module)).__name__})" if module is not None else ""
        cure = f"{settings} of its config.json may be the reason: try 0 in a copy" if settings else "not supported"
        raise UserError(
            f"{name} draws at random in training mode{where}, so that rollouts and update cannot agree; {cure}."
        )
    if not _equal(found, expected):
        raise UserError(
            f"{name} gives other logits in training mode than in evaluation mode, so that rollouts and update cannot "
            "agree; not supported."
        )


def _generators(device: torch.device) -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _suspects(settings: dict) -> str:
    named = {key: value for key, value in settings.items() if value and any(word in key for word in AT_RANDOM)}
    return ", ".join(f"{key}={value}" for key, value in named.items())


Sums = tuple[float, ...]


@dataclass(frozen=True)
class Trace:
    """A run of a model: what it made, and for every call of a module, by name and number and the innermost first, sums
    over what it was given, before it may have changed that in place, and over what it made."""

    seed: int
    made: Tensor
    calls: dict[tuple[str, int], tuple[Sums, Sums]]

    @classmethod
    def of(cls, model: "PreTrainedModel", run: Callable[[], Tensor], seed: int) -> "Trace":
        calls, given, counts = dict[tuple[str, int], tuple[Sums, Sums]](), list[Sums](), Counter[str]()

        def enter(_: nn.Module, args: tuple, kwargs: dict) -> None:
            given.append(_sums((*args, *kwargs.values())))

        def leave(module_name: str, made: object) -> None:
            calls[module_name, counts[module_name]] = given.pop(), _sums(made)
            counts[module_name] += 1

        handles = []
        for name, module in model.named_modules():
            handles += [
                module.register_forward_pre_hook(enter, with_kwargs=True),
                module.register_forward_hook(lambda _, args, made, name=name: leave(name, made)),
            ]
        torch.manual_seed(seed)
        try:
            return cls(seed, run(), calls)
        finally:
            for handle in handles:
                handle.remove()

    @staticmethod
    def is_random(traces: Sequence["Trace"]) -> bool:
        """Whether other seeds make more of a difference than rounding on a device does, of which the same seed
        tells."""
        rounding, *others = (float((trace.made - traces[0].made).abs().max()) for trace in traces[1:])
        return max(others) > 8 * rounding

    @staticmethod
    def random_module(traces: Sequence["Trace"]) -> str | None:
        """The innermost module that makes something else of the same, if rounding lets it be seen."""
        first, again, *others = traces
        for call, (given, made) in first.calls.items():
            if again.calls.get(call) == (given, made):
                found = [other.calls[call] for other in others if call in other.calls]
                if any(theirs == given and result != made for theirs, result in found):
                    return call[0]
        return None


def _sums(values: object) -> tuple[float, ...]:
    if isinstance(values, Tensor) and values.is_floating_point():
        numbers = values.double()
        return float(numbers.sum()), float(numbers.square().sum())
    if isinstance(values, tuple | list):
        return tuple(number for value in values for number in _sums(value))
    return ()
