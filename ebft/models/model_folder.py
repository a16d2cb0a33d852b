"""A folder in Hugging Face format, which may be anybody's, looked at before a library reads it: JSON of the kind that
belongs there, sizes that a network can have, weights that are there. Needs no torch, so that what is broken is said at
once."""

import json
import re
from pathlib import Path
from typing import Any

from ebft.config.schema import UserError
from ebft.config.stored import bytes_of, is_plain
from ebft.models.paths import ADAPTER_FILE

LARGEST = {  # sizes that a config.json may have: some times those of any model
    "num_hidden_layers": 1000,
    "n_layer": 1000,
    "hidden_size": 10**6,
    "n_embd": 10**6,
    "intermediate_size": 10**7,
    "head_dim": 10**5,
    "vocab_size": 10**7,
    "num_attention_heads": 10**4,
    "n_head": 10**4,
    "num_key_value_heads": 10**4,
    "max_position_embeddings": 10**9,
}
OBJECTS = ("config.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json")
INDEX = ".index.json"
SAFE = "model.safetensors"
WEIGHTS = (SAFE, f"{SAFE}{INDEX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX}")  # transformers reads the first
NAMED = "transformers_weights"  # of a config.json that names another file
HEADER_BYTES = 10**8  # that safetensors reads of a header
SHOWN_CHARACTERS = 100  # of a value
LEVELS = 32  # of lists and mappings, one in the other


def check_folder(folder: Path, name: str, has_weights: bool = True) -> None:
    """Raises UserError, which calls the folder `name`, for the first file that cannot be of a model. `has_weights`:
    they are to be there. What is no folder here is the hub's."""
    if not folder.is_dir():
        return
    check_plain(folder, name)
    found = {file: _object(folder / file, name) for file in OBJECTS if (folder / file).exists()}
    described = found.get("config.json", {})
    check_described(described, name)
    check_sizes(described, name)
    _check_texts(found.get("tokenizer_config.json", {}), name)
    for file in weights(folder, name) if has_weights else []:
        if file.suffix == ".safetensors":
            _check_header(file, name)


def check_adapters(folder: Path, name: str) -> None:
    """Raises UserError for a folder with adapters whose adapter_config.json does not say of which kind they are."""
    if not isinstance(_object(folder / ADAPTER_FILE, name).get("peft_type"), str):
        raise UserError(_broken(folder / ADAPTER_FILE, name, "has no peft_type"))


def check_plain(folder: Path, name: str) -> None:
    """Raises UserError for what is neither a file nor a folder, such as a pipe, which would be read for ever. A link
    that leads nowhere, such as an editor's lock, is nothing that is read."""
    for entry in folder.glob("*"):
        if entry.exists() and not (entry.is_file() or entry.is_dir()):
            raise UserError(f"{name} has {entry.name} in its folder, which is no file; remove it.")


def check_described(described: dict[str, Any], name: str) -> None:
    """Raises UserError for a config.json that names kernels, which transformers would download and run, or packed
    weights."""
    for setting, value in described.items():
        if isinstance(value, dict):
            check_described(value, name)
        if "implementation" in setting and not _is_without_kernels(value):
            raise UserError(f"{name} asks for kernels of its own, {setting}={value}; take that out of its config.json.")
    if described.get("quantization_config") is not None:
        raise UserError(f"{name} has quantized weights, which cannot be trained; name the model it was made from.")


def _is_without_kernels(value: Any) -> bool:
    """A plain name, or the flag `_attn_implementation_autoset` that transformers 4 wrote into most configs."""
    return (
        value is None or isinstance(value, bool) or (isinstance(value, str) and re.fullmatch(r"\w+", value) is not None)
    )


def check_sizes(settings: dict[Any, Any], name: str, where: str = "its config.json") -> None:
    """Raises UserError for sizes that no model has, before anything as large is made; `where` they stand."""
    for size, most in LARGEST.items():
        value = settings.get(size)
        if value is None or isinstance(value, list):  # some families have a list of them
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
            shown = json.dumps(value, default=str)[:SHOWN_CHARACTERS]
            raise UserError(f"{name} has {size}={shown} in {where}; correct it, a model has from 1 to {most:,}.")
    heads, shared = settings.get("num_attention_heads"), settings.get("num_key_value_heads")
    if isinstance(heads, int) and isinstance(shared, int) and heads % shared:
        raise UserError(
            f"{name} has num_attention_heads={heads} in {where}, which num_key_value_heads={shared} does not "
            "divide; correct one of them."
        )
    for part in settings.values():
        if isinstance(part, dict):
            check_sizes(part, name, where)


