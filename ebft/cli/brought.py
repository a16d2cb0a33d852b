"""What a folder brings to a command: a run's configuration, a sweep's settings. The folder may be anybody's, so this is
data and never instructions.

Values enter a composition beside Hydra's grammar, through its config store, and an interpolation is text there. An
option of a group is chosen by a name of the package's own lists alone. Permissions and code are the caller's to type.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

from ebft.cli.keys import SELECTORS, all_keys, door_keys
from ebft.cli.own import BUILT_IN
from ebft.config.doors import is_door
from ebft.config.quoting import plain
from ebft.config.schema import UserError
from ebft.config.stored import read_config
from ebft.config.sweeps import SweepConfig

GROUP = "brought"  # of the config store
PERMISSIONS = ("model.trust_remote_code", "sandbox.allow_code_execution", "sandbox.require")
ADVICE = "name a run folder of ebft-train"
# Keys whose defaults depend on another: on the source, and on whether its rows are texts or pairs.
FOLLOWS = {
    "data.layout": {"data.text_column"},
    "data.loss_tokens": {"data.text_column"},
    "sampler.anchors": {"data", "data.text_column", "data.loss_tokens"},
}


@dataclass(frozen=True)
class Brought:
    """What the config of a run folder says of some groups, but for permissions."""

    path: Path
    choices: Mapping[str, Any]  # dotted group -> option, of groups whose keys depend on it
    values: Mapping[str, Any]  # dotted key -> value

    def overrides(self, arguments: Sequence[str]) -> list[str]:
        """Overrides with which Hydra composes it, to stand in front of the command line's `arguments`, which replace
        it. Raises UserError where what is left names code, or an option or a key that this version does not have."""
        choices, values = not_replaced(self.choices, arguments), not_replaced(self.values, arguments)
        _refuse_code(self.path, values)
        if unknown := sorted(values.keys() - all_keys().keys()):
            raise UserError(
                f"{self.path} has {unknown[0]}, which is no key of this version of ebft; {ADVICE} of this one."
            )
        return [*(_choice(self.path, group, option) for group, option in choices.items()), *in_store(values)]


def of_run(folder: Path, groups: Collection[str]) -> Brought:
    """What the config of a run folder says of those groups and keys. Raises UserError for a file that is no config."""
    path = folder / "config.yaml"
    content = read_config(path, ADVICE)
    found = {key: value for name in groups if name in content for key, value in _keys(path, name, content[name])}
    if not found.keys() >= {"model.path", "data.source"}:
        raise UserError(f"{path} is not a config of ebft; {ADVICE}.")
    selectors = {group: f"{group}.{key}" for group, (key, _) in SELECTORS.items()}
    choices = {group: found[key] for group, key in selectors.items() if key in found}
    return Brought(path, choices, {key: value for key, value in found.items() if key not in PERMISSIONS})


def of_sweep(path: Path, settings: Mapping[str, Any], arguments: Sequence[str]) -> list[str]:
    """Overrides that compose the settings in a sweep's manifest, to stand in front of the command line's `arguments`,
    which replace them. Raises UserError for what is no setting of this version's sweeps."""
    if unknown := sorted(settings.keys() - {key for key in all_keys(SweepConfig) if key.startswith("sweep.")}):
        raise UserError(f"{path} has {unknown[0]}, which is no setting of a sweep; run its ebft-sweep again.")
    return in_store(not_replaced(settings, arguments))


def _keys(path: Path, name: str, node: Any) -> Iterator[tuple[str, Any]]:
    """Every dotted key of a group, those of the groups inside it too, with its value."""
    if name in all_keys():
        yield name, node
        return
    if not isinstance(node, dict):
        raise UserError(f"{path} is not a config of ebft; {ADVICE}.")
    for key, value in node.items():
        dotted = f"{name}.{key}"
        yield from _keys(path, dotted, value) if dotted in SELECTORS else [(dotted, value)]


def _choice(path: Path, group: str, option: Any) -> str:
    """GROUP=OPTION, where the package has that option."""
    name, options = group.replace(".", "/"), BUILT_IN if group == "method" else SELECTORS[group][1]
    if not isinstance(option, str) or option not in options:
        raise UserError(
            f"{path} has {name}={option}, which is none of {', '.join(options)}; type {name}=OPTION yourself."
        )
    return f"{name}={option}"


def not_replaced(values: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """The dotted keys and groups that a command line does not replace: by the same one, by a choice of a group that it
    is in, or by what its default depends on."""
    names = {argument.split("=", 1)[0].lstrip("+~").replace("/", ".") for argument in arguments}

    def is_replaced(key: str) -> bool:
        parts = key.split(".")
        groups = {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
        return bool((groups | FOLLOWS.get(key, set())) & names)

    return {key: value for key, value in values.items() if not is_replaced(key)}


def _refuse_code(path: Path, values: Mapping[str, Any]) -> None:
    """Code runs for whoever types its name."""
    found = " ".join(f"{key}={values[key]}" for key in sorted(values.keys() & door_keys()) if is_door(values[key]))
    if found:
        raise UserError(f"{path} names code to run, {found}; if you trust it, say so by typing {found}.")


def in_store(values: Mapping[str, Any]) -> list[str]:
    """Puts values by dotted keys into Hydra's config store; returns the override that merges them into a
    composition."""
    mappings = {key: None for key, value in values.items() if isinstance(value, dict)}
    for name, part in (("mappings", mappings), ("values", values)):  # a mapping is merged with one, and replaces null
        ConfigStore.instance().store(name, _nested(part), group=GROUP, package="_global_")
    return [f"+{GROUP}=[mappings,values]"] if values else []


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key -> value as mappings inside one another, for OmegaConf."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *groups, last = key.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = plain(value)
    return tree
