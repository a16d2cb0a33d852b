"""Shell completion and `--cfg` of `ebft-sweep`, which is no main of Hydra's: some of its keys are its own, all others
those of its runs."""

import os
import re
import sys
from collections.abc import Sequence

import hydra
from omegaconf import OmegaConf

from ebft.cli.refusals import check_flags
from ebft.config.schema import UserError
from ebft.config.sweeps import SweepConfig

FLAGS = ("-sc", "--shell-completion")


def complete(arguments: Sequence[str], own: Sequence[str]) -> None:
    """What Hydra says to `-sc install=SHELL`, and to `-sc query=SHELL`, by which a shell asks how the last word of
    COMP_LINE may go on: in the sweep's configuration where it begins a key of `own`, and in that of its runs where it
    is none of those. Raises UserError."""
    check_flags("ebft-sweep", list(arguments))
    program, *words = os.environ.get("COMP_LINE", "ebft-sweep ").split(" ")
    last = words.pop() if words else ""
    is_query = any(argument.startswith("query=") for argument in arguments)
    group = re.split("[.=]", last)[0]
    configs = ["train"] if group not in own else []
    if is_query and any(name.startswith(group) for name in own):
        configs.append("sweep")
    for config in configs:
        before = [word for word in words if (re.split("[.=]", word)[0] in own) == (config == "sweep")]
        os.environ["COMP_LINE"] = " ".join([program, *before, last])
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


def _nothing(cfg: object) -> None:
    """Hydra answers before it would call this."""
