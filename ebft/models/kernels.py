"""Faster kernels for the parts of a transformer that are not this program's own: norms, gates, projections. They change
rounding only."""

import os
import shutil
from collections.abc import Callable
from inspect import signature
from typing import TYPE_CHECKING

from transformers import PreTrainedConfig

from ebft.config.schema import TrainerConfig, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COMPILERS = ("c++", "g++", "clang++")
ELSEWHERE = {
    "rope": False,
    "cross_entropy": False,
    "fused_linear_cross_entropy": False,
}  # these would change a family's module, or its head


def check_kernels(trainer: TrainerConfig, architecture: PreTrainedConfig, name: str, device: str) -> None:
    """Raises UserError for kernels that this machine or this family does not have."""
    if (
        trainer.compile
        and device == "cpu"
        and not any(map(shutil.which, (os.environ.get("CXX", COMPILERS[0]), *COMPILERS)))
    ):
        raise UserError(
            "trainer.compile=true needs a C++ compiler on the CPU, and the path has none; install g++ or use "
            "trainer.compile=false."
        )
    if not trainer.liger:
        return
    if device != "cuda":
        raise UserError(
            f"trainer.liger=true needs a CUDA device, and this run is on the {device}; use trainer.liger=false."
        )
    if architecture.model_type not in _families():
        raise UserError(f"{name} ({architecture.model_type}) has no kernels in liger-kernel; use trainer.liger=false.")


def use_liger(model: "PreTrainedModel") -> None:
    """Norms and gates of this model in Liger's kernels; attention, rotary positions and the head stay as they are."""
    apply = _families()[model.config.model_type]
    known = signature(apply).parameters  # a family without rotary positions has no switch for them
    apply(model=model, **{part: chosen for part, chosen in ELSEWHERE.items() if part in known})


def _families() -> dict[str, Callable[..., None]]:
    """What gives a model its kernels, for each family that Liger knows."""
    try:
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    except ModuleNotFoundError as error:
        raise UserError(
            "trainer.liger=true needs liger-kernel, which is not installed; pip install 'ebft[liger]'."
        ) from error
    families: dict[str, Callable[..., None]] = MODEL_TYPE_TO_APPLY_LIGER_FN
    return families
