"""From a folder in Hugging Face format to a GGUF file, which llama.cpp and what is built on it run.

Written are the families and the kinds of tokenizer whose round trip through transformers' own reader is tested; what
differs in any way that would change a logit or a token is refused, and llama.cpp's converter named.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from ebft.config.schema import UserError
from ebft.output.files import replacing

FAMILIES = ("llama", "qwen2")
TOOL = "llama.cpp's convert_hf_to_gguf.py"
TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}  # of matrices; vectors are in F32
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# How texts are cut into words before BPE, in llama.cpp's names.
CUTS = {
    (("Digits", True), ("ByteLevel", True)): "smollm",
    (("ByteLevel", True),): "gpt-2",
    (("Split", _WORDS % ""), ("ByteLevel", False)): "qwen2",
    (("Split", _WORDS % "{1,3}"), ("ByteLevel", False)): "llama-bpe",
}


def write(folder: Path, file: Path) -> None:
    """The model and the tokenizer in `folder` as one file, which is there whole or not at all. Raises UserError for
    what cannot be written so that it is read back as the same model."""
    try:
        from gguf import GGUFWriter
    except ImportError as error:
        raise UserError("A GGUF file needs gguf, which is not installed; pip install 'ebft[real]'.") from error
    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    _check(folder, config)
    vocabulary = _vocabulary(folder, tokenizer)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with replacing(file) as partial:
        _fill(GGUFWriter(partial, config.model_type), model, config, tokenizer, vocabulary, file.stem)


def _fill(writer: Any, model: Any, config: Any, tokenizer: Any, vocabulary: dict[str, Any], name: str) -> None:
    from gguf import GGMLQuantizationType, quants

    _write_settings(writer, config, name)
    _write_tokenizer(writer, config, tokenizer, vocabulary)
    for tensor, numbers in _weights(model, config):
        kind = GGMLQuantizationType[TYPES[model.dtype] if numbers.ndim == 2 else "F32"]
        writer.add_tensor(tensor, quants.quantize(numbers, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _check(folder: Path, config: Any) -> None:
    rope = config.rope_parameters if config.model_type in FAMILIES else {}
    unusual = {
        "model_type": config.model_type not in FAMILIES,
        "rope_parameters": rope.get("rope_type", "default") != "default",
        "attention_bias": config.model_type == "llama" and config.attention_bias,
        "mlp_bias": getattr(config, "mlp_bias", False),
        "use_sliding_window": getattr(config, "use_sliding_window", False),
    }
    for name in (name for name, is_unusual in unusual.items() if is_unusual):
        value = getattr(config, name)
        raise UserError(f"{folder} has {name}={value}, which is not written here as GGUF; use {TOOL} {folder}.")


def _vocabulary(folder: Path, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The BPE model of the tokenizer, and how it cuts texts."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    before = state["pre_tokenizer"] or {"type": "none"}
    parts = tuple(map(_cut, before.get("pretokenizers", [before])))
    normalizer = (state["normalizer"] or {"type": None})["type"]
    if state["model"]["type"] != "BPE" or parts not in CUTS or normalizer not in (None, "NFC"):
        raise UserError(f"{folder} has a tokenizer that is not written here as GGUF; use {TOOL} {folder}.")
    return {"cut": CUTS[parts], **state["model"]}


def _cut(part: dict[str, Any]) -> tuple[str, Any]:
    """What a step of cutting is, and the setting in which those that are known differ."""
    settings = {
        "Digits": part.get("individual_digits"),
        "ByteLevel": not part.get("add_prefix_space") and part.get("use_regex"),
        "Split": part.get("pattern", {}).get("Regex") if part.get("behavior") == "Isolated" else None,
    }
    return part["type"], settings.get(part["type"])


def _write_settings(writer: Any, config: Any, name: str) -> None:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer: Any, config: Any, tokenizer: Any, vocabulary: dict[str, Any]) -> None:
    from gguf import TokenType

    tokens = {token: (text, TokenType.NORMAL) for text, token in vocabulary["vocab"].items()}
    for token, added in tokenizer.added_tokens_decoder.items():
        tokens[token] = added.content, TokenType.CONTROL if added.special else TokenType.USER_DEFINED
    named = [tokens.get(token, (f"[PAD{token}]", TokenType.UNUSED)) for token in range(config.vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary["cut"])
    writer.add_token_list([text for text, _ in named])
    writer.add_token_types([kind for _, kind in named])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in vocabulary["merges"]])
    for name in ("bos", "eos", "pad"):
        if (token := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(token)
    begins = tokenizer("a").input_ids[0] == tokenizer.bos_token_id
    writer.add_add_bos_token(begins)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)


def _weights(model: Any, config: Any) -> Any:
    """Yields each tensor's name in GGUF and its numbers, tied ones once."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    names = get_tensor_name_map(MODEL_ARCH[config.model_type.upper()], config.num_hidden_layers)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, weight in model.named_parameters():
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert new is not None, name
        numbers = weight.detach().float().numpy()
        part = new.split(".")[-2]
        if config.model_type == "llama" and part in heads:
            numbers = _interleaved(numbers, heads[part])
        yield new, np.ascontiguousarray(numbers)


def _interleaved(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows of queries or keys [heads * width, H], of which rotary pairs lie half a head apart, with pairs side by side,
    as llama.cpp turns those of Llama."""
    halves = weight.reshape(num_heads, 2, -1, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)
