"""Going on with a run by its folder alone: `ebft-train resume=RUN_FOLDER`, or `--config-path RUN_FOLDER --config-name
config`, and the command that a run which was stopped names for it.

The folder brings its configuration along as data (`brought.py`), and what stands on the command line wins; whether the
run may go on like that is for the run to say (`Run.check`).
"""

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

from ebft.cli.brought import PERMISSIONS, of_run
from ebft.cli.overrides import value_of
from ebft.cli.own import BUILT_IN, SEARCHPATH, beside_overrides
from ebft.cli.refusals import as_user_error
from ebft.config import doors
from ebft.config.identity import flat, resolved
from ebft.config.quoting import in_quotes, literal
from ebft.config.schema import TrainConfig, UserError
from ebft.config.stored import read_config
from ebft.parallel.launched import num_processes

FLAGS = {"--config-path": "path", "-cp": "path", "--config-name": "name", "-cn": "name"}
RUN_DIR = "hydra.run.dir"
# Where figures are sent is the caller's to say, like the permissions.
TAKEN = tuple(item.name for item in fields(TrainConfig) if item.name not in ("resume", "plan_only", "tracker"))


def with_run(arguments: Sequence[str]) -> list[str]:
    """The command line with the configuration of the run folder that it goes on with in front, if it names one. Raises
    UserError for one that cannot be read, or that names code."""
    run, arguments = _named(list(arguments))
    if run is None:
        return arguments
    _refuse_tracker(run, arguments)
    new = of_run(run, TAKEN).overrides(arguments)
    if not any(argument.startswith(f"{RUN_DIR}=") for argument in arguments):
        new.append(f"{RUN_DIR}={in_quotes(os.path.abspath(run))}")
    return beside_overrides(arguments, new)


def _named(arguments: list[str]) -> tuple[Path | None, list[str]]:
    """The run folder, and the command line without what named it."""
    flags, rest = _without_flags(arguments)
    if "path" in flags:
        run, name = Path(flags["path"]), flags.get("name", "train")
        if name.removesuffix(".yaml") != "config" or not _is_run(run):
            raise UserError(
                f"--config-path={run} --config-name={name} is no run's configuration; name a run folder, with "
                "--config-name=config (configurations of your own are found with --config-dir)."
            )
        return run, rest
    named = next((argument for argument in reversed(arguments) if argument.startswith("resume=")), "resume=")
    with as_user_error([named]):
        run = Path(str(value_of(named)))  # of several values, no folder
    if named == "resume=" or not _is_run(run) or any(argument.startswith(f"{RUN_DIR}=") for argument in arguments):
        return None, arguments
    return run, [argument for argument in arguments if not argument.startswith("resume=")]


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and not (folder / "evaluate.log").exists()


def _without_flags(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """What --config-path and --config-name say, and the command line without both."""
    found, rest = {}, []
    given = iter(arguments)
    for argument in given:
        flag, equals, value = argument.partition("=")
        if flag in FLAGS:
            found[FLAGS[flag]] = value if equals else next(given, "")
        else:
            rest.append(argument)
    return found, rest


def _refuse_tracker(run: Path, arguments: Sequence[str]) -> None:
    tracker = read_config(run / "config.yaml", "name a run folder of ebft-train").get("tracker", {})
    is_typed = any(argument.startswith(("tracker=", "tracker.")) for argument in arguments)
    if isinstance(tracker, dict) and tracker.get("name", "none") != "none" and not is_typed:
        raise UserError(
            f"{run} sends its figures away; say so by typing {' '.join(_tracker(tracker))}, or tracker=none."
        )


def _tracker(settings: dict[str, object]) -> Iterator[str]:
    """Overrides for a tracker's settings."""
    for key, value in settings.items():
        if key == "name":
            yield f"tracker={value}"
        elif value not in (None, []):
            yield f"tracker.{key}={_word(value)}"


def _word(value: object) -> str:
    """A value as one types it: a text needs quotes where it has a comma."""
    return value if isinstance(value, str) and "," not in value else literal(value)


def command(config: TrainConfig, run_dir: Path, typed: Sequence[str]) -> str:
    """The command that goes on with a run; `typed` are the overrides of its command line. With the folder come what is
    the caller's to say: permissions, code of their own, where figures are sent."""
    settings, default = flat(resolved(config)), {"sandbox.require": "landlock"}
    words = [f"resume={_word(_short(run_dir))}"]
    words += [f"{key}={_word(settings[key])}" for key in PERMISSIONS if settings[key] != default.get(key, False)]
    words += [f"{key}={reference}" for key, reference in doors.doors(config).items() if key != "method.code"]
    if config.tracker.name != "none":
        words += _tracker(resolved(config)["tracker"])
    if config.method.name not in BUILT_IN:
        words += [word for word in typed if word.startswith((f"{SEARCHPATH}=", "method=", "method."))]
    if num_processes(os.environ) > 1:
        return f"To go on, start its processes as before, with {shlex.join(words)}"
    return f"To go on: {shlex.join(['ebft-train', *words])}"


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
