"""Numbers, texts, tensors and their containers in one file that ends with its SHA-256, so that what is read is what was
written. Only data is read: such a file cannot run code."""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from ebft.config.stored import bytes_of
from ebft.output.files import atomic_file

DIGEST_BYTES = hashlib.sha256().digest_size


class DamagedError(ValueError):
    """The file does not end with its checksum."""


def write(path: Path, state: Any) -> None:
    """WriteFailure where the system refuses."""
    made = io.BytesIO()
    torch.save(state, made)
    with atomic_file(path) as file:
        file.write(made.getvalue() + hashlib.sha256(made.getvalue()).digest())


def read(path: Path) -> Any:
    """Raises DamagedError, and whatever `torch.load` raises for what somebody else has written with a checksum."""
    found = memoryview(bytes_of(path))
    if hashlib.sha256(found[:-DIGEST_BYTES]).digest() != found[-DIGEST_BYTES:]:
        raise DamagedError(f"{path} does not end with its checksum")
    return torch.load(io.BytesIO(found), map_location="cpu", weights_only=True)