def check_tokenizer(folder: Path, name: str) -> None:
    """Raises UserError for a tokenizer.json that holds none; not a part of `check_folder`, for such a file may be
    large."""
    file = folder / "tokenizer.json"
    if file.exists():
        written = _object(file, name, any_depth=True)
        for part, kind in (("model", dict), ("added_tokens", list)):
            if not isinstance(written.get(part), kind):
                raise UserError(_broken(file, name, f"has no {part} of a tokenizer"))


def _check_texts(settings: dict[str, Any], name: str) -> None:
    """Raises UserError for settings of a tokenizer of another kind than they are of."""
    for setting, value in settings.items():
        is_token = re.fullmatch(r"(bos|eos|unk|sep|pad|cls|mask)_token", setting) is not None
        kinds = str | dict | None if is_token else int | float | None if setting == "model_max_length" else Any
        if kinds is not Any and not isinstance(value, kinds):
            shown = json.dumps(value)[:SHOWN_CHARACTERS]
            raise UserError(f"{name} is broken: {setting}={shown} in its tokenizer_config.json; correct it.")


def weights(folder: Path, name: str) -> list[Path]:
    """The files that hold the weights of a model in a folder. Raises UserError where there are none, and for an index
    that names what is not beside it."""
    named = _object(folder / "config.json", name).get(NAMED)
    if named is not None and named != Path(str(named)).name:
        raise UserError(_broken(folder / "config.json", name, f"names {named!r}, which is no file beside it"))
    files = [named] if named is not None else WEIGHTS
    found = next((folder / file for file in files if (folder / file).is_file()), None)
    if found is None:
        raise UserError(
            f"{name} has no {files[0]} in its folder, nor other weights; put them there, or name another model."
        )
    if not found.name.endswith(INDEX):
        return [found]
    parts = _object(found, name).get("weight_map")
    if not isinstance(parts, dict):
        raise UserError(_broken(found, name, "has no weight_map"))
    for part in parts.values():
        if not isinstance(part, str) or Path(part).name != part:
            raise UserError(_broken(found, name, f"names {part!r}, which is no file beside it"))
        if not (folder / part).is_file():
            raise UserError(_broken(found, name, f"names {part}, which is not there"))
    return [folder / part for part in dict.fromkeys(parts.values())]


def _check_header(path: Path, name: str) -> None:
    """Raises UserError for what no file of safetensors has: eight bytes with the length of a header, the header, which
    says of every tensor from where to where it lies behind it, and as many bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        written = file.read(length) if 0 < length <= min(size - 8, HEADER_BYTES) else b""
    header = _parsed(written)
    if not isinstance(header, dict) or not all(isinstance(entry, dict) for entry in header.values()):
        raise UserError(_broken(path, name, "is no file of safetensors", cure="replace it"))
    ends = [_end(entry) for tensor, entry in header.items() if tensor != "__metadata__"]
    if None in ends or max((end for end in ends if end is not None), default=0) != size - 8 - length:
        raise UserError(_broken(path, name, "is cut off, or no file of safetensors", cure="replace it"))


def _end(entry: dict[str, Any]) -> int | None:
    """Where a tensor ends behind the header."""
    match entry.get("data_offsets"):
        case [int(), int(end)]:
            return end
    return None


def _object(path: Path, name: str, any_depth: bool = False) -> dict[str, Any]:
    """The object in a file of JSON. Raises UserError for what holds none."""
    try:
        content = _parsed(bytes_of(path))
    except OSError as error:
        raise UserError(_broken(path, name, f"cannot be read ({error.strerror})")) from error
    if not isinstance(content, dict) or not (any_depth or is_plain(content, LEVELS)):
        raise UserError(_broken(path, name, "holds no JSON object"))
    return content


def _parsed(written: bytes) -> Any:
    """What JSON says; None for what is none, or nested deeper than the parser goes."""
    try:
        return json.loads(written)
    except (ValueError, RecursionError):  # ValueError: no JSON, no UTF-8, or a number of too many digits
        return None


def _broken(path: Path, name: str, problem: str, cure: str = "correct it") -> str:
    return f"{name} is broken: its {path.name} {problem}; {cure}, or name another model."
