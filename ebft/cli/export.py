"""`ebft-export`: a finished run's model on its way out, to the hub or into a GGUF file.

Nothing is sent before it has been said: `hub=NAME` tells what would be pushed, `dry_run=false` pushes it.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from ebft.cli.keys import nearest
from ebft.cli.refusals import one_sentence
from ebft.config.schema import RunFailure, UserError
from ebft.config.stored import read_config, text_of
from ebft.output.files import check_name
from ebft.output.streams import end_if_cut, outlive_console
from ebft.output.visible import visible

CONFIG = "config.yaml"  # of a run folder, goes along under a name that no model's has
CONFIG_THERE = "training_config.yaml"
NO_NAME = "hub={} is no name of a repository; write user/model."
FOLDERS = {"last": "model", "best": "best_model"}
HELP = """\
ebft-export RUN [hub=NAME] [gguf=FILE] [KEY=VALUE ...]

Says what the model of a finished run is, what it weighs and where its card lies, and takes it further.

RUN               a run folder of ebft-train
hub=NAME          says what would be pushed to the hub's repository NAME, as user/model; pushes nothing yet
dry_run=false     pushes it, by huggingface_hub with your own token (hf auth login, or HF_TOKEN)
private=false     makes a new repository public
gguf=FILE         writes a GGUF file, for llama.cpp
which=best        best_model/, which trainer.keep_best keeps, in place of the last step's model/

Examples:
  ebft-export outputs/sft
  ebft-export outputs/sft hub=me/my-model
  ebft-export outputs/sft gguf=my-model.gguf

Exit codes: 0 done, 1 the hub or the disk refused, 2 a mistake on the command line."""


@dataclass(frozen=True)
class Export:
    """What a command line asks for."""

    run: Path
    hub: str | None = None
    gguf: str | None = None
    which: str = "last"
    dry_run: str = "true"
    private: str = "true"


CHOICES = {"which": tuple(FOLDERS), "dry_run": ("true", "false"), "private": ("true", "false")}


def main() -> None:
    outlive_console()
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(HELP)
        end_if_cut()
        return
    try:
        with one_sentence():
            wanted = asked(sys.argv[1:])
            export(wanted)
            if wanted.gguf is None and wanted.dry_run == "true":
                end_if_cut()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)


def asked(arguments: Sequence[str]) -> Export:
    """Raises UserError for what is no key of the command, and where no run is named."""
    runs = [argument for argument in arguments if "=" not in argument and not argument.startswith("-")]
    if len(runs) != 1:
        raise UserError("ebft-export takes one run folder, as in ebft-export outputs/mine hub=NAME.")
    known = [item.name for item in fields(Export)][1:]
    given: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument == runs[0]:
            continue
        if not equals or key not in known:
            close = nearest(key, known)
            hint = f"did you mean {close}?" if close else f"there are {', '.join(known)}."
            raise UserError(f"{key} is not a key of ebft-export; {hint}")
        if value not in CHOICES.get(key, (value,)):
            raise UserError(f"{argument} is not one of {', '.join(CHOICES[key])}.")
        given[key] = value
    return Export(Path(runs[0]), **given)


def export(wanted: Export) -> None:
    """Raises UserError for a folder that holds no finished run, or a model that cannot be written as asked, and
    RunFailure where the hub refuses."""
    folder = wanted.run / FOLDERS[wanted.which]
    cure = "name a run that trainer.keep_best kept one of" if wanted.which == "best" else "name a finished run"
    if not (wanted.run / CONFIG).is_file() or not (folder / "config.json").is_file():
        raise UserError(f"{wanted.run} has no {folder.name}/ of ebft-train; {cure}.")
    read_config(wanted.run / CONFIG, cure)
    files = _files(folder)
    if wanted.gguf is not None:
        _check_free(Path(wanted.gguf))
    if wanted.hub is not None:
        _check_name(wanted.hub)
    card = folder / "README.md"
    size = sum(path.stat().st_size for path in files) / 1e6
    say(f"{folder}: {', '.join(path.name for path in files)}; {size:.1f} MB")
    if card in files:
        say(f"{card}, its card: {_first_paragraph(card)}")
    if wanted.hub is None and wanted.gguf is None:
        say("Add hub=USER/MODEL to see what would be pushed to the hub, or gguf=FILE to write a file for llama.cpp.")
    if wanted.gguf is not None:
        from transformers.utils.logging import disable_progress_bar

        from ebft.models import to_gguf

        disable_progress_bar()
        to_gguf.write(folder, Path(wanted.gguf))
        say(f"{wanted.gguf}: {Path(wanted.gguf).stat().st_size / 1e6:.1f} MB, for llama.cpp")
    if wanted.hub is not None:
        _push(wanted, folder, wanted.hub)


def _first_paragraph(card: Path) -> str:
    """Of what stands behind the header, in one line."""
    text = text_of(card, errors="replace").partition("---\n")[2].partition("---\n")[2]
    return " ".join(text.strip().partition("\n\n")[0].split())


def _files(folder: Path) -> list[Path]:
    """What would go out. Raises UserError for anything but files of the folder's own: a link in a folder of somebody
    else's may lead to a file of the user's."""
    entries = sorted(folder.iterdir())
    for entry in entries:
        if entry.is_symlink() or not entry.is_file():
            raise UserError(f"{entry} is no file of its own, and nothing else goes out; remove it.")
    return entries


def _check_free(file: Path) -> None:
    check_name(file, "gguf")
    if file.exists() or file.is_symlink():
        raise UserError(f"gguf={file} is there already; remove it, or choose another name.")
    if not file.absolute().parent.is_dir():
        raise UserError(f"gguf={file} lies in no folder; make {file.parent}, or choose another name.")


def _check_name(name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(NO_NAME.format(name)) from error


def _push(wanted: Export, folder: Path, name: str) -> None:
    whose = "private" if wanted.private == "true" else "public"
    if wanted.dry_run == "true":
        say(
            f"hub={name}: would push these files and {CONFIG_THERE}, {whose} where the repository is new; nothing was "
            "sent. Add dry_run=false to push."
        )
        return
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(name, private=wanted.private == "true", exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder)
        api.upload_file(repo_id=name, path_or_fileobj=wanted.run / CONFIG, path_in_repo=CONFIG_THERE)
    except HFValidationError as error:
        raise UserError(NO_NAME.format(name)) from error
    except LocalTokenNotFoundError as error:
        raise UserError(f"hub={name} needs your token; run hf auth login, or set HF_TOKEN.") from error
    except (HfHubHTTPError, OSError) as error:
        raise RunFailure(f"hub={name} was not pushed ({str(error).strip().splitlines()[0]}).") from error
    say(f"Pushed to {name}.")


def say(text: str) -> None:
    """To the terminal; a card may be anybody's."""
    print(visible(text), flush=True)


if __name__ == "__main__":
    main()
