"""Texts to tokens and back, with tokenizers that behave as those of real families do at borders."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

from ebft.config.schema import UserError
from ebft.data.rows import to_rows
from ebft.data.tokenization import Tokenization, adds_bos
from tests.data.helpers import pair, stdlib_config, text

SPECIAL = ["<unk>", "<s>", "</s>", "<end_of_turn>"]
BYTES = [f"<0x{value:02X}>" for value in range(256)]
PIECES = ["▁", "▁▁▁▁", "return", "▁return", "a", "▁a", "b", "▁b", "+", "▁+", "H", "o", "▁Ho"]
SPACES = decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)


def sentencepiece(kind: str, bos: bool = False) -> PreTrainedTokenizerFast:
    """As of Llama 2: `metaspace` puts a space before a text that has none, `prepend` before every text."""
    vocabulary = {piece: number for number, piece in enumerate(SPECIAL + BYTES + PIECES)}
    merges = [
        ("▁", "▁"), ("▁▁", "▁▁"), ("r", "e"), ("▁", "a"), ("▁", "b"), ("▁", "+"), ("H", "o"), ("▁", "Ho"),
    ]  # fmt: skip
    for left, right in merges:
        for piece in (left, right, left + right):
            vocabulary.setdefault(piece, len(vocabulary))
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if kind == "prepend":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made.decoder = decoders.Sequence([*SPACES])
    if bos:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<end_of_turn>"],
        name_or_path="spm",
    )


def bytes_only() -> PreTrainedTokenizerFast:
    """One token a byte, so that every border may lie inside a character."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({piece: number for number, piece in enumerate(["<eos>", *alphabet])}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", name_or_path="bytes")


def of(tokenizer: PreTrainedTokenizerFast, stop_tokens: tuple[int, ...] = (), **changes: Any) -> Tokenization:
    return Tokenization.of(stdlib_config(**changes), tokenizer, stop_tokens)


@pytest.mark.parametrize("kind", ["metaspace", "prepend"])
@pytest.mark.parametrize("completion", ["    return a + b\n", " return a", "return a", "a", "\n    a", "Ho", "é+"])
def test_a_completion_says_what_it_says_behind_its_prompt(kind: str, completion: str) -> None:
    """Alone, the four spaces before `return` decode to three, and `return` is encoded with a space before it."""
    tokens, prompt = of(sentencepiece(kind)), "a b\n"
    before, after = (ids[0].tolist() for ids in (tokens.encode([prompt]), tokens.encode_within([completion], [prompt])))
    assert tokens.decode(before + after) == prompt + completion
    assert tokens.continuations(before, [after, []]) == [completion, ""]


@pytest.mark.parametrize("kind", ["metaspace", "prepend"])
def test_a_row_holds_prompt_and_completion_to_the_letter(kind: str) -> None:
    tokens = of(sentencepiece(kind))
    rows = to_rows([pair("a +", "b")], stdlib_config(sequence_length=17), tokens)
    row = rows.tokens[0][rows.document_ids[0] == 0].tolist()
    assert tokens.decode(row) == "a +b</s>"


@pytest.mark.parametrize("kind", ["metaspace", "prepend"])
def test_behind_a_special_token_stands_what_the_tokenizer_puts_there(kind: str) -> None:
    """Turns of a conversation that are cut behind an end, and one that goes on behind an end and a beginning."""
    tokens, pieces = of(sentencepiece(kind)), ["<s>a b", " b</s>", "a<end_of_turn>", "b</s><s>a b", " a"]
    first, *later = pieces
    found = [*tokens.encode([first]), *tokens.encode_within(later, pieces[:-1])]
    assert [token for ids in found for token in ids.tolist()] == tokens.encode(["".join(pieces)])[0].tolist()


