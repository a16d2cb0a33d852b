"""Completions to the end: one block a row, anchored at the end of its prompt, every branch decoded until it stops.

Branches that have stopped leave the batch with their cached keys and values. Neither their leaving nor the other rows
of the batch change what a branch says, up to rounding: its draws are a function of the key and its row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ebft.models.decoder import RowForward
from ebft.models.policy import LanguageModel
from ebft.rollout.sampler import inverse_cdf, uniforms, until_stop
from ebft.types import Batch, Blocks, Rollout, is_any

LOOK_EVERY_STEPS = {
    "cpu": 1,
    "cuda": 8,
}  # at who has stopped, for which the program waits until the device has caught up
LEAVING_SHARE = 1 / 8  # branches leave when they are so many, because the caches of all others are copied


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen: the likeliest at temperature 0, else a draw from the nucleus of softmax(logits /
    temperature).

    The nucleus is the smallest set of likeliest tokens that holds `top_p` of the probability. Log-probs stay those of
    the whole distribution, which is not the one drawn from if `top_p < 1`, so that no policy gradient may follow.
    """

    temperature: float
    top_p: float

    def __post_init__(self) -> None:
        assert self.temperature >= 0
        assert 0 < self.top_p <= 1


@dataclass(frozen=True)
class Completions:
    """What follows every prompt; G is the longest completion. Behind a shorter one stand its stop token and values of
    0."""

    rollout: Rollout  # log-probs are at the decoding temperature, at temperature 1 if greedy
    truncated: Bool[Tensor, "B N 1"]  # no stop token came
    entropies: Float[Tensor, "B N 1 G"]  # of the temperature-1 distribution at every token, in nats


def prompts_batch(token_ids: Sequence[Sequence[int]], row_ids: Sequence[int]) -> tuple[Batch, Blocks]:
    """Prompts, padded on the right, with a block at the end of each. They hold neither targets nor completions.

    No real token sees the padding behind it, so attention within a row needs no mask.
    """
    lengths = [len(prompt) for prompt in token_ids]
    assert min(lengths) >= 1
    tokens = pad_sequence([torch.tensor(prompt) for prompt in token_ids], batch_first=True)
    anchors = torch.tensor(lengths)[:, None]
    document_ids = (torch.arange(max(lengths)) < anchors).long() - 1
    nowhere = torch.zeros_like(tokens, dtype=torch.bool)
    batch = Batch(tokens, document_ids, nowhere, nowhere, torch.tensor(row_ids), masked=False)
    return batch, Blocks(anchors, valid=torch.ones_like(anchors, dtype=torch.bool), reach=(max(lengths),))


@dataclass(frozen=True)
class Wanted:
    """So many completions of every row, decoded in one way; their draws are a function of the key and the row."""

    n_samples: int
    decoding: Decoding
    key: str


def complete(
    policy: LanguageModel,
    batch: Batch,
    blocks: Blocks,
    n_samples: int,
    max_new_tokens: int,
    decoding: Decoding,
    key: str,
    stop_tokens: tuple[int, ...],
    *,
    tick: Callable[[], None] | None = None,
    kept: RowForward | None = None,
) -> Completions:
    """N completions of every row, each up to and with its first stop token, or truncated to `max_new_tokens`.

    `tick` is called before every token and may raise to stop. `kept` is the rows' forward if there was one.
    """
    wanted = [Wanted(n_samples, decoding, key)]
    return complete_together(policy, batch, blocks, max_new_tokens, wanted, stop_tokens, tick=tick, kept=kept)[0]


