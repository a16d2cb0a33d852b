"""plan_only=true: what a run would do and cost, told without running it."""

from pathlib import Path

from ebft.config.schema import TrainConfig
from ebft.cost import scaling_table
from ebft.output.console import Console
from ebft.run import checkpoint
from ebft.run.folder import Run
from ebft.train import budget
from ebft.train.plan import plan
from ebft.train.setup import survey


def preview(config: TrainConfig, run_dir: Path) -> None:
    """Print the plan of `config` and, where a step is worth sharing, its scaling over GPUs; load no weights, write
    nothing.

    Raises UserError as a run in `run_dir` would, but for weights and checkpoints that cannot be loaded, and for a
    device that is too small: that is a line of the plan.
    """
    Run.check(run_dir, config)
    checkpoint.resolve(config.resume, run_dir)
    ground, console = survey(config), Console(None)
    lines = plan(config, ground)
    lines["room"] = budget.lack_of_room(config, ground.workload, ground.num_processes, ground.device) or "enough"
    step = budget.planned_step(config, ground.material.architecture, ground.num_blocks)
    if reason := scaling_table.too_small(step):
        lines["several GPUs"] = reason
    console.pairs(f"Plan of {config.method.name}, nothing is trained", lines)
    if reason:
        return
    console.pairs(
        f"A step of {step.documents} documents on several GPUs under FSDP2, on paper", scaling_table.assumptions()
    )
    console.table("Operations, traffic and memory", *scaling_table.table(step))
    console.table("Memory by part, weights resharded and phi sharded", *scaling_table.memory_table(step))
