"""What the environment says about the processes that were started for a run. Needs no torch."""

from collections.abc import Mapping


def from_slurm(variables: Mapping[str, str]) -> dict[str, str]:
    """Torchrun's variables from those of an srun step with several tasks, one a process; none elsewhere. MASTER_ADDR
    and MASTER_PORT, where the first process is met, are the user's to set, or submitit's."""
    if "RANK" in variables or int(variables.get("SLURM_STEP_NUM_TASKS", "1")) < 2:
        return {}
    names = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_STEP_NUM_TASKS", "LOCAL_RANK": "SLURM_LOCALID"}
    return {name: variables[theirs] for name, theirs in names.items()}


def num_processes(variables: Mapping[str, str]) -> int:
    """The number of processes that torchrun or srun has started for this run."""
    return int({**variables, **from_slurm(variables)}.get("WORLD_SIZE", "1"))
