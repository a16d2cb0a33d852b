"""Folders with models that somebody has broken, or made to do harm: one sentence each, before anything is run, made or
fetched."""

import json
import os
import pickle
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
    "index ..": (index("../../theirs.safetensors"), "which is no file beside it; correct it."),
    "index /": (index("/etc/passwd"), "which is no file beside it; correct it."),
    "index of numbers": (index(5), "has 5 in its model.safetensors.index.json"),
    "index of nothing": (weights("model.safetensors.index.json", {}), "holds no weights that can be loaded"),
    "index is a list": (weights("model.safetensors.index.json", []), "holds no weights that can be loaded"),
    "no tensors": (weights("model.safetensors", b"junk" * 99), "holds no weights that can be loaded"),
    "kernels": (config(attn_implementation="theirs/kernels"), "asks for kernels of its own"),
    "kernels, privately": (config(_attn_implementation_internal="theirs/kernels"), "asks for kernels of its own"),
    "kernels of a part": (config(text_config={"_attn_implementation": "a/b"}), "asks for kernels of its own"),
    "quantized": (config(quantization_config={"quant_method": "gptq", "bits": 4}), "has quantized weights"),
    "quantized somehow": (config(quantization_config=5), "has quantized weights"),
    "config is a list": (file("config.json", []), "holds no model that can be loaded"),
    "config is null": (file("config.json", "null"), "holds no model that can be loaded"),
    "config is no JSON": (file("config.json", "{"), "is not a valid JSON file"),
    "no heads": (config(num_attention_heads=0), "holds no model that can be loaded: ZeroDivisionError"),
    "no keys": (config(num_key_value_heads=0), "num_key_value_heads=0; a model has from 1 to"),
    "no layers": (config(num_hidden_layers=0), "num_hidden_layers=0; a model has from 1 to 1,000."),
    "20,000 layers": (config(num_hidden_layers=20_000), "num_hidden_layers=20000; a model has"),
    "as many words": (config(vocab_size=2**50), "vocab_size=1125899906842624; a model has"),
    "a text for a number": (config(hidden_size="160"), "TypeError: Field 'hidden_size' expected int, got str"),
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
    "tokenizer {}": (file("tokenizer.json", {}), "has no tokenizer that can be loaded"),
    "tokenizer []": (file("tokenizer.json", []), "has no tokenizer that can be loaded"),
    "tokenizer's class": (file("tokenizer_config.json", {"tokenizer_class": 5}), "has no tokenizer that can be loaded"),
    "template's name": (
        file("tokenizer_config.json", {"chat_template": [{"name": "../../theirs", "template": "x"}]}),
        "has a chat template '../../theirs', which could not be exported",
    ),
    "template": (file("tokenizer_config.json", {"chat_template": 5}), "which could not be exported"),
    "generation": (file("generation_config.json", []), "generation_config.json cannot be read"),
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
    assert not (tmp_path / "called").exists()


PEFT = {"peft_type": "LORA", "base_model_name_or_path": "theirs", "r": 1, "target_modules": ["q_proj"]}
ADAPTERS: dict[str, tuple[Any, str]] = {
    "a list": ([], "holds no adapters that can be read"),
    "no base": ({"peft_type": "LORA"}, "holds no adapters that can be read"),
    "no JSON": ("{", "holds no adapters that can be read"),
    "type": ({**PEFT, "peft_type": "THEIRS"}, "holds no adapters that peft can load (KeyError: 'THEIRS')"),
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
