"""Folders with models that somebody has broken, or made to do harm: one sentence each, before anything is run, made or
fetched."""

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from ebft.cli.compose import compose
from ebft.config.schema import TrainConfig, UserError
from ebft.models.adapters import attach
from ebft.models.loading import end_tokens, load_architecture, load_policy, load_tokenizer
from ebft.models.named import TINY
from tests.helpers import plain_model

Break = Callable[[Path], object]
CURE = re.compile(r"correct|remove it|replace it|take that out|name a|name the|name another|typing|put them")
NAMES = sorted(load_file(TINY / "model.safetensors"))


def config(**changes: Any) -> Break:
    """Other settings in config.json."""

    def change(folder: Path) -> None:
        settings = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**settings, **changes}))

    return change


def file(name: str, content: Any) -> Break:
    return lambda folder: (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def weights(name: str, content: Any) -> Break:
    """In place of the weights that are there."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())

    return change


class Program:
    """What a pickle may do while it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("called",)


def index(file: Any) -> Break:
    return weights("model.safetensors.index.json", {"metadata": {}, "weight_map": dict.fromkeys(NAMES, file)})


def header(content: Any) -> bytes:
    """A file of safetensors without tensors."""
    written = json.dumps(content).encode()
    return len(written).to_bytes(8, "little") + written


def pipe(name: str) -> Break:
    """A pipe that nobody writes, which would be read for ever."""

    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


BROKEN: dict[str, tuple[Break, str]] = {
    "tokenizer is a pipe": (pipe("tokenizer.json"), "has tokenizer.json in its folder, which is no file; remove it."),
    "template is a pipe": (pipe("chat_template.jinja"), "has chat_template.jinja in its folder, which is no file"),
    "pickled": (
        weights("pytorch_model.bin", pickle.dumps(Program(), protocol=2)),
        "could be code; name a model with safetensors.",
    ),
    "index ..": (index("../../theirs.safetensors"), "which is no file beside it; correct it"),
    "index /": (index("/etc/passwd"), "which is no file beside it; correct it"),
    "index of numbers": (index(5), "its model.safetensors.index.json names 5, which is no file beside it"),
    "index of nothing": (weights("model.safetensors.index.json", {}), "has no weight_map"),
    "index is a list": (weights("model.safetensors.index.json", []), "holds no JSON object"),
    "index of what is not there": (index("part-1.safetensors"), "names part-1.safetensors, which is not there"),
    "named elsewhere": (config(transformers_weights="../a.safetensors"), "which is no file beside it"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors in its folder"),
    "tensors: 5": (weights("model.safetensors", header({"tensors": 5})), "is no file of safetensors"),
    "header of a list": (weights("model.safetensors", header([])), "is no file of safetensors"),
    "endless header": (weights("model.safetensors", (2**60).to_bytes(8, "little")), "is no file of safetensors"),
    "cut off": (lambda folder: os.truncate(folder / "model.safetensors", 10**5), "is cut off"),
    "other shapes": (config(intermediate_size=17), "has weights of another shape than its config.json says: model."),
    "no tensors": (weights("model.safetensors", b"junk" * 99), "is no file of safetensors; replace it"),
    "kernels": (config(attn_implementation="theirs/kernels"), "asks for kernels of its own"),
    "kernels, privately": (config(_attn_implementation_internal="theirs/kernels"), "asks for kernels of its own"),
    "kernels of a part": (config(text_config={"_attn_implementation": "a/b"}), "asks for kernels of its own"),
    "quantized": (config(quantization_config={"quant_method": "gptq", "bits": 4}), "has quantized weights"),
    "quantized somehow": (config(quantization_config=5), "has quantized weights"),
    "config is a list": (file("config.json", []), "its config.json holds no JSON object"),
    "config is a text": (file("config.json", '"x"'), "its config.json holds no JSON object"),
    "config is empty": (file("config.json", ""), "its config.json holds no JSON object"),
    "config is binary": (lambda folder: (folder / "config.json").write_bytes(bytes(range(256))), "no JSON object"),
    "config is deep": (file("config.json", "[" * 10**5), "its config.json holds no JSON object"),
    "config is null": (file("config.json", "null"), "its config.json holds no JSON object"),
    "config is no JSON": (file("config.json", "{"), "its config.json holds no JSON object"),
    "no heads": (config(num_attention_heads=0), "num_attention_heads=0 in its config.json; correct it"),
    "half a head": (config(num_attention_heads=4.5), "num_attention_heads=4.5 in its config.json"),
    "heads below zero": (config(num_attention_heads=-4), "num_attention_heads=-4 in its config.json"),
    "uneven heads": (config(num_attention_heads=7, num_key_value_heads=7, head_dim=None), "is not a multiple of"),
    "uneven keys": (config(num_key_value_heads=3), "num_key_value_heads=3 does not divide; correct one of them."),
    "unknown family": (config(model_type="theirs"), "has model type `theirs`"),
    "kernels of a number": (config(attn_implementation=5), "asks for kernels of its own"),
    "no keys": (config(num_key_value_heads=0), "num_key_value_heads=0 in its config.json"),
    "no layers": (
        config(num_hidden_layers=0),
        "num_hidden_layers=0 in its config.json; correct it, a model has from 1 to 1,000.",
    ),
    "20,000 layers": (config(num_hidden_layers=20_000), "num_hidden_layers=20000 in its config.json"),
    "as many words": (config(vocab_size=2**50), "vocab_size=1125899906842624 in its config.json"),
    "a text for a number": (config(hidden_size="160"), 'hidden_size="160" in its config.json'),
    "rope": (
        config(rope_parameters={"rope_type": "theirs"}),
        "holds no weights that can be loaded: KeyError: 'theirs'",
    ),
    "layer types": (config(layer_types=[["a"]]), "holds no model that can be loaded"),
    "number type": (config(dtype="theirs"), "holds no model that can be loaded: AttributeError"),
    "own code": (
        config(model_type="theirs", auto_map={"AutoConfig": "theirs.Config"}),
        "brings code of its own; if you trust that, say so by typing model.trust_remote_code=true.",
    ),
    "code map": (config(auto_map=5), "holds no model that can be loaded"),
    "tokenizer {}": (file("tokenizer.json", {}), "its tokenizer.json has no model of a tokenizer"),
    "tokenizer []": (file("tokenizer.json", []), "its tokenizer.json holds no JSON object"),
    "tokenizer's settings": (file("tokenizer_config.json", []), "its tokenizer_config.json holds no JSON object"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer that can be loaded"),
    "length": (
        file("tokenizer_config.json", {"model_max_length": "x"}),
        'model_max_length="x" in its tokenizer_config.json; correct it.',
    ),
    "end": (file("tokenizer_config.json", {"eos_token": 5}), "eos_token=5 in its tokenizer_config.json; correct it."),
    "tokenizer's class": (file("tokenizer_config.json", {"tokenizer_class": 5}), "has no tokenizer that can be loaded"),
    "template's name": (
        file("tokenizer_config.json", {"chat_template": [{"name": "../../theirs", "template": "x"}]}),
        "has a chat template '../../theirs', which could not be exported",
    ),
    "template": (file("tokenizer_config.json", {"chat_template": 5}), "which could not be exported"),
    "generation": (file("generation_config.json", []), "its generation_config.json holds no JSON object"),
    "ends": (file("generation_config.json", {"eos_token_id": "x"}), "eos_token_id=x, which is no token's number"),
}


@pytest.fixture(scope="module")
def tiny() -> TrainConfig:
    return compose(["method=sft", "trainer.device=cpu"])


def load_all(run: TrainConfig) -> None:
    """In the order of a run."""
    architecture = load_architecture(run.model)
    load_tokenizer(run.model)
    end_tokens(run.model, architecture)
    load_policy(run, architecture, "cpu")


@pytest.mark.parametrize(("change", "sentence"), BROKEN.values(), ids=BROKEN.keys())
def test_a_hostile_model_gives_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: TrainConfig, change: Break, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(TINY, tmp_path / "theirs")
    change(tmp_path / "theirs")
    run = replace(tiny, model=replace(tiny.model, path="theirs"))
    with pytest.raises(UserError) as caught:
        load_all(run)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert CURE.search(str(caught.value))
    assert not (tmp_path / "called").exists()


def test_a_good_folder_is_not_refused(tmp_path: Path, tiny: TrainConfig) -> None:
    """A flag that transformers 4 wrote into most configs was taken for kernels, an editor's lock for a pipe."""
    shutil.copytree(TINY, tmp_path / "mine")
    config(_attn_implementation_autoset=True)(tmp_path / "mine")
    (tmp_path / "mine" / ".#config.json").symlink_to("me@host.123")
    load_all(replace(tiny, model=replace(tiny.model, path=str(tmp_path / "mine"))))


PEFT = {"peft_type": "LORA", "base_model_name_or_path": "theirs", "r": 1, "target_modules": ["q_proj"]}
ADAPTERS: dict[str, tuple[Any, str]] = {
    "a list": ([], "holds no adapters that can be read"),
    "no base": ({"peft_type": "LORA"}, "holds no adapters that can be read"),
    "no JSON": ("{", "holds no adapters that can be read"),
    "type": ({**PEFT, "peft_type": "THEIRS"}, "adapter_config.json has peft_type=THEIRS, which peft does not know"),
    "rank": ({**PEFT, "r": "x"}, "holds no adapters that peft can load"),
    "module": ({**PEFT, "megatron_core": "antigravity"}, "names a module to import, megatron_core=antigravity"),
    "no weights": (PEFT, "holds no adapters that peft can load"),
}


@pytest.mark.parametrize(("settings", "sentence"), ADAPTERS.values(), ids=ADAPTERS.keys())
def test_hostile_adapters_give_one_sentence(tmp_path: Path, settings: Any, sentence: str) -> None:
    pytest.importorskip("peft")
    file("adapter_config.json", settings)(tmp_path)
    with pytest.raises(UserError) as caught:
        attach(plain_model(), tmp_path, "theirs")
    assert sentence in str(caught.value)
