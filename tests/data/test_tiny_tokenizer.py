"""The tokenizer that ships with the package."""

from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

import ebft
from ebft.data import read
from tests.data.helpers import stdlib_config

TINY = Path(ebft.__file__).parent / "assets" / "tiny"


@pytest.fixture(scope="module")
def tiny() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(TINY)


@pytest.mark.parametrize(
    "text", ["def f(x):\n\treturn x  + 1\r\n", "naïve 漢字 \U0001f600\x00", "   \n\n", "'\\ud800'"]
)
def test_any_text_survives_the_round_trip(tiny: PreTrainedTokenizerBase, text: str) -> None:
    assert tiny.decode(tiny(text, add_special_tokens=False)["input_ids"]) == text


def test_digits_are_single_tokens(tiny: PreTrainedTokenizerBase) -> None:
    assert tiny.convert_ids_to_tokens(tiny("x=2048", add_special_tokens=False)["input_ids"])[-4:] == [
        "2",
        "0",
        "4",
        "8",
    ]


def test_one_special_token_ends_and_pads(tiny: PreTrainedTokenizerBase) -> None:
    config = AutoConfig.from_pretrained(TINY)
    assert tiny.all_special_tokens == ["<|endoftext|>"]
    assert (tiny.eos_token_id, tiny.pad_token_id, config.eos_token_id, config.pad_token_id, config.bos_token_id) == (
        0,
        0,
        0,
        0,
        0,
    )
    assert len(tiny) == config.vocab_size == 2048


def test_it_compresses_modules_it_was_not_trained_on(tiny: PreTrainedTokenizerBase) -> None:
    _, validation = read(stdlib_config(max_validation_documents=7))
    text = "".join(document.completion for document in validation)
    assert len(text.encode()) / len(tiny(text, add_special_tokens=False, verbose=False)["input_ids"]) > 2.9
