"""Checkpoints of a run (`checkpoints/step_000040/state.pt`), random states, and the export in Hugging Face format.

A checkpoint counts once `state.pt` has its name, which it gets in one rename: what a kill or a full disk leaves behind is never taken for
complete, and the next save removes it.
"""

import json
import pickle
import random
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ebft.adapters import BASE, BASE_FILE, Adapters
from ebft.config import UserError
from ebft.files import atomic_file, atomic_folder, atomic_write_text

FOLDER, STATE = "checkpoints", "state.pt"


def save(directory: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Writes the state of `step`, then removes what is unfinished and all but the newest `keep`. RunFailure on a full disk."""
    path = directory / FOLDER / f"step_{step:06d}"
    path.mkdir(parents=True, exist_ok=True)
    with atomic_file(path / STATE) as file:
        torch.save(state, file)
    _remove_unfinished(directory)
    for old in _complete(directory)[:-keep]:
        shutil.rmtree(old)
    return path


def latest(directory: Path) -> Path | None:
    """The newest complete checkpoint of a run folder."""
    checkpoints = _complete(directory)
    return checkpoints[-1] if checkpoints else None


def resolve(resume: str, directory: Path) -> Path | None:
    """The checkpoint that `resume` means for the run folder: auto the newest if any, never none, else that folder or the newest of that run."""
    if resume in ("auto", "never"):
        return latest(directory) if resume == "auto" else None
    path = Path(resume)
    found = path if (path / STATE).is_file() else latest(path)
    if found is None:
        raise UserError(f"resume={resume} holds no checkpoint; name a checkpoint folder (checkpoints/step_...) or a run folder, or use resume=auto.")
    return found


def load(path: Path) -> dict[str, Any]:
    """The state in a checkpoint folder, on the CPU. Only data is read: a checkpoint cannot run code."""
    try:
        state = torch.load(path / STATE, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} is not a checkpoint that can be read; remove it, or name another with resume=PATH.") from error
    if not isinstance(state, dict):
        raise UserError(f"{path} is not a checkpoint of ebft; name another with resume=PATH.")
    return state


def discard_after(directory: Path, step: int) -> None:
    """Removes checkpoints beyond `step`: resuming there abandons them, and `latest` must not find them again."""
    for path in _complete(directory):
        if _step(path) > step:
            shutil.rmtree(path)


def random_state() -> dict[str, Any]:
    """Every random state of the process as tensors, numbers and tuples; numpy's only where numpy is in use."""
    state: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if "numpy" in sys.modules:
        name, keys, position, has_gauss, cached = sys.modules["numpy"].random.get_state()
        state["numpy"] = (name, keys.tolist(), position, has_gauss, cached)
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if "numpy" in state:
        import numpy

        numpy.random.set_state(state["numpy"])
    if "cuda" in state and torch.cuda.is_available():
        for device, device_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(device_state, device)


def export(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path, card: str) -> None:
    """Model, tokenizer and model card in Hugging Face format (safetensors), replacing an older export as a whole. RunFailure on a full disk."""
    with atomic_folder(directory) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        atomic_write_text(folder / "README.md", card)


def export_adapters(adapters: Adapters, directory: Path, source: str, card: str) -> None:
    """Adapters in peft's format with the model card, and `base.json`, which says over which weights of `source` they were trained."""
    with atomic_folder(directory) as folder:
        adapters.save(folder)
        base = {"path": source, "fingerprint": int(adapters.trained.get_buffer(BASE))}
        atomic_write_text(folder / BASE_FILE, json.dumps(base) + "\n")
        atomic_write_text(folder / "README.md", card)


def _complete(directory: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found = [path.parent for path in (directory / FOLDER).glob(f"step_*/{STATE}") if re.fullmatch(r"step_\d+", path.parent.name)]
    return sorted(found, key=_step)


def _remove_unfinished(directory: Path) -> None:
    for path in (directory / FOLDER).glob("step_*"):
        if not (path / STATE).is_file():
            shutil.rmtree(path)
        else:
            for leftover in path.glob(".*.partial"):
                leftover.unlink()


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))
