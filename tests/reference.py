"""Slow twins: the definitions of method.md as loops over named axes, in float64. The fast code in `ebft` is compared
with them."""

from itertools import accumulate, product

import torch
from torch import Tensor

from ebft.geometry.blocks import Branches, own_visible, prefix_visible, row_visible
from ebft.types import Batch, Blocks, Embeddings


def batch_of(document_ids: list[list[int]], completion: list[list[bool]] | None = None) -> Batch:
    """Rows with the given document ids (-1 on padding); every token of the batch has an id of its own."""
    ids = torch.tensor(document_ids)
    real = ids >= 0
    mask = real if completion is None else torch.tensor(completion) & real
    tokens = torch.arange(ids.numel()).reshape(ids.shape)
    return Batch(
        tokens, ids, loss_mask=mask, completion_mask=mask, row_ids=torch.arange(len(ids)), masked=bool((ids > 0).any())
    )


# Section 2: geometry


def find_blocks_loop(
    batch: Batch, anchors: str, context_length: int, stride: int, generate_length: int
) -> list[list[int]]:
    """The anchors of every row: each position of the row is asked whether it is one."""
    sizes = context_length, stride, generate_length
    columns = zip(batch.document_ids.tolist(), batch.completion_mask.tolist(), strict=True)
    return [
        [a for a in range(len(ids)) if _is_anchor(a, ids, completion, anchors, *sizes)] for ids, completion in columns
    ]


def _is_anchor(
    a: int, ids: list[int], completion: list[bool], anchors: str, context_length: int, stride: int, generate_length: int
) -> bool:
    if a < context_length or a + generate_length > len(ids):
        return False
    if ids[a] == -1 or any(ids[j] != ids[a] for j in range(a - 1, a + generate_length)):
        return False
    if anchors == "all":
        return (a - context_length) % stride == 0
    if not all(completion[a : a + generate_length]):
        return False
    start = a
    while start > 0 and completion[start - 1] and ids[start - 1] == ids[a]:
        start -= 1
    return (a - max(start, context_length)) % stride == 0


def pack_loop(anchors: Tensor, lengths: Tensor, tokens: Tensor, shared: Tensor | None = None) -> Branches:
    """Branches [B, R] of the given lengths, their tokens [B, R, G] one branch behind the other, one for every
    rollout."""
    laid = [
        [(anchor, t, own[t]) for anchor, length, own in zip(*row, strict=True) for t in range(length)]
        for row in zip(anchors.tolist(), lengths.tolist(), tokens.tolist(), strict=True)
    ]
    width = max(map(len, laid))
    filled = torch.tensor([row + [(1, 0, 0)] * (width - len(row)) for row in laid], dtype=torch.long).reshape(
        len(laid), width, 3
    )
    at, steps, packed = filled.unbind(-1)
    starts = torch.tensor([[sum(row[:r]) for r in range(len(row))] for row in lengths.tolist()])
    shared = torch.zeros_like(anchors) if shared is None else shared
    return Branches(
        packed,
        at,
        steps,
        tuple(at.amax(0).tolist()),
        tuple(steps.amax(0).tolist()),
        shared,
        starts,
        group=max(1, width),
    )


def flat_tokens(batch: Batch, branches: Branches) -> Tensor:
    """The flat row [B, S]: S = T + W."""
    return torch.cat([batch.tokens, branches.tokens], dim=1)


def flat_positions(batch: Batch, branches: Branches) -> Tensor:
    """Position ids of the flat row: j for row token j, anchor + t for token t of a branch."""
    return torch.cat([torch.arange(batch.tokens.shape[1]).expand_as(batch.tokens), branches.positions], dim=1)


def flat_places(row_length: int, anchors: list[int], steps: list[int]) -> list[tuple[int, int, int]]:
    """(branch, step, row tokens before it) of every place of the flat row; the row's own tokens are branch 0."""
    branch = list(accumulate(int(step == 0) for step in steps))
    return [(0, j, j) for j in range(row_length)] + list(zip(branch, steps, anchors, strict=True))


