"""What the files of a model may be: anybody wrote them, so that nothing they say is taken on trust, and whatever a
library throws over them is one sentence."""

import json
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from ebft.config.schema import UserError

LARGEST = {  # sizes that a config.json may have: some times those of any model
    "num_hidden_layers": 1000,
    "hidden_size": 10**6,
    "vocab_size": 10**7,
    "num_attention_heads": 10**4,
    "num_key_value_heads": 10**4,
}


@contextmanager
def reading(failure: str) -> Iterator[None]:
    """Whatever a library throws over the files of a model, which may be anybody's, is a UserError: `failure`, and what
    the library says."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a KeyError, a ZeroDivisionError, an ImportError: libraries trust these files
        raise UserError(f"{failure}: {_reason(error)}") from error


def check_described(described: dict[str, Any], name: str) -> None:
    """Raises UserError for a config.json that names kernels, which transformers would download and run, or packed
    weights."""
    for setting, value in described.items():
        if isinstance(value, dict):
            check_described(value, name)
        if "implementation" in setting and value is not None and not re.fullmatch(r"\w+", str(value)):
            raise UserError(f"{name} asks for kernels of its own, {setting}={value}; take that out of its config.json.")
    if described.get("quantization_config") is not None:
        raise UserError(f"{name} has quantized weights, which cannot be trained; name the model it was made from.")


def check_sizes(settings: dict[str, Any], name: str) -> None:
    """Raises UserError for sizes that no model has, before anything as large is made."""
    for size, most in LARGEST.items():
        value = settings.get(size)
        if isinstance(value, int) and not 0 < value <= most:  # some families have a list of them
            raise UserError(f"{name} has {size}={value}; a model has from 1 to {most:,}.")


def check_plain(folder: Path, name: str) -> None:
    """Raises UserError for what is neither a file nor a folder, such as a pipe, which would be read for ever."""
    for entry in folder.glob("*"):
        if not (entry.is_file() or entry.is_dir()):
            raise UserError(f"{name} has {entry.name} in its folder, which is no file; remove it.")


def check_files(folder: Path, name: str) -> None:
    """Raises UserError for an index of weights that names files elsewhere."""
    for index in folder.glob("*.index.json"):
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        for file in files:
            if not isinstance(file, str) or Path(file).name != file:
                raise UserError(f"{name} has {file!r} in its {index.name}, which is no file beside it; correct it.")


def _reason(error: Exception) -> str:
    """What an exception of a library says, in one line."""
    if "trust_remote_code" in str(error):
        return "it brings code of its own; if you trust that, say so by typing model.trust_remote_code=true."
    if isinstance(error, pickle.UnpicklingError):
        return "they hold more than tensors, which could be code; name a model with safetensors."
    lines = str(error).strip().splitlines()
    if isinstance(error, StrictDataclassError):
        return lines[-1].strip()
    says_enough = isinstance(error, OSError | ValueError | RuntimeError | ImportError | SafetensorError) and lines
    return lines[0] if says_enough else ": ".join([type(error).__name__, *lines[:1]])
