"""Shell completion and `--cfg` of `ebft-sweep`, which is no main of Hydra's: some of its keys are its own, all others
those of its runs."""

import os
import sys
from collections.abc import Sequence

import hydra
from omegaconf import OmegaConf

from ebft.cli.refusals import check_flags
from ebft.config.schema import UserError
from ebft.config.sweeps import SweepConfig

FLAGS = ("-sc", "--shell-completion")


def complete(arguments: Sequence[str], own: Sequence[str]) -> None:
    """What Hydra says to `-sc install=SHELL`, and to `-sc query=SHELL`, by which a shell asks for continuations: of a
    word that begins one of the keys `own` in the sweep's configuration, of any word in that of its runs. Raises
    UserError."""
    check_flags("ebft-sweep", list(arguments))
    group = os.environ.get("COMP_LINE", "").rpartition(" ")[2].partition("=")[0].partition(".")[0]
    whose = [name for name in own if name == group] or ["train"]
    also_own = [name for name in own if name.startswith(group) and name != group and _is_query(arguments)]
    for config in dict.fromkeys("sweep" if name in own else "train" for name in [*whose, *also_own]):
        sys.argv = ["ebft-sweep", *arguments]
        hydra.main(version_base="1.3", config_path="pkg://ebft.conf", config_name=config)(_nothing)()


def show(arguments: Sequence[str], config: SweepConfig, runs: Sequence[str]) -> None:
    """Prints every key of the sweep with its value, for `--cfg job`, and the overrides of its runs. Raises UserError
    for another `--cfg`."""
    if list(arguments) != ["--cfg", "job"]:
        raise UserError(f"{' '.join(arguments)} is no option of ebft-sweep; it has --cfg job.")
    print(OmegaConf.to_yaml(OmegaConf.structured(config)), end="")
    if runs:
        print(f"# of the runs: {' '.join(runs)}")


def _is_query(arguments: Sequence[str]) -> bool:
    return any(argument.startswith("query=") for argument in arguments)


def _nothing(cfg: object) -> None:
    """Hydra answers before it would call this."""
