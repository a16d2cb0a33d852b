"""What Hydra may call while it starts: the package's own callback, launchers and sweepers that are plug-ins of Hydra,
and Python's logging. A YAML file that names anything else to call is refused, wherever it was found."""

from collections.abc import Iterator
from typing import Any

import hydra._internal.hydra as hydra_itself
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf

from ebft.config.schema import UserError

CALLBACK = "ebft.cli.launch.CheckFirst"
PLUGINS = {"launcher._target_", "sweeper._target_"}
PLUGIN_PACKAGES = ("hydra._internal.core_plugins.", "hydra_plugins.")
LOGGING = {"hydra_logging", "job_logging"}
FORMATTERS = {"colorlog.ColoredFormatter"}  # of hydra/job_logging=colorlog
STREAMS = {"ext://sys.stdout", "ext://sys.stderr"}


class OwnTargets(ConfigLoaderImpl):
    """Hydra's loader of configurations. Raises UserError for one in which the node `hydra` names something to call that
    is not listed above."""

    def load_configuration(self, *arguments: Any, **options: Any) -> DictConfig:
        config = super().load_configuration(*arguments, **options)
        for key, value in _leaves(OmegaConf.to_container(config.hydra, resolve=False)):
            if not _may_stand(key, value):
                raise UserError(
                    f"hydra.{key}={value} would call code that is not ebft's own; leave it out (your own code has keys "
                    "of its own, see docs/own.md)."
                )
        return config


def restrict() -> None:
    """Makes programs in this process that Hydra starts load their configurations by `OwnTargets`."""
    hydra_itself.ConfigLoaderImpl = OwnTargets  # type: ignore[misc]


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in a container."""
    entries = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in entries:
        if isinstance(value, dict | list):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _may_stand(key: str, value: Any) -> bool:
    group, name = key.partition(".")[0], key.rpartition(".")[2]
    if name == "_target_":
        return str(value).startswith(PLUGIN_PACKAGES) if key in PLUGINS else value == CALLBACK
    if group not in LOGGING:
        return True
    if name == "()":
        return value in FORMATTERS
    if name == "class":
        return str(value).startswith("logging.")
    return not str(value).startswith(("ext://", "cfg://")) or value in STREAMS
