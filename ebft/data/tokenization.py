"""How texts become the tokens of rows, and tokens of rollouts text again: what begins a row, what ends an answer, and
what a tokenizer does at the beginning of a text alone."""

import json
import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from ebft.config.schema import DataConfig, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_BATCH_TEXTS = 1000

TokenIds = Int[np.ndarray, "..."]  # of one text, so that lengths in a list may differ


@dataclass(frozen=True)
class Tokenization:
    """A tokenizer with the conventions of its model."""

    tokenizer: "PreTrainedTokenizerBase"
    bos: int | None  # stands before every row and document; None: nothing does
    stop_tokens: tuple[int, ...]  # each ends an answer; the first is what documents are trained to end with

    @classmethod
    def of(
        cls, config: DataConfig, tokenizer: "PreTrainedTokenizerBase", stop_tokens: Sequence[int] = ()
    ) -> "Tokenization":
        """The conventions of `data.bos` and `data.end_token`; `stop_tokens` are those that the model's own
        generation_config.json names. Raises UserError for a token that the tokenizer does not have."""
        known = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        ids = set(tokenizer.get_vocab().values())
        if config.end_token is None and not known:
            raise UserError(
                f"The tokenizer of {tokenizer.name_or_path} has no end-of-sequence token to put behind documents; set "
                "data.end_token to the text of the token that is to end them."
            )
        end = known[0] if config.end_token is None else _token(tokenizer, config.end_token)
        return cls(
            tokenizer,
            _bos(config, tokenizer),
            tuple(dict.fromkeys([end, *known, *(token for token in stop_tokens if token in ids)])),
        )

    @property
    def end(self) -> int:
        return self.stop_tokens[0]

    def ending_with(self, token: int, config: DataConfig) -> "Tokenization":
        """With one more end of an answer, which is what is trained unless `data.end_token` names another."""
        ends = (token, *self.stop_tokens) if config.end_token is None else (*self.stop_tokens, token)
        return replace(self, stop_tokens=tuple(dict.fromkeys(ends)))

    def as_trained(self) -> "PreTrainedTokenizerBase":
        """A tokenizer that itself begins texts as rows begin, and says when it is saved what it puts behind special
        tokens (`legacy` of SentencePiece's), which transformers 5 leaves out."""
        other = deepcopy(self.tokenizer)
        if adds_bos(other) != (self.bos is not None):
            other.add_bos_token = self.bos is not None
        if "legacy" in vars(other):
            other.init_kwargs["legacy"] = other.legacy
        return other

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """Tokens of texts that begin a row, without special tokens of their own."""
        return _in_parts(texts, self._plainly)

    def encode_within(self, texts: Sequence[str], before: Sequence[str]) -> list[TokenIds]:
        """Tokens of texts that follow others, `before`: no space is put before them, as SentencePiece-style tokenizers
        put one before a text that they are given alone. Behind a special token, which may be the last of the text
        before, stands what the tokenizer puts there; with older ones that is a space again."""
        if self._unprefixed is None:
            return self.encode(texts)
        encode, special = self._unprefixed, self._special
        ends = [special.findall(text)[-1:] for text in before]
        ends = [end if end and text.endswith(end[0]) else [] for end, text in zip(ends, before, strict=True)]
        borders = [
            0 if end else found.start() if (found := special.search(text)) else len(text)
            for end, text in zip(ends, texts, strict=True)
        ]
        heads = _in_parts([text[:border] for text, border in zip(texts, borders, strict=True)], encode)
        tails = self.encode(
            ["".join(end) + text[border:] for end, text, border in zip(ends, texts, borders, strict=True)]
        )
        return [np.concatenate([head, tail[len(end) :]]) for head, tail, end in zip(heads, tails, ends, strict=True)]

    def _plainly(self, texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self.tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        return ids

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """Texts that are one token wherever they stand."""
        added = sorted((str(token) for token in self.tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, added)) or r"(?!)")

    @cached_property
    def _unprefixed(self) -> Callable[[list[str]], list[list[int]]] | None:
        """The tokenizer without what it puts before a text; None where it puts nothing."""
        if not self.tokenizer.is_fast:
            return None
        backend = self.tokenizer.backend_tokenizer
        written = json.loads(backend.to_str())
        unprefixed = {**written, **{part: _without_prefix(written[part]) for part in ("normalizer", "pre_tokenizer")}}
        if unprefixed == written:
            return None
        twin = type(backend).from_str(json.dumps(unprefixed))
        twin.no_truncation()
        twin.no_padding()
        return lambda texts: [found.ids for found in twin.encode_batch(texts, add_special_tokens=False)]

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))

    def continuations(self, context: Sequence[int], branches: Sequence[Sequence[int]]) -> list[str]:
        """The text that each branch adds to that of its context.

        Both are decoded together, for what a token says depends on what stands before it: the first one of a text
        loses its space with many tokenizers, and a character may lie on both sides of the border; it then belongs to
        the branch.
        """
        before = self.decode(context)
        wholes = [self.decode([*context, *branch]) for branch in branches]
        return [whole[_num_shared(before, whole) :] for whole in wholes]


def _num_shared(before: str, whole: str) -> int:
    """With how many equal characters two texts begin."""
    if whole.startswith(before):
        return len(before)
    differing = (number for number, (one, other) in enumerate(zip(before, whole, strict=False)) if one != other)
    return next(differing, min(len(before), len(whole)))


def _token(tokenizer: "PreTrainedTokenizerBase", text: str) -> int:
    known: dict[str, int] = tokenizer.get_vocab()
    if text not in known:
        raise UserError(
            f"data.end_token={text} is no token of {tokenizer.name_or_path}; its special tokens are "
            f"{', '.join(map(str, tokenizer.all_special_tokens)) or '(none)'}."
        )
    return known[text]


def _bos(config: DataConfig, tokenizer: "PreTrainedTokenizerBase") -> int | None:
    bos: int | None = tokenizer.bos_token_id
    if config.bos is True and bos is None:
        raise UserError(
            f"data.bos=true, but the tokenizer of {tokenizer.name_or_path} has no beginning-of-sequence token; use "
            "data.bos=auto or false."
        )
    wanted = adds_bos(tokenizer) if config.bos == "auto" else config.bos
    return bos if wanted else None


def adds_bos(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the tokenizer itself puts a BOS before a text."""
    alone: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("a")["input_ids"]
    return len(whole) > len(alone) and tokenizer.bos_token_id is not None and whole[0] == tokenizer.bos_token_id


def _in_parts(texts: Sequence[str], encode: Callable[[list[str]], list[list[int]]]) -> list[TokenIds]:
    parts = (
        list(texts[start : start + TOKENIZER_BATCH_TEXTS]) for start in range(0, len(texts), TOKENIZER_BATCH_TEXTS)
    )
    return [np.array(ids, dtype=np.int32) for part in parts for ids in encode(part)]


def _without_prefix(part: Any) -> Any:
    """A normalizer or pre-tokenizer of the `tokenizers` library, as JSON, that puts nothing before a text."""
    if not isinstance(part, dict):
        return part
    kind = part["type"]
    if kind == "Sequence":
        (name,) = (name for name in part if name != "type")
        steps = [_without_prefix(step) for step in part[name]]
        return {**part, name: [step for step in steps if step is not None]}
    changes: dict[str, dict[str, Any]] = {
        "Metaspace": {"prepend_scheme": "never"},
        "ByteLevel": {"add_prefix_space": False},
    }
    return None if kind == "Prepend" else {**part, **changes.get(kind, {})}
