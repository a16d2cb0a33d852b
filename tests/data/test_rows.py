import pytest
import torch

from ebft.config.schema import UserError
from ebft.data.rows import to_rows
from tests.data.helpers import pair, stdlib_config, text, tokenizer

T, F = True, False


def test_packed_without_masking() -> None:
    """`a b c EOS d e EOS` in rows of five: the second document is cut, its tail padded with EOS."""
    rows = to_rows([text("a b c"), text("d e")], stdlib_config(), tokenizer())
    assert rows.tokens.tolist() == [[1, 2, 3, 0, 4], [5, 0, 0, 0, 0]]
    assert rows.document_ids.tolist() == [[0, 0, 0, 0, 0], [0, 0, -1, -1, -1]]
    assert rows.loss_mask.tolist() == [[F, T, T, T, T], [F, T, F, F, F]]
    assert rows.completion_mask.tolist() == [[T, T, T, T, T], [T, T, F, F, F]]
    assert (len(rows), rows.num_documents, rows.num_tokens) == (2, 2, 7)


def test_packed_with_masking_numbers_the_documents_of_each_row() -> None:
    """A document's first token has no predecessor of its own document, so it is no target."""
    rows = to_rows(
        [text("a b"), text("c"), text("d e a b"), text("c")], stdlib_config(document_masking=True), tokenizer()
    )
    assert rows.tokens.tolist() == [[1, 2, 0, 3, 0], [4, 5, 1, 2, 0], [3, 0, 0, 0, 0]]
    assert rows.document_ids.tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 0, 0], [0, 0, -1, -1, -1]]
    assert rows.loss_mask.tolist() == [[F, T, T, F, T], [F, T, T, T, T], [F, T, F, F, F]]
    assert rows.batch([0]).masked


def test_completion_of_a_packed_pair_is_what_counts() -> None:
    """`a b | c EOS`, `d | e EOS`: the EOS that ends a completion belongs to it; the first token of the second row has
    no predecessor."""
    pairs = [pair("a b", "c"), pair("d", "e"), pair("a", "b")]
    rows = to_rows(pairs, stdlib_config(loss_tokens="completion"), tokenizer())
    assert rows.tokens.tolist() == [[1, 2, 3, 0, 4], [5, 0, 1, 2, 0]]
    assert rows.completion_mask.tolist() == [[F, F, T, T, F], [T, T, F, T, T]]
    assert rows.loss_mask.tolist() == [[F, F, T, T, F], [F, T, F, T, T]]


def test_prompts_count_with_loss_tokens_all() -> None:
    rows = to_rows([pair("a b", "c")], stdlib_config(), tokenizer())
    assert rows.loss_mask.tolist() == [[F, T, T, T, F]]
    assert rows.completion_mask.tolist() == [[F, F, T, T, F]]


def test_padded_gives_each_document_rows_of_its_own() -> None:
    """Seven tokens and an EOS fill one row and run on into a second."""
    rows = to_rows([text("a b"), text("a b c d e a b"), text("c d e a")], stdlib_config(layout="padded"), tokenizer())
    assert rows.tokens.tolist() == [[1, 2, 0, 0, 0], [1, 2, 3, 4, 5], [1, 2, 0, 0, 0], [3, 4, 5, 1, 0]]
    assert rows.document_ids.tolist() == [[0, 0, 0, -1, -1], [0, 0, 0, 0, 0], [0, 0, 0, -1, -1], [0, 0, 0, 0, 0]]
    assert rows.loss_mask.tolist() == [[F, T, T, F, F], [F, T, T, T, T], [F, T, T, F, F], [F, T, T, T, T]]


def test_a_pair_longer_than_a_padded_row_is_named() -> None:
    expected = (
        r"file\.jsonl:7 has 6 tokens with its EOS, above data\.sequence_length=5; raise data\.sequence_length, "
        r"shorten the row, use data\.layout=packed, or drop all such rows with data\.bad_rows=drop"
    )
    with pytest.raises(UserError, match=expected):
        to_rows([pair("a b", "c d e")], stdlib_config(layout="padded"), tokenizer())


def test_a_pair_that_fills_a_padded_row_fits() -> None:
    assert to_rows([pair("a b", "c d")], stdlib_config(layout="padded"), tokenizer()).tokens.tolist() == [
        [1, 2, 3, 4, 0]
    ]


def test_a_row_without_targets_is_kept() -> None:
    """Three tokens and an EOS, three tokens and an EOS, one token: its row of one target-less token and padding."""
    rows = to_rows([text("a b c"), text("d e a b c")], stdlib_config(sequence_length=3), tokenizer())
    assert rows.tokens.tolist() == [[1, 2, 3], [0, 4, 5], [1, 2, 3], [0, 0, 0]]
    assert rows.loss_mask.tolist() == [[F, T, T], [F, T, T], [F, T, T], [F, F, F]]
    assert rows.document_ids[3].tolist() == [0, -1, -1]


def test_batch_is_the_named_rows_in_order() -> None:
    rows = to_rows([text("a b c"), text("d e")], stdlib_config(sequence_length=3), tokenizer())
    batch = rows.batch([2, 0])
    assert batch.tokens.tolist() == [[0, 0, 0], [1, 2, 3]]
    assert batch.row_ids.tolist() == [2, 0]
    assert batch.document_ids.tolist() == [[0, -1, -1], [0, 0, 0]]
    assert batch.tokens.dtype == batch.document_ids.dtype == torch.int64
    assert not batch.masked


def test_a_tokenizer_without_eos_is_refused() -> None:
    with pytest.raises(UserError, match=r"The tokenizer of toy has no end-of-sequence token .*; set data\.end_token"):
        to_rows([text("a")], stdlib_config(), tokenizer(eos_token=None))


def test_a_row_is_of_the_document_that_most_of_it_is_from() -> None:
    """`a b c EOS d | e EOS a b c | d EOS`: four of five tokens, then two against three; the last is the third's."""
    documents = [text("a b c"), text("d e"), text("a b c d")]
    rows = to_rows(documents, stdlib_config(), tokenizer())
    assert rows.documents == tuple(documents[place].key for place in (0, 2, 2))
    padded = to_rows([text("a b c d e a b"), text("c d")], stdlib_config(layout="padded"), tokenizer())
    assert len(padded.documents) == 3
    assert padded.documents[0] == padded.documents[1] != padded.documents[2]
