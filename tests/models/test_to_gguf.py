"""What is written as GGUF is read back by transformers as the same model, and what could not be is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedConfig, Qwen2Config

pytest.importorskip("gguf")

from ebft.config.schema import UserError
from ebft.models import gguf, to_gguf
from ebft.models.named import TINY

TEXT = "def add(a, b):\n    return a + 1234  # naïve\n"
SMALL: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}


def saved(folder: Path, config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return folder


def rewrite(folder: Path, pre_tokenizer: dict[str, Any]) -> None:
    state = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(state | {"pre_tokenizer": pre_tokenizer}))


@pytest.mark.slow
@pytest.mark.parametrize("family", to_gguf.FAMILIES)
def test_a_model_survives_the_round_trip(tmp_path: Path, family: str) -> None:
    """With ids that no token has, an untied head, and a base of rotary positions that is not the default."""
    kind = {"llama": LlamaConfig, "qwen2": Qwen2Config}[family]
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    rope = {"rope_type": "default", "rope_theta": 5000.0}
    config = kind(vocab_size=len(tokenizer) + 3, rope_parameters=rope, eos_token_id=tokenizer.eos_token_id, **SMALL)
    folder = saved(tmp_path / "model", config)
    if family == "qwen2":  # whose texts transformers cuts in the way of its own tokenizers, whatever the file says
        words = next(parts[0][1] for parts, name in to_gguf.CUTS.items() if name == "qwen2")
        split = {"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": False}
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        rewrite(folder, {"type": "Sequence", "pretokenizers": [split, level]})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    to_gguf.write(folder, tmp_path / "it.gguf")
    gguf.convert(tmp_path / "it.gguf", tmp_path / "back", "it", "A title", "Of a test.")
    back, there = (AutoModelForCausalLM.from_pretrained(path) for path in (tmp_path / "back", folder))
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    torch.testing.assert_close(back(ids).logits, there(ids).logits, rtol=1e-5, atol=1e-5)
    read = AutoTokenizer.from_pretrained(tmp_path / "back")
    assert read(TEXT).input_ids == ids[0].tolist()
    assert (read.eos_token_id, len(list(tmp_path.glob("it*")))) == (tokenizer.eos_token_id, 1)


@pytest.mark.slow
def test_the_shipped_model_says_how_its_texts_are_cut(tmp_path: Path) -> None:
    from gguf import GGUFReader

    to_gguf.write(TINY, tmp_path / "tiny.gguf")
    fields = GGUFReader(tmp_path / "tiny.gguf").fields
    assert (fields["tokenizer.ggml.pre"].contents(), fields["tokenizer.ggml.model"].contents()) == ("smollm", "gpt2")
    assert fields["tokenizer.ggml.add_bos_token"].contents() is False


def test_words_are_cut_as_the_published_tokenizers_say() -> None:
    """The expressions in tokenizer.json of Llama 3 and of Qwen2.5."""
    found = {name: parts[0][1] for parts, name in to_gguf.CUTS.items()}
    llama, qwen = found["llama-bpe"], found["qwen2"]
    assert llama == (
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
        "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
    )
    assert qwen == llama.replace("{1,3}", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "rope_parameters="),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"mlp_bias": True}, "mlp_bias=True"),
    ],
)
def test_what_would_change_a_logit_is_refused(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    folder = saved(tmp_path / "model", LlamaConfig(vocab_size=2048, **SMALL, **changes))
    with pytest.raises(UserError, match=f"has {named}.*convert_hf_to_gguf.py"):
        to_gguf.write(folder, tmp_path / "it.gguf")
    assert not (tmp_path / "it.gguf").exists()


@pytest.mark.slow
def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", LlamaConfig(vocab_size=2048, **SMALL))
    rewrite(folder, {"type": "Whitespace"})
    with pytest.raises(UserError, match=r"has a tokenizer that is not written here as GGUF; use .*convert_hf_to_gguf"):
        to_gguf.write(folder, tmp_path / "it.gguf")