def attention_rule(batch: Batch, branches: Branches, window: int | None = None) -> Tensor:
    """Bool [B, S, S] by the definition of section 2, pair by pair; in a window of w tokens, less than w positions
    apart."""
    rows = zip(batch.document_ids.tolist(), branches.anchors.tolist(), branches.steps.tolist(), strict=True)
    places = [(ids, flat_places(len(ids), anchors, steps)) for ids, anchors, steps in rows]
    return torch.tensor(
        [
            [[_sees(ids, query, key) and _near(query, key, window) for key in row] for query in row]
            for ids, row in places
        ]
    )


def _sees(ids: list[int], query: tuple[int, int, int], key: tuple[int, int, int]) -> bool:
    (branch, t, anchor), (other, u, _) = query, key
    if branch == 0:
        return other == 0 and u <= t and ids[u] == ids[t]
    if other == 0:
        return u < anchor and ids[u] == ids[anchor - 1]
    return other == branch and u <= t


def _near(query: tuple[int, int, int], key: tuple[int, int, int], window: int | None) -> bool:
    position, other = (step if branch == 0 else anchor + step for branch, step, anchor in (query, key))
    return window is None or position - other < window


def dense_mask(batch: Batch, branches: Branches, window: int | None = None) -> Tensor:
    """Bool [B, S, S]: who sees whom in the flat row, put together from the three pieces of `ebft.geometry.blocks`."""
    row_length, num_tokens = batch.tokens.shape[1], branches.tokens.shape[1]
    size = row_length + num_tokens
    mask = torch.zeros(len(batch), size, size, dtype=torch.bool, device=batch.tokens.device)
    mask[:, :row_length, :row_length] = row_visible(batch.document_ids, window)
    mask[:, row_length:, :row_length] = prefix_visible(batch.document_ids, branches.anchors, branches.steps, window)
    mask[:, row_length:, row_length:] = own_visible(branches.steps, lookback=0, window=window)
    return mask


def dense_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, softcap: float | None = None
) -> Tensor:
    """[B, Q, H, d] of queries [B, H, Q, d] over the keys [B, h, S, d] that a mask [B, Q, S] leaves them; H / h query
    heads share a key head."""
    groups, attended = query.shape[1] // key.shape[1], []
    masks = mask.expand(len(query), -1, -1)
    for q, k, v, seen in zip(query.double(), key.double(), value.double(), masks, strict=True):
        k, v = k.repeat_interleave(groups, dim=0), v.repeat_interleave(groups, dim=0)
        scores = scaling * q @ k.mT
        if softcap is not None:
            scores = softcap * (scores / softcap).tanh()
        attended.append((scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v).transpose(0, 1))
    return torch.stack(attended)


def leading_matches_loop(batch: Batch, blocks: Blocks, tokens: Tensor) -> list[list[list[int]]]:
    """[B, N, K]: tokens are compared with the row's one by one, as long as the row goes on inside the anchor's
    document."""

    def matches(row: list[int], ids: list[int], anchor: int, own: list[int]) -> int:
        for t, token in enumerate(own):
            if anchor + t >= len(row) or ids[anchor + t] != ids[anchor - 1] or row[anchor + t] != token:
                return t
        return len(own)

    columns = zip(
        batch.tokens.tolist(), batch.document_ids.tolist(), blocks.anchors.tolist(), tokens.tolist(), strict=True
    )
    return [
        [[matches(row, ids, a, own) for a, own in zip(anchors, sample, strict=True)] for sample in samples]
        for row, ids, anchors, samples in columns
    ]


# Section 3: features


