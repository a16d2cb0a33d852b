"""A text is read as YAML, and a choice of our own files found and merged, once in a test process: what Hydra composes
comes from the same hundred files, thousands of times."""

import pickle
from collections.abc import Sequence
from functools import cache
from io import StringIO
from pathlib import Path
from typing import IO, Any

from hydra._internal import config_loader_impl, defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.defaults_list import DefaultsList, Overrides, create_defaults_list
from hydra.core.default_element import InputDefault, ResultDefault
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

OURS = {"pkg://ebft.conf", "pkg://hydra.conf", "structured://"}  # which no test changes
BROUGHT = '"brought/'  # nor the store, but for what a folder brings along
load = OmegaConf.load
choices_by_name = defaults_list._create_interpolation_map
merge_files = ConfigLoaderImpl._compose_config_from_defaults_list
_made: dict[object, bytes] = {}


def install() -> None:
    OmegaConf.load = staticmethod(load_once)  # type: ignore[method-assign]
    config_loader_impl.create_defaults_list = list_once  # type: ignore[assignment]
    defaults_list._create_interpolation_map = choices_where_named  # type: ignore[assignment]
    ConfigLoaderImpl._compose_config_from_defaults_list = merge_once  # type: ignore[method-assign]


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


def list_once(
    repo: IConfigRepository, config_name: str | None, overrides_list: Sequence[Override], **how: bool
) -> DefaultsList:
    """A copy of the list of files that the choices among the overrides lead to, with the values beside them."""
    if not is_ours(repo):
        return create_defaults_list(repo, config_name, list(overrides_list), **how)
    values = Overrides(repo, list(overrides_list)).config_overrides
    choices = [override for override in overrides_list if not any(override is value for value in values)]
    key = (config_name, *how.items(), *(override.input_line for override in choices))
    if key not in _made:
        _made[key] = pickle.dumps(create_defaults_list(repo, config_name, choices, **how))
    made: DefaultsList = pickle.loads(_made[key])
    made.config_overrides = values
    return made


def choices_where_named(overrides: Overrides, defaults: list[InputDefault], self_added: bool) -> DictConfig:
    """The choices that entries of a list may name, made only where one does: a quarter of what composing took."""
    if any(default.is_interpolation() for default in defaults):
        return choices_by_name(overrides, defaults, self_added)
    return OmegaConf.create()


def merge_once(self: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
    """A copy of what a list of files becomes before any value is set."""
    key = repr(defaults)
    if not is_ours(repo) or BROUGHT in key:
        return merge_files(self, defaults, repo)
    if key not in _made:
        _made[key] = pickle.dumps(merge_files(self, defaults, repo))
    merged: DictConfig = pickle.loads(_made[key])
    return merged


def is_ours(repo: IConfigRepository) -> bool:
    """Whether no folder of a user's own is searched."""
    return {f"{source.scheme()}://{source.path}" for source in repo.get_sources()} == OURS
