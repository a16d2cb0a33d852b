"""From a GGUF file, the format of llama.cpp, to a folder in Hugging Face format, which all else reads."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ebft.config.schema import UserError
from ebft.output.cache import folder as cache_folder
from ebft.output.files import atomic_folder, exclusive_lock, sha256_of

NEEDS = ("gguf", "accelerate")  # what transformers reads such files with
BROKEN = (OSError, ValueError, KeyError, IndexError, NotImplementedError, RuntimeError, struct.error)
WHOLE = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # types of single numbers, not of blocks
CARD = """---
library_name: transformers
pipeline_tag: text-generation
---
# {title}

{about}

| | |
| --- | --- |
| parameters | {parameters:,} |
| converted from | `{file}`, SHA-256 `{digest}` |
| types of its tensors | {types} |
| weights here | {dtype} |
| tokens that begin and end texts | `{bos}` and `{eos}` |
| chat template | {chat} |

{loss}
"""
LOSS = """The weights went through blocks of a few bits a number ({packed}): they are near the published ones and not
the same. Say so wherever you report results."""
NO_LOSS = "No number was rounded."


def converted(file: Path, key: str) -> Path:
    """The folder in the cache that holds `file` in Hugging Face format, made where there is none yet. Raises UserError
    for a file that is not there or cannot be converted."""
    if not file.is_file():
        raise UserError(f"{key}={file} is not a file; correct the path.")
    folder = cache_folder("gguf")
    if folder is None:
        raise UserError(
            f"{key}={file} is kept in the folder that EBFT_CACHE names once it is converted; set EBFT_CACHE, which is "
            "empty."
        )
    found = file.stat()
    target = folder / _known_sha256(file, found.st_size, found.st_mtime_ns)
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(folder / f"{target.name}.lock"):  # of several processes one converts
        if not target.is_dir():
            with atomic_folder(target) as partial:
                convert(file, partial, f"{key}={file}", title=file.stem, about="Converted by ebft.")
    return target


def convert(file: Path, folder: Path, name: str, title: str, about: str, shard_size: str = "5GB") -> None:
    """Fills `folder` with the model and the tokenizer of `file`, and a card of `title` and `about`; errors call the
    file `name`.

    Weights are kept in the widest type of the file's numbers, and in bfloat16 where it packs them into blocks. Raises
    UserError for a file that is broken, or of a kind that transformers does not read.
    """
    missing = [package for package in NEEDS if find_spec(package) is None]
    if missing:
        raise UserError(f"{name} cannot be read without {' and '.join(missing)}; run pip install 'ebft[real]'.")
    with _naming_broken(name):
        types = _tensor_types(file)
        model, tokenizer = _load(file)
    packed = [kind for kind in types if kind not in WHOLE]
    dtype = torch.bfloat16 if packed else _matrix_type(types)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    tokenizer.save_pretrained(folder)
    card = CARD.format(
        title=title,
        about=about,
        parameters=model.num_parameters(),
        file=file.name,
        digest=sha256_of(file),
        types=", ".join(types),
        dtype=str(dtype).removeprefix("torch."),
        bos=tokenizer.bos_token,
        eos=tokenizer.eos_token,
        chat="none" if tokenizer.chat_template is None else "`chat_template.jinja`",
        loss=LOSS.format(packed=", ".join(packed)) if packed else NO_LOSS,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


@cache
def _known_sha256(file: Path, size: int, changed: int) -> str:
    """A start asks for the same file several times."""
    return sha256_of(file)


@contextmanager
def _naming_broken(name: str) -> Iterator[None]:
    """Turns what the readers raise for a file that is no whole GGUF, or of an architecture they do not know, into a
    UserError."""
    try:
        yield
    except BROKEN as error:
        problem = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
        raise UserError(
            f"{name} is no GGUF file that transformers reads ({problem}); download it again, or name a folder in "
            "Hugging Face format."
        ) from error


def _tensor_types(file: Path) -> list[str]:
    """Such as F32 and Q4_K. Raises ValueError for a file that ends before its last tensor does."""
    from gguf import GGUFReader

    return sorted({tensor.tensor_type.name for tensor in GGUFReader(file).tensors})


def _matrix_type(types: list[str]) -> torch.dtype:
    """Vectors are in F32 whatever the matrices are in."""
    narrow = [kind for kind in types if kind != "F32"]
    return WHOLE[narrow[0]] if len(narrow) == 1 else torch.float32


def _load(file: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in float32, without a trace of how it was packed, and its tokenizer."""
    with TemporaryDirectory() as alone:
        (Path(alone) / file.name).symlink_to(file.resolve())  # what lies beside the file is not of this model
        tokenizer = AutoTokenizer.from_pretrained(alone, gguf_file=file.name)
        model, report = AutoModelForCausalLM.from_pretrained(
            alone, gguf_file=file.name, dtype=torch.float32, output_loading_info=True
        )
    if report["missing_keys"]:  # transformers leaves them at random values
        raise ValueError(f"it lacks {len(report['missing_keys'])} weights, such as {min(report['missing_keys'])}")
    vars(model.config).pop("quantization_config", None)  # or what is saved would be read as packed again
    model.is_quantized, model.hf_quantizer = False, None
    tokenizer.model_max_length = model.config.max_position_embeddings
    return model, tokenizer
