"""The shipped model as llama.cpp's converter would write it into a GGUF file."""

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import quantize
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedModel

from ebft.models.named import TINY

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers.": "blk.",
}


def tiny() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(TINY, dtype="float32")


def write_gguf(path: Path, kind: str = "F32", architecture: str = "llama", left_out: Collection[str] = ()) -> Path:
    """`kind` is the type of the matrices, such as Q8_0; vectors are in F32."""
    writer = GGUFWriter(path, architecture)
    model = tiny()
    assert isinstance(model.config, LlamaConfig)
    _write_settings(writer, model.config)
    _write_tokenizer(writer)
    heads = {"attn_q": model.config.num_attention_heads, "attn_k": model.config.num_key_value_heads}
    for name, weight in model.named_parameters():
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        array = weight.detach().numpy()
        if (part := name.split(".")[-2]) in heads:
            array = _interleaved(array, heads[part])
        if name not in left_out:
            stored = GGMLQuantizationType[kind if array.ndim == 2 else "F32"]
            writer.add_tensor(name, quantize(np.ascontiguousarray(array), stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _interleaved(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """Rotary pairs lie beside each other in llama.cpp, and half a head apart in transformers."""
    halves = weight.reshape(num_heads, 2, -1, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _write_settings(writer: GGUFWriter, config: LlamaConfig) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer: GGUFWriter) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].__getitem__)
    special = tokenizer.all_special_tokens
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in state["merges"]])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_pad_token_id):
        add(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)
