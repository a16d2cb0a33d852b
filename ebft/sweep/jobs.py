"""The runs of a sweep, and what `sweep.json` keeps of them."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ebft.config.identity import CHANGEABLE_KEYS, LENGTH_KEYS, flat, resolved
from ebft.config.schema import TrainConfig, UserError
from ebft.config.stored import is_plain, text_of
from ebft.output import files
from ebft.output.masking import masked, without_credentials, without_secrets

MANIFEST = "sweep.json"
WRITTEN = (
    MANIFEST,
    "sweep.log",
    "runs",
    "records",
    "locks",
    "logs",
    "slurm",
    "plots",
    "wandb",
    "tensorboard",
    ".comparison.lock",
)
ID_DIGITS, MOST_NAME_BYTES = 12, 200  # bytes: with .json behind it a file's name still
# off, they change no run's name, so that a sweep goes on in a folder of an older version
YOUNG = ("trainer.keep_best", "trainer.stop_after")


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    name: str  # of its folder below runs/: method, data and a hash of its resolved config
    variant: str  # the name of its grid, empty where there is one grid only
    keys: Mapping[str, str]  # its values on the sweep's axes
    seed: int
    overrides: tuple[str, ...]  # of ebft-train
    needs: str | None = None  # the run that must be done before, because this one starts from its model
    trial: int | None = None  # of a search
    # its flat config; model.path=run:JOB for another's model
    settings: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    config: TrainConfig | None = field(default=None, compare=False, repr=False)  # not kept in sweep.json


def folder(directory: Path, name: str) -> Path:
    """The run folder of a job."""
    return directory / "runs" / name


def settings_of(config: TrainConfig, model: str) -> dict[str, Any]:
    """The flat config, without secrets. `model` stands for model.path, which may lie in the sweep's own folder."""
    return flat(without_secrets(resolved(config))) | {"model.path": without_credentials(model)}


def name_of(settings: Mapping[str, Any]) -> str:
    """`method-data-HASH`: equal for configs that compute the same."""
    computing = [key for key in CHANGEABLE_KEYS if key not in LENGTH_KEYS]
    kept = {
        key: value
        for key, value in settings.items()
        if not any(key == left or key.startswith(f"{left}.") for left in computing)
        and not (key in YOUNG and value is None)
    }
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    return f"{settings['method.name']}-{settings['data.source']}-{digest[:ID_DIGITS]}"


@dataclass(frozen=True)
class Manifest:
    """What a sweep's folder keeps of its plan."""

    settings: Mapping[str, Any]  # dotted key -> value of the sweep's own, which mode=collect takes up again
    search: tuple[str, ...]  # the axes and the rest of a grid that is searched, empty where every run of it is planned
    jobs: tuple[Job, ...]


def write_manifest(directory: Path, manifest: Manifest) -> None:
    runs = [
        {key: value for key, value in vars(job).items() if key != "config"}
        | {"overrides": [*map(masked, job.overrides)]}
        for job in manifest.jobs
    ]
    content = {"settings": dict(manifest.settings), "search": manifest.search, "runs": runs}
    files.atomic_write_text(directory / MANIFEST, json.dumps(content, indent=1) + "\n")


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest of a sweep's folder; None where it holds no sweep. Raises UserError for a file that is not one of
    this version's, or that may not be read."""
    path = directory / MANIFEST
    try:
        content = json.loads(text_of(path))
        return _manifest(content)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); choose another sweep.dir.") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not a manifest of this version of ebft-sweep; choose another sweep.dir.") from error


def _manifest(content: Any) -> Manifest:
    """Raises ValueError, TypeError, KeyError or AttributeError for what is none: names of runs become paths, so that
    they must be names."""
    settings, search, jobs = {**content["settings"]}, _texts(content["search"]), tuple(map(_job, content["runs"]))
    if not is_plain(content):
        raise ValueError("nested too deep")
    return Manifest(settings, search, jobs)


def _job(run: Any) -> Job:
    _texts([run["variant"], *run["keys"], *run["keys"].values()])
    numbers = [run["seed"], *([] if run.get("trial") is None else [run["trial"]])]
    for name in _texts([run["name"], *([] if run.get("needs") is None else [run["needs"]])]):
        if not re.fullmatch(r"\w[\w.-]*", name) or len(name.encode()) > MOST_NAME_BYTES:
            raise ValueError(f"{name!r} is no name of a run")
    if not all(isinstance(number, int) for number in numbers) or not isinstance(run.get("settings", {}), dict):
        raise TypeError("not numbers")
    return Job(**(run | {"overrides": _texts(run["overrides"])}))


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError("not texts")
    return tuple(values)


def check_folder(directory: Path, jobs: Sequence[Job], search: Sequence[str] = ()) -> Manifest | None:
    """The manifest of this sweep, perhaps with fewer runs, or None for a new folder. UserError for one that holds
    something else."""
    files.check_name(directory, "sweep.dir")
    files.refuse_links(directory / name for name in WRITTEN)
    stored = read_manifest(directory)
    if directory.exists() and not directory.is_dir():
        raise UserError(f"sweep.dir={directory} is a file; choose another sweep.dir.")
    if stored is None:
        if directory.exists() and any(not entry.name.startswith(".") for entry in directory.iterdir()):
            raise UserError(f"sweep.dir={directory} holds files but no sweep; choose an empty or a new sweep.dir.")
        return None
    if stored.search != tuple(search):
        raise UserError(
            f"sweep.dir={directory} holds another sweep ({' '.join(stored.search) or 'a grid'} there); choose another "
            "sweep.dir."
        )
    planned = {job.name for job in jobs}
    if not search and (others := [job for job in stored.jobs if job.name not in planned]):
        raise UserError(
            f"sweep.dir={directory} holds another sweep: {len(others)} of its {len(stored.jobs)} runs are not in this "
            "one, such as "
            f"{' '.join(others[0].overrides)}; choose another sweep.dir."
        )
    return stored
