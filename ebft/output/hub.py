"""The Hugging Face hub, asked once with short patience before a library asks it: that tries for half a minute what is
not there."""

import os
import sys
from pathlib import Path
from typing import Literal

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of what it speaks HTTP with: httpx or, in newer versions, httpx2
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ebft.config.schema import UserError

PATIENCE_SECONDS = 5.0
FILES = {"model": "config.json", "dataset": "README.md"}  # that nearly every one has


def check_on_hub(path: str, revision: str | None, key: str, kind: Literal["model", "dataset"]) -> None:
    """Raises UserError where the hub has nothing of that name for the caller, and where it cannot be reached for what
    this machine has no copy of. Whatever else the hub says is for the library that loads."""
    if Path(path).exists() or (is_offline_mode() and kind == "dataset"):  # of which `datasets` may have a copy
        return
    try:
        copy = try_to_load_from_cache(path, FILES[kind], revision=revision, repo_type=kind)
        if is_offline_mode():
            if not isinstance(copy, str):
                raise UserError(
                    f"{key}={path} is no file or folder here, this machine has no copy of it, and the hub may not be "
                    "asked (HF_HUB_OFFLINE) or could not be reached; correct it, unset HF_HUB_OFFLINE, or see to the "
                    "network."
                )
            return
        url = hf_hub_url(path, FILES[kind], repo_type=kind, revision=revision)
        if isinstance(copy, str):
            _stay_offline_without(url)
            return
        get_hf_file_metadata(url, timeout=PATIENCE_SECONDS)
    except GatedRepoError as error:
        raise UserError(f"{key}={path} is for those who have asked for it on the hub; ask, and log in here.") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{key}={path} is no file or folder here, and no {kind} of the hub that you may read; correct it, or log "
            "in."
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{key}={path} has no revision {revision} on the hub; correct it.") from error
    except HFValidationError as error:
        raise UserError(f"{key}={path} is no file or folder here, and no name on the hub; correct it.") from error
    except (EntryNotFoundError, HfHubHTTPError):
        return
    except (HTTPError, OSError) as error:  # a network that is not there
        raise UserError(
            f"{key}={path} is no file or folder here, and the hub cannot be reached ({error}); correct it, or see to "
            "the network."
        ) from error


def _stay_offline_without(url: str) -> None:
    """Makes libraries use the copies of this machine where the hub does not answer: they ask for every file of a model
    that is here six times, 20 s each."""
    try:
        get_hf_file_metadata(url, timeout=PATIENCE_SECONDS)
    except HfHubHTTPError:  # which is an answer
        return
    except (HTTPError, OSError):
        print("The hub cannot be reached; what this machine has of it is used.", file=sys.stderr)
        os.environ["HF_HUB_OFFLINE"] = "1"  # for libraries that are imported later, and for other processes
        constants.HF_HUB_OFFLINE = True


def check_data_set(path: str, revision: str | None) -> None:
    """As `check_on_hub` for data.path, of which `datasets` may have copies of its own."""
    copies = Path(os.environ.get("HF_DATASETS_CACHE", Path(constants.HF_HOME) / "datasets"))
    if not (copies / path.replace("/", "___")).is_dir():
        check_on_hub(path, revision, "data.path", "dataset")
