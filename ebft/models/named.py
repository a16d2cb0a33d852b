"""Models that have a name instead of a path: the one that ships with the package, and those of `make real`."""

from pathlib import Path

from ebft.config.schema import UserError
from ebft.output import cache

TINY = Path(__file__).parents[1] / "assets" / "tiny"
FETCHED = {"smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct", "gemma3_270m": "google/gemma-3-270m"}  # name -> hub id


def fetched_folder(name: str) -> Path | None:
    """Where scripts/fetch_real.py puts a model; None without a cache."""
    models = cache.folder("models")
    return None if models is None else models / name


def named_folder(path: str, key: str) -> Path | None:
    """The folder of a model's name; None for a path that is no name. Raises UserError for a model that was not
    fetched."""
    if path == "tiny":
        return TINY
    if path not in FETCHED:
        return None
    folder = fetched_folder(path)
    if folder is None or not folder.is_dir():
        raise UserError(
            f"{key}={path} is not on this machine; run make real NAME={path}, or set "
            f"{key}={FETCHED[path]} to load the published one from the hub."
        )
    return folder
