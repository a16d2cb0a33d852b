"""Checkpoints of a run (`checkpoints/step_000040/`), random states, and the export in Hugging Face format.

`tensors/` has what is large, every process's shards of it, `state.pt` the rest. A checkpoint counts once `state.pt`,
which is written last, has its name, which it gets in one rename: what a kill or a full disk leaves behind is never
taken for complete, and the next save removes it.

`state.pt` ends with its own SHA-256 and holds those of the files in `tensors/`: what is read is what was written, all
of one step.
"""

import itertools
import json
import pickle
import random
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ebft.config.schema import UserError
from ebft.config.stored import text_of
from ebft.data.tokenization import Tokenization
from ebft.models.adapters import BASE, BASE_FILE, Adapters
from ebft.output.files import atomic_folder, atomic_write_text, make_folder, remove, sha256_of
from ebft.parallel.fsdp import full_tensor, named_tensors
from ebft.parallel.world import SINGLE_PROCESS, World
from ebft.run import checked

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FOLDER, STATE, TENSORS = "checkpoints", "state.pt", "tensors"
DIGESTS = "digests"  # of a state: file in the folder of tensors -> SHA-256
OTHER_ADVICE = "remove that checkpoint, so that the one before it counts, or name another with resume=PATH"
EXPORT_STEP = "ebft.json"  # of an export: the step that it is of


class Saving:
    """A checkpoint on its way. With several processes it is written while they go on, until `complete` (see
    `tensors.Writing`)."""

    def __init__(
        self,
        directory: Path,
        step: int,
        tensors: Mapping[str, Tensor],
        state: dict[str, Any],
        keep: int,
        world: World = SINGLE_PROCESS,
        best: int | None = None,
    ) -> None:
        """The newest `keep` checkpoints stay, and that of the step `best`."""
        from ebft.run.tensors import Writing  # torch's distributed checkpoints, which a plan does without

        self._best = best
        self.directory, self.path = directory, directory / FOLDER / f"step_{step:06d}"
        self._folder = world.broadcast(_unused(self.path / TENSORS))
        self._state, self._keep, self._world = {**state, TENSORS: self._folder.name}, keep, world
        if world.is_rank_zero:
            make_folder(make_folder(make_folder(directory / FOLDER) / self.path.name) / self._folder.name)
        world.barrier()
        self._writing = Writing(self._folder, tensors, world)

    @property
    def is_written(self) -> bool:
        """Whether all processes have written their part, so that `complete` need not wait."""
        return not self._world.any(not self._writing.is_done)

    def complete(self) -> Path:
        """Make it count, then remove what is unfinished and what is not to be kept. RunFailure where it cannot be
        written."""
        self._writing.finish()
        self._world.barrier()
        digests = self._digests()
        if self._world.is_rank_zero:
            checked.write(self.path / STATE, self._state | {DIGESTS: digests})
            for other in self.path.glob(f"{TENSORS}*"):
                if other != self._folder:  # of an earlier save of this step
                    remove(other)
            _remove_unfinished(self.directory)
            for old in _complete(self.directory)[: -self._keep]:
                if _step(old) != self._best:
                    remove(old)
        self._world.barrier()
        return self.path

    def _digests(self) -> dict[str, str]:
        """Every process reads its share of the files."""
        files = sorted(self._folder.iterdir())[self._world.rank :: self._world.size]
        shares = self._world.all_gather({file.name: sha256_of(file) for file in files})
        return {name: digest for share in shares for name, digest in share.items()}


def save(
    directory: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: dict[str, Any],
    keep: int,
    world: World = SINGLE_PROCESS,
) -> Path:
    """A checkpoint of `step`, waited for. WriteFailure where the system refuses."""
    return Saving(directory, step, tensors, state, keep, world).complete()


def _unused(path: Path) -> Path:
    """The path, or with the next number behind it."""
    numbered = (path.with_name(f"{path.name}_{number}") for number in itertools.count(1))
    return next(candidate for candidate in itertools.chain([path], numbered) if not candidate.exists())


def latest(directory: Path) -> Path | None:
    """The newest complete checkpoint of a run folder."""
    checkpoints = _complete(directory)
    return checkpoints[-1] if checkpoints else None


def of_step(directory: Path, step: int) -> Path | None:
    """The complete checkpoint of a run folder at that step."""
    return next((path for path in _complete(directory) if _step(path) == step), None)


def resolve(resume: str, directory: Path) -> Path | None:
    """The checkpoint that `resume` means for the run folder: auto the newest if any, never none, else that folder or
    the newest of that run."""
    if resume in ("auto", "never"):
        return latest(directory) if resume == "auto" else None
    path = Path(resume)
    found = path if (path / STATE).is_file() else latest(path)
    if found is None:
        raise UserError(
            f"resume={resume} holds no checkpoint; name a checkpoint folder (checkpoints/step_...) or a run folder, "
            "or use resume=auto."
        )
    return found


