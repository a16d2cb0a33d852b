"""A text is read as YAML once in a test process: what Hydra composes comes from the same hundred files, thousands of
times."""

import pickle
from functools import cache
from io import StringIO
from pathlib import Path
from typing import IO, Any

from omegaconf import OmegaConf
from yaml import YAMLError

load = OmegaConf.load


def install() -> None:
    OmegaConf.load = staticmethod(load_once)  # type: ignore[method-assign]


def load_once(file: str | Path | IO[Any]) -> Any:
    """A copy of what the text of an open file holds; others are read as ever, and so is what is no YAML, whose error
    names the file."""
    if isinstance(file, str | Path) or not isinstance(text := file.read(), str):
        return load(file)
    try:
        return pickle.loads(pickled(text))
    except YAMLError:
        file.seek(0)
        return load(file)


@cache
def pickled(text: str) -> bytes:
    return pickle.dumps(load(StringIO(text)))