def embed_loop(hidden: Tensor, valid: Tensor, embed_method: str, normalize: str) -> Tensor:
    """phi [D] of one continuation's hidden states [G, L, H], layer after layer."""
    hidden, steps = hidden.double(), valid.nonzero().flatten().tolist()
    if normalize == "token":
        hidden = torch.stack([unit(token.flatten()).view_as(token) for token in hidden])
    nothing = torch.zeros_like(hidden[0, 0])
    layers = []
    for layer in range(hidden.shape[1]):
        if embed_method == "last_token":
            pooled = hidden[steps[-1], layer] if steps else nothing
        elif embed_method == "mean_pooling":
            pooled = sum((hidden[t, layer] for t in steps), nothing) / max(len(steps), 1)
        else:
            pooled = torch.cat([hidden[t, layer] if t in steps else nothing for t in range(len(hidden))])
        layers.append(unit(pooled) if normalize == "per_layer" else pooled)
    phi = torch.cat(layers)
    return phi if normalize in ("none", "token") else unit(phi)


def unit(x: Tensor) -> Tensor:
    return (
        x / x.norm() if x.norm() > 1e-12 else torch.zeros_like(x)
    )  # what rounding leaves of a zero vector has no direction


# Sections 4 and 6: rewards


def rewards_loop(embeddings: Embeddings, whitening: str) -> tuple[Tensor, Tensor]:
    """Alignment and diversity [B, N, K] of eq. 7, with the whitenings in the spaces that define them."""
    X, y = embeddings.rollout.double(), embeddings.reference.double()
    B, N, K, _ = X.shape
    alignment, diversity = torch.zeros(2, B, N, K, dtype=torch.float64)
    for b, k in product(range(B), range(K)):
        rollout, reference = WHITENINGS[whitening](X[b, :, k], y[b, k])
        for j in range(N):
            close = rollout[j] @ reference[j] if whitening == "none" else unit(rollout[j]) @ unit(reference[j])
            alignment[b, j, k] = 2 * close
            diversity[b, j, k] = sum(2 / (N - 1) * rollout[j] @ rollout[i] for i in range(N) if i != j)
    return alignment, diversity


def _raw(X: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return X, y.expand_as(X)


def _paper(X: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """phi~ = (Sigma^+)^(1/2) phi with Sigma = 1/N sum phi phi^T, in D x D."""
    sigma = sum(torch.outer(x, x) for x in X) / len(X)
    values, vectors = torch.linalg.eigh(sigma)
    keep = values.clamp_min(0).sqrt() > 1e-5 * values.max().sqrt()
    root = vectors[:, keep] @ torch.diag(values[keep] ** -0.5) @ vectors[:, keep].T
    return X @ root, (root @ y).expand_as(X)


def sample_axis_whitener(X: Tensor) -> Tensor:
    """W = U diag(1/S) U^T [N, N] of the authors' code, X = U S V^T."""
    U, S, _ = torch.linalg.svd(X, full_matrices=False)
    keep = S / S.max() > 1e-5
    return U[:, keep] @ torch.diag(1 / S[keep]) @ U[:, keep].T


def _reference_code(X: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    W = sample_axis_whitener(X)
    return W @ X, W @ y.expand_as(X)


WHITENINGS = {"none": _raw, "paper": _paper, "reference_code": _reference_code}


# A policy small enough to enumerate: V = 3, G = 2

VOCABULARY, STEPS = 3, 2
CONTINUATIONS = torch.tensor(list(product(range(VOCABULARY), repeat=STEPS)))


def continuation_log_probs(table: Tensor) -> Tensor:
    """[9, G] log-probs of all continuations; row 0 of the logits [1 + V, V] gives the first token, row 1 + v the one
    after v."""
    log_probs = table.log_softmax(-1)
    first, second = CONTINUATIONS.T
    return torch.stack([log_probs[0, first], log_probs[1 + first, second]], dim=-1)


def all_tuples(n_samples: int) -> Tensor:
    """[9^N, N]: every way to draw N continuations."""
    return torch.tensor(list(product(range(len(CONTINUATIONS)), repeat=n_samples)))