def load(path: Path, world: World = SINGLE_PROCESS) -> dict[str, Any]:
    """The small part of a checkpoint, with the path of the large one as `tensors`. Only data is read: a checkpoint
    cannot run code. Raises UserError for files that are not those that were written; of several processes the first
    looks at the large ones."""
    state = _read_state(path / STATE)
    if not re.fullmatch(rf"{TENSORS}(_\d+)?", str(state.get(TENSORS))) or not isinstance(state.get(DIGESTS), dict):
        raise UserError(f"{path} is not a checkpoint of ebft, or of an older one; name another with resume=PATH.")
    folder, digests = path / state[TENSORS], state.pop(DIGESTS)
    if world.is_rank_zero:
        for name in sorted({*digests, *(file.name for file in folder.glob("*"))}):
            if name not in digests or not (folder / name).is_file() or sha256_of(folder / name) != digests[name]:
                raise UserError(
                    f"{folder / name} is not what the checkpoint's {STATE} was written with, so it is damaged or of "
                    f"another one; {OTHER_ADVICE}."
                )
    return state | {TENSORS: folder}


def _read_state(path: Path) -> dict[str, Any]:
    """Raises UserError for a file of which a bit is another, for another's, and for one that cannot be read."""
    try:
        state = checked.read(path)
    except checked.DamagedError as error:
        raise UserError(
            f"{error}: it is damaged, of an older version, or no checkpoint of ebft; {OTHER_ADVICE}."
        ) from error
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{path.parent} is not a checkpoint that can be read; remove it, or name another with resume=PATH."
        ) from error
    if not isinstance(state, dict):
        raise UserError(f"{path.parent} is not a checkpoint of ebft; name another with resume=PATH.")
    return state


def exported_step(folder: Path) -> int | None:
    """The step that an export is of; None for one that does not say."""
    try:
        step = json.loads(text_of(folder / EXPORT_STEP))["step"]
    except (OSError, ValueError, TypeError, KeyError):  # no such file, or one that somebody else has written
        return None
    return step if isinstance(step, int) else None


def discard_after(directory: Path, step: int) -> None:
    """Removes checkpoints beyond `step`: resuming there abandons them, and `latest` must not find them again."""
    for path in _complete(directory):
        if _step(path) > step:
            remove(path)


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


def export(
    model: "PreTrainedModel",
    tokenization: Tokenization,
    directory: Path,
    card: str,
    step: int,
    world: World = SINGLE_PROCESS,
) -> None:
    """Model, tokenizer, model card and step in Hugging Face format (safetensors), replacing an older export as a whole;
    shards are gathered first. The files say what was trained: every token that ends an answer, first the one that
    documents ended with, and whether the tokenizer begins a text with a BOS. WriteFailure where the system refuses."""
    weights = gathered(model, world)
    if world.is_rank_zero:
        ends = [*tokenization.stop_tokens]
        model.config.eos_token_id = ends if len(ends) > 1 else ends[0]
        if model.generation_config is not None:
            model.generation_config.eos_token_id = model.config.eos_token_id
        with atomic_folder(directory) as folder:
            model.save_pretrained(folder, state_dict=weights)
            tokenization.as_trained().save_pretrained(folder)
            _describe(folder, card, step)


def export_adapters(
    adapters: Adapters, directory: Path, source: str, card: str, step: int, world: World = SINGLE_PROCESS
) -> None:
    """Adapters in peft's format with the model card and their step, and `base.json`, which says over which weights of
    `source` they were trained."""
    weights = adapters.weights()
    if world.is_rank_zero:
        with atomic_folder(directory) as folder:
            adapters.save(folder, weights)
            base = {"path": source, "fingerprint": int(adapters.trained.get_buffer(BASE))}
            atomic_write_text(folder / BASE_FILE, json.dumps(base) + "\n")
            _describe(folder, card, step)


def _describe(folder: Path, card: str, step: int) -> None:
    """What an export says of itself. Its weights, which safetensors gives to the user alone, are for those to read
    who may read the folder."""
    atomic_write_text(folder / "README.md", card)
    atomic_write_text(folder / EXPORT_STEP, json.dumps({"step": step}) + "\n")
    for weights in folder.glob("*.safetensors"):
        weights.chmod((folder / "README.md").stat().st_mode)


def gathered(module: nn.Module, world: World = SINGLE_PROCESS) -> dict[str, Tensor]:
    """Everything that a module keeps, tied weights once, whole and on the CPU; in the first process alone."""
    weights = {}
    for name, value in named_tensors(module).items():
        one_piece = full_tensor(value)
        if world.is_rank_zero:
            weights[name] = one_piece.cpu()
    return weights


def _complete(directory: Path) -> list[Path]:
    """Complete checkpoints, oldest first; a link is none of this run's."""
    found = [
        path.parent
        for path in (directory / FOLDER).glob(f"step_*/{STATE}")
        if re.fullmatch(r"step_\d+", path.parent.name) and not path.parent.is_symlink()
    ]
    return sorted(found, key=_step)


def _remove_unfinished(directory: Path) -> None:
    for path in (directory / FOLDER).glob("step_*"):
        if path.is_symlink() or not (path / STATE).is_file():
            remove(path)
        else:
            for leftover in path.glob(".*.partial"):
                leftover.unlink()


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))
