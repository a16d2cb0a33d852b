"""What libraries throw over the files of a model, which may be anybody's, as one sentence."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from ebft.config.schema import UserError


@contextmanager
def reading(failure: str, file: str) -> Iterator[None]:
    """Whatever a library throws over the files of a model is a UserError: `failure`, what the library says, and that
    `file` is to be corrected."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a KeyError, a ZeroDivisionError, an ImportError: libraries trust these files
        raise UserError(f"{failure}: {_reason(error).rstrip('.: ')}; {_cure(error, file)}.") from error


def check_pickles(weights: Iterable[Path], name: str) -> None:
    """Raises UserError for files of torch.save that hold more than tensors, or are none."""
    for path in weights:
        if path.suffix == ".bin":
            with reading(f"{name} holds no weights that can be loaded", path.name), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of formats of old
                torch.load(path, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(path))


def _cure(error: Exception, file: str) -> str:
    if "trust_remote_code" in str(error):
        return "if you trust that, say so by typing model.trust_remote_code=true"
    if isinstance(error, pickle.UnpicklingError):
        return "name a model with safetensors"
    return f"correct its {file}, or name another model"


def _reason(error: Exception) -> str:
    """What an exception of a library says, in one line."""
    if "trust_remote_code" in str(error):
        return "it brings code of its own"
    if isinstance(error, pickle.UnpicklingError):
        return "they hold more than tensors, which could be code"
    lines = str(error).strip().splitlines()
    if isinstance(error, StrictDataclassError):
        return re.sub(r"^\w+Error: ", "", lines[-1].strip())
    says_enough = isinstance(error, OSError | ValueError | RuntimeError | ImportError | SafetensorError) and lines
    return lines[0] if says_enough else ": ".join([type(error).__name__, *lines[:1]])