def complete_together(
    policy: LanguageModel,
    batch: Batch,
    blocks: Blocks,
    max_new_tokens: int,
    wanted: Sequence[Wanted],
    stop_tokens: tuple[int, ...],
    *,
    tick: Callable[[], None] | None = None,
    kept: RowForward | None = None,
) -> list[Completions]:
    """What `complete` makes of everything that is wanted of the same prompts, in one decode."""
    device, numbers = batch.tokens.device, [each.n_samples for each in wanted]
    shape = (len(batch), sum(numbers), 1, max_new_tokens)
    draws = [uniforms(each.key, batch.row_ids, 1, each.n_samples, max_new_tokens) for each in wanted]
    uniform = torch.cat(draws, dim=1).to(device).flatten(0, 2)
    tokens = torch.full(uniform.shape, stop_tokens[0] if stop_tokens else 0, device=device)
    log_probs, entropies = torch.zeros_like(uniform), torch.zeros_like(uniform)
    anchors, running = blocks.anchors.repeat_interleave(shape[1], dim=0), torch.arange(len(uniform), device=device)
    kind = torch.arange(len(wanted)).repeat_interleave(torch.tensor(numbers)).repeat(len(batch)).to(device)
    decodings = _by_decoding(wanted, kind)
    look_every = LOOK_EVERY_STEPS[device.type]
    with policy.inference_mode():
        row, context = policy.prefill_completions(batch, blocks, shape[1], max_new_tokens - 1, kept)
        hidden = row.take_along_dim((blocks.anchors - 1)[..., None], dim=1).repeat_interleave(shape[1], dim=0)
        for step in range(max_new_tokens):
            if tick is not None:
                tick()
            if step:
                hidden = policy.step_hidden(tokens[running, step - 1, None], anchors[running], context)
            chosen = _choose(policy.logits(hidden).squeeze(1), uniform[running, step], decodings)
            tokens[running, step], log_probs[running, step], entropies[running, step] = chosen
            if stop_tokens and (step + 1) % look_every == 0:
                going = (~is_any(tokens[running, : step + 1], stop_tokens)).all(1).nonzero().squeeze(1)
                if len(going) == 0:
                    break
                if len(going) <= (1 - LEAVING_SHARE) * len(running):
                    context.keep(going)
                    running = running[going]
                    decodings = _by_decoding(wanted, kind[running])
    rollout = until_stop(blocks, tokens.view(shape), log_probs.view(shape), stop_tokens)
    parts = zip(
        *(x.split(numbers, dim=1) for x in (rollout.tokens, rollout.log_probs, rollout.valid, entropies.view(shape))),
        strict=True,
    )
    return [
        _completions(Rollout(blocks, part_tokens, part_log_probs, valid), part_entropies, stop_tokens)
        for part_tokens, part_log_probs, valid, part_entropies in parts
    ]


def _by_decoding(wanted: Sequence[Wanted], kind: Int[Tensor, "R"]) -> list[tuple[Decoding, Int[Tensor, "_"] | slice]]:
    """Every way of decoding, with the places of the branches that are decoded so."""
    if len(wanted) == 1:
        return [(wanted[0].decoding, slice(None))]
    return [(each.decoding, (kind == number).nonzero().squeeze(1)) for number, each in enumerate(wanted)]


def _choose(
    logits: Float[Tensor, "R V"],
    uniform: Float[Tensor, "R"],
    decodings: Sequence[tuple[Decoding, Int[Tensor, "_"] | slice]],
) -> tuple[Int[Tensor, "R"], Float[Tensor, "R"], Float[Tensor, "R"]]:
    """A token from every distribution, its log-prob, and the distribution's entropy at temperature 1."""
    log_probs = logits.log_softmax(-1)
    probabilities = log_probs.exp()
    entropy = -(probabilities * log_probs.clamp_min(torch.finfo(log_probs.dtype).min)).sum(-1)  # 0 log 0 = 0
    token, log_prob = torch.zeros_like(uniform, dtype=torch.int64), torch.zeros_like(entropy)
    for decoding, places in decodings:
        here = _token(logits[places], log_probs[places], probabilities[places], uniform[places], decoding)
        token[places], log_prob[places] = here
    return token, log_prob, entropy


def _token(
    logits: Float[Tensor, "R V"],
    log_probs: Float[Tensor, "R V"],
    probabilities: Float[Tensor, "R V"],
    uniform: Float[Tensor, "R"],
    decoding: Decoding,
) -> tuple[Int[Tensor, "R"], Float[Tensor, "R"]]:
    """The token of one way of decoding, and its log-prob; `log_probs` and `probabilities` are at temperature 1."""
    if decoding.temperature == 0:
        token = logits.argmax(-1, keepdim=True)
    else:
        if decoding.temperature != 1:
            log_probs = (logits / decoding.temperature).log_softmax(-1)
            probabilities = log_probs.exp()
        token = inverse_cdf(_nucleus(probabilities, decoding.top_p), uniform[:, None])
    return token.squeeze(1), log_probs.gather(1, token).squeeze(1)


def _nucleus(probabilities: Float[Tensor, "R V"], top_p: float) -> Float[Tensor, "R V"]:
    """The probabilities, with 0 outside the nucleus."""
    if top_p == 1:
        return probabilities
    ordered, token = probabilities.sort(dim=-1, descending=True, stable=True)
    outside = ordered.cumsum(-1) - ordered >= top_p  # likelier tokens alone hold enough
    return probabilities.masked_fill(outside.scatter(-1, token, outside), 0)


def _completions(rollout: Rollout, entropies: Float[Tensor, "B N 1 G"], stop_tokens: tuple[int, ...]) -> Completions:
    """Cut to the longest completion."""
    longest = max(1, int(rollout.valid.sum(-1).max()))
    tokens, log_probs, valid, entropies = (
        x[..., :longest] for x in (rollout.tokens, rollout.log_probs, rollout.valid, entropies)
    )
    stopped = is_any(tokens, stop_tokens)
    cut = Rollout(rollout.blocks, tokens, log_probs.masked_fill(~valid, 0), valid)
    return Completions(cut, ~stopped.any(-1), entropies.masked_fill(~valid, 0))
