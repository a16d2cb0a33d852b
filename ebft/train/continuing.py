"""Whether a run may go on from a checkpoint: that of the same model, over the same rows."""

from typing import Any

from ebft.config.schema import TrainConfig, UserError
from ebft.models.adapters import is_of_adapters, same_base
from ebft.parallel.fsdp import named_tensors
from ebft.run import tensors as stored
from ebft.train.optimization import MODEL
from ebft.train.setup import Setup

ROWS = "rows"  # of a checkpoint: digests of what the run is trained and evaluated on


def check_continues(config: TrainConfig, setup: Setup, saved: dict[str, Any]) -> None:
    """Raises UserError for a checkpoint that this run cannot go on from."""
    own, folder = named_tensors(setup.policy.trained), saved["tensors"]
    there = {name.removeprefix(MODEL): shape for name, shape in stored.shapes(folder).items() if name.startswith(MODEL)}
    if there != {name: value.shape for name, value in own.items()}:
        raise UserError(
            f"resume={config.resume} leads to a checkpoint of another model; set model as it was there, or use "
            "another checkpoint."
        )
    if is_of_adapters(own) and not same_base(stored.read(folder, MODEL), own):
        raise UserError(
            f"resume={config.resume} leads to adapters of another base than model.path={config.model.path}; set model "
            "as it was there."
        )
    if saved["averages"] != (config.optimizer.ema_decay is not None):
        raise UserError(
            f"optimizer.ema_decay={config.optimizer.ema_decay}, but the checkpoint of resume={config.resume} is not "
            "from such a run."
        )
    _check_rows(config, setup.material.digests(), saved)
    if saved["step"] > setup.max_steps:
        raise UserError(
            f"The checkpoint of resume={config.resume} is at step {saved['step']}, beyond this run's "
            f"{setup.max_steps} steps; raise "
            "trainer.max_steps or trainer.max_epochs, or choose another hydra.run.dir."
        )


def _check_rows(config: TrainConfig, here: dict[str, str], saved: dict[str, Any]) -> None:
    """A run over other rows would be another run, and what changed since its base on other held-out rows is no change
    of the model."""
    if ROWS not in saved:
        raise UserError(
            f"The checkpoint of resume={config.resume} is of an older version, which kept no digest of its rows; "
            "start anew in another hydra.run.dir."
        )
    changed = [side for side, digest in here.items() if saved[ROWS].get(side) != digest]
    if changed:
        raise UserError(
            f"The {' and the '.join(changed)} rows of data.source={config.data.source} are not those of the checkpoint "
            f"of resume={config.resume}, at step {saved['step']}; put them back as they were, or start anew in another "
            "hydra.run.dir."
        )
