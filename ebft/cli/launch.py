"""What happens between composing and the first job: every configuration is checked before Hydra makes a folder."""

import itertools
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ebft.cli.compose import to_config
from ebft.cli.grid import cells
from ebft.cli.refusals import as_user_error, one_sentence
from ebft.config.schema import UserError
from ebft.output.files import check_name, refuse_links
from ebft.parallel.launched import num_processes

NOTE = "multirun.yaml"  # Hydra's, of what it is about to do
_created: list[Path] = []  # folders that did not exist before this launch, innermost first


class CheckFirst(Callback):
    """Hydra swallows a callback's exceptions, so a refusal leaves as SystemExit."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with one_sentence(), as_user_error(_overrides(config)):
            to_config(config)
            named: Any = OmegaConf.to_container(config.hydra.run, resolve=False)
            if "${now:" in named["dir"]:
                config.hydra.run.dir = str(_make_unused(Path(config.hydra.run.dir)))
            else:
                _make(Path(config.hydra.run.dir), "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """The whole grid is checked before its first job."""
        with one_sentence():
            if num_processes(os.environ) > 1:
                raise UserError(
                    "--multirun starts one run after another, and torchrun or srun its processes once; use "
                    "trainer.processes=N instead."
                )
        loader, grid = GlobalHydra.instance().config_loader(), _overrides(config)
        with one_sentence(), as_user_error(grid):
            for cell in cells(grid):
                to_config(loader.load_sweep_config(config, cell))
            refuse_links([Path(config.hydra.sweep.dir) / NOTE])
            _make(Path(config.hydra.sweep.dir), "hydra.sweep.dir")
            _unmake()  # Hydra makes it, maybe a second later and by another name

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra's note of a grid holds the command line with its secrets, and nobody needs it: each run has its own
        config.yaml."""
        if config.hydra.mode is RunMode.MULTIRUN:
            (Path(config.hydra.sweep.dir) / NOTE).unlink(missing_ok=True)


def _overrides(config: DictConfig) -> list[str]:
    overrides: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    return overrides


def _make_unused(folder: Path) -> Path:
    """A folder of that name, or with a number behind it where one is there: a name made of the time is that of all runs
    of the same second."""
    _make(folder.parent, "hydra.run.dir")
    for number in itertools.count(2):
        with suppress(FileExistsError):
            folder.mkdir()
            _created.insert(0, folder.absolute())
            break
        folder = folder.with_name(f"{folder.name.removesuffix(f'-{number - 1}')}-{number}")
    return folder


def _make(folder: Path, key: str) -> None:
    """The folder, before Hydra makes it. Raises UserError."""
    check_name(folder, key)
    folder = folder.absolute()
    try:
        _created[:] = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _unmake()
        raise UserError(f"{key}={folder} cannot be made ({error.strerror}); choose another folder.") from error


def _unmake() -> None:
    for folder in _created:
        with suppress(OSError):  # those that were not made
            folder.rmdir()


def remove_created_folders() -> None:
    """Undo a launch that was refused before it wrote anything: the folders that it made go, unless something lies in
    them."""
    hydra = HydraConfig.get()
    jobs_own = [Path(hydra.runtime.output_dir)] if hydra.mode is RunMode.MULTIRUN else []
    for folder in jobs_own + _created:
        entries = list(folder.iterdir()) if folder.is_dir() else [folder]
        if entries == [folder / NOTE]:
            entries.pop().unlink()
        if not entries:
            folder.rmdir()