@pytest.mark.parametrize("legacy", [True, False])
def test_an_exported_tokenizer_puts_the_same_behind_special_tokens(tmp_path: Path, legacy: bool) -> None:
    vocabulary = {piece: number for number, piece in enumerate(["<unk>", "<s>", "</s>", "▁", "a", "▁a"])}
    tokenizer = LlamaTokenizer(vocabulary, [("▁", "a")], legacy=legacy)
    of(tokenizer).as_trained().save_pretrained(tmp_path)
    expected = ["▁a", "</s>", "▁a" if legacy else "a"]
    assert tokenizer.tokenize("a</s>a") == AutoTokenizer.from_pretrained(tmp_path).tokenize("a</s>a") == expected


def test_a_plain_text_begins_as_the_tokenizer_begins_it() -> None:
    tokens = of(sentencepiece("metaspace"))
    rows = to_rows([text("a b")], stdlib_config(sequence_length=3), tokens)
    assert tokens.tokenizer.convert_ids_to_tokens(rows.tokens[0].tolist()) == ["▁a", "▁b", "</s>"]


def test_a_character_on_both_sides_of_the_border_belongs_to_the_branch() -> None:
    tokens = of(bytes_only())
    (written,) = tokens.encode(["nah über €"])
    for border in range(len(written) + 1):
        context, rest = written[:border].tolist(), written[border:].tolist()
        (said,) = tokens.continuations(context, [rest])
        assert "nah über €".endswith(said)
        assert len(said.encode()) - len(rest) in (0, 1, 2)  # bytes of the character that the context began


def test_a_branch_that_leaves_the_text_inside_a_character() -> None:
    """The text goes on with the second byte of ü, the branch with an x; another ends inside a character."""
    tokens = of(bytes_only())
    (written,) = tokens.encode(["hü"])
    (x, half) = tokens.encode(["x"])[0].tolist() + written[1:2].tolist()
    assert tokens.continuations(written[:2].tolist(), [[x], [int(written[2])], []]) == ["x", "ü", ""]
    assert tokens.continuations(written[:1].tolist(), [[x, half]]) == ["x\ufffd"]


@pytest.mark.parametrize(("bos", "own", "expected"), [
    ("auto", True, 1), ("auto", False, None), (True, False, 1), (True, True, 1), (False, True, None),
])  # fmt: skip
def test_what_the_tokenizer_does_is_done_unless_the_config_says_otherwise(
    bos: bool | str, own: bool, expected: int | None
) -> None:
    tokenizer = sentencepiece("metaspace", bos=own)
    assert adds_bos(tokenizer) == own
    assert of(tokenizer, bos=bos).bos == expected


def test_a_bos_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.bos=true, but the tokenizer of bytes has no beginning-of-sequence"):
        of(bytes_only(), bos=True)


def test_any_end_of_the_model_ends_an_answer_and_the_first_is_trained() -> None:
    """Ids that the tokenizer does not have can never be said."""
    tokenizer = sentencepiece("metaspace")
    assert of(tokenizer).stop_tokens == (2,)
    assert of(tokenizer, (3, 2, 9999)).stop_tokens == (2, 3)
    tokens = of(tokenizer, (2,), end_token="<end_of_turn>")
    assert (tokens.stop_tokens, tokens.end) == ((3, 2), 3)
    assert to_rows([text("a")], stdlib_config(sequence_length=2), tokens).tokens.tolist() == [
        [tokenizer.convert_tokens_to_ids("▁a"), 3]
    ]


@pytest.mark.parametrize("completion", ["b", "b</s>"])
def test_a_text_that_ends_with_the_end_gets_no_second(completion: str) -> None:
    """As published rows do whose completions were written with their EOS."""
    tokens = of(sentencepiece("metaspace"))
    rows = to_rows([pair("a ", completion), text("a</s>")], stdlib_config(sequence_length=6), tokens)
    found = tokens.tokenizer.convert_ids_to_tokens(rows.tokens[0].tolist())
    assert (found, rows.num_tokens) == (["▁a", "▁", "b", "</s>", "▁a", "</s>"], 6)


def test_an_unknown_end_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.end_token=<im_end> is no token of spm; its special tokens are <s>"):
        of(sentencepiece("metaspace"), end_token="<im_end>")


def test_nothing_else_of_the_tokenizer_is_changed_within_a_text() -> None:
    tokens = of(bytes_only())
    assert tokens.encode_within(["a b"], ["a"])[0].tolist() == tokens.encode(["a b"])[0].tolist()
    kept = json.loads(sentencepiece("prepend").backend_tokenizer.to_str())["normalizer"]
    assert [step["type"] for step in kept["normalizers"]] == ["Prepend", "Replace"]


# A beginning-of-sequence token, 9, before `a` to `e`, 1 to 5, and EOS, 0.


def begun(**changes: Any) -> Tokenization:
    words = Tokenizer(
        models.WordLevel({"<eos>": 0, "a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "<bos>": 9}, unk_token="<eos>")
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", bos_token="<bos>", name_or_path="toy")
    return replace(Tokenization.of(stdlib_config(), fast), bos=9, **changes)


T, F = True, False


def test_every_packed_row_and_every_document_begins_with_one() -> None:
    """Stream 9 a b c d e 0 | 9 a 0 in rows of five: the second row begins inside the first document."""
    rows = to_rows([text("a b c d e"), text("a")], stdlib_config(), begun())
    assert rows.tokens.tolist() == [[9, 1, 2, 3, 4], [9, 5, 0, 9, 1], [9, 0, 0, 0, 0]]
    assert rows.document_ids.tolist() == [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, -1, -1, -1]]
    assert rows.loss_mask.tolist() == [[F, T, T, T, T], [F, T, T, F, T], [F, T, F, F, F]]
    assert rows.completion_mask.tolist() == [[F, T, T, T, T], [F, T, T, F, T], [F, T, F, F, F]]
    assert rows.starts is not None
    assert rows.starts.tolist() == [[T, F, F, F, F], [T, F, F, T, F], [T, F, F, F, F]]


def test_with_masking_the_bos_of_a_row_is_of_the_document_that_goes_on() -> None:
    rows = to_rows([text("a b c d e"), text("a")], stdlib_config(document_masking=True), begun())
    assert rows.tokens.tolist() == [[9, 1, 2, 3, 4], [9, 5, 0, 9, 1], [9, 0, 0, 0, 0]]
    assert rows.document_ids.tolist() == [[0, 0, 0, 0, 0], [0, 0, 0, 1, 1], [0, 0, -1, -1, -1]]
    assert rows.loss_mask.tolist() == [[F, T, T, T, T], [F, T, T, F, T], [F, T, F, F, F]]


def test_every_padded_row_begins_with_one() -> None:
    """Nine tokens: a row of five, and a second and third with one of their own."""
    rows = to_rows([text("a b c d e a b c d e"), text("a")], stdlib_config(layout="padded"), begun())
    assert rows.tokens.tolist() == [[9, 1, 2, 3, 4], [9, 5, 1, 2, 3], [9, 4, 5, 0, 0], [9, 1, 0, 0, 0]]
    assert rows.loss_mask.tolist() == [[F, T, T, T, T], [F, T, T, T, T], [F, T, T, T, F], [F, T, T, F, F]]


def test_a_text_that_has_one_gets_no_second() -> None:
    rows = to_rows([pair("<bos> a", "b")], stdlib_config(layout="padded", loss_tokens="completion"), begun())
    assert rows.tokens.tolist() == [[9, 1, 2, 0, 0]]
    assert rows.loss_mask.tolist() == [[F, F, T, T, F]]


def test_a_pair_needs_room_for_it() -> None:
    with pytest.raises(UserError, match=r"file\.jsonl:7 has 6 tokens"):
        to_rows([pair("a b", "c d")], stdlib_config(layout="padded"), begun())
