"""Where jobs are computed: processes on this machine, jobs of a SLURM cluster, tasks of a Ray cluster."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ebft.config.schema import UserError
from ebft.config.sweeps import LauncherConfig, LocalLauncherConfig, RayLauncherConfig, SlurmLauncherConfig
from ebft.sweep import state as states
from ebft.sweep.attempt import Attempt, AttemptResult, follow, perform
from ebft.sweep.jobs import Job


@runtime_checkable
class Handle(Protocol):
    """A job that was started."""

    def poll(self) -> AttemptResult | None:
        """How the job ended; None until it has."""
        ...

    def stop(self) -> None:
        """Asks the run to save and end; it may be started again."""
        ...

    def kill(self) -> None: ...


@runtime_checkable
class Launcher(Protocol):
    def room(self) -> bool:
        """Whether another job can be started now."""
        ...

    def start(self, job: Job) -> Handle | AttemptResult:
        """A handle, or what makes starting the job needless."""
        ...

    def close(self) -> None: ...


def build(config: LauncherConfig, directory: Path) -> Launcher:
    """Raises UserError where the launcher's library is not installed or its cluster cannot be reached."""
    match config:
        case LocalLauncherConfig():
            return Local(config, directory)
        case SlurmLauncherConfig():
            return Slurm(config, directory)
        case RayLauncherConfig():
            return Ray(config, directory)
    raise AssertionError(config.name)


class Local:
    """Processes here, each on a device of its own or sharing it with the other slots of the device."""

    def __init__(self, config: LocalLauncherConfig, directory: Path) -> None:
        self.directory, self._config = directory, config
        gpus: list[str | None] = [",".join(group) for group in gpu_groups(config)] or [None]
        self._slots = [gpu for gpu in gpus for _ in range(config.slots_per_device)]
        self._taken: dict[int, Attempt] = {}  # slot -> what runs in it

    def room(self) -> bool:
        self._taken = {slot: attempt for slot, attempt in self._taken.items() if attempt.is_running()}
        return len(self._taken) < len(self._slots)

    def start(self, job: Job) -> Handle | AttemptResult:
        slot = next(slot for slot in range(len(self._slots)) if slot not in self._taken)
        attempt = Attempt.start(self.directory, job, self._environment(self._slots[slot]))
        if isinstance(attempt, Attempt):
            self._taken[slot] = attempt
        return attempt

    def close(self) -> None:
        pass

    def _environment(self, gpu: str | None) -> dict[str, str]:
        threads = str(self._config.threads or self._threads())
        return {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} | (
            {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        )

    def _threads(self) -> int:
        """A slot's share of the cores, or fewer where OMP_NUM_THREADS says so: on cores that others share, threads wait
        for one another."""
        share = max(1, len(os.sched_getaffinity(0)) // len(self._slots))
        typed = os.environ.get("OMP_NUM_THREADS", "")
        return min(share, int(typed)) if typed.isdecimal() and int(typed) else share


def num_at_a_time(config: LauncherConfig) -> int:
    """How many jobs a launcher computes, or queues, at a time."""
    if isinstance(config, LocalLauncherConfig):
        return config.slots_per_device * max(1, len(gpu_groups(config)))
    assert isinstance(config, SlurmLauncherConfig | RayLauncherConfig)
    return config.max_jobs


def gpu_groups(config: LocalLauncherConfig) -> list[list[str]]:
    """The GPUs here, in groups for a run each. Raises UserError where there are some, but fewer than a run is to
    have."""
    gpus = visible_gpus()
    if 0 < len(gpus) < config.gpus:
        raise UserError(f"launcher.gpus={config.gpus} is more than the {len(gpus)} of this machine; lower it.")
    return [gpus[start : start + config.gpus] for start in range(0, len(gpus) - config.gpus + 1, config.gpus)]


def visible_gpus() -> list[str]:
    """Names for CUDA_VISIBLE_DEVICES, found without torch; empty where there is no NVIDIA GPU."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    driver = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number, _ in enumerate(driver.iterdir())] if driver.is_dir() else []


class Slurm:
    """Jobs that submitit queues. A job that reaches its time limit is saved and queued again by submitit."""

    def __init__(self, config: SlurmLauncherConfig, directory: Path) -> None:
        submitit = _library("submitit", "slurm")
        self.directory, self._config, self._submitted = directory.absolute(), config, list[_SlurmHandle]()
        try:
            self._executor = submitit.AutoExecutor(folder=directory / "slurm", cluster=config.cluster)
        except RuntimeError as error:
            raise UserError(
                f"launcher.cluster={config.cluster}: {error}; run ebft-sweep where sbatch is, or use launcher=local."
            ) from error
        self._executor.update_parameters(**self._parameters())

    def _parameters(self) -> dict[str, Any]:
        config = self._config
        own = (
            {"slurm_partition": config.partition, "slurm_account": config.account} if config.cluster == "slurm" else {}
        )
        common = {
            "timeout_min": config.minutes,
            "nodes": config.nodes,
            "tasks_per_node": config.tasks_per_node,
            "gpus_per_node": config.gpus,
            "cpus_per_task": config.cpus,
            "mem_gb": config.memory_gb,
        }
        return (
            common
            | {key: value for key, value in own.items() if value is not None}
            | dict(config.parameters)
            | {"name": "ebft"}
        )

    def room(self) -> bool:
        self._submitted = [handle for handle in self._submitted if not handle.is_over()]
        return len(self._submitted) < self._config.max_jobs

    def start(self, job: Job) -> Handle | AttemptResult:
        handle = _SlurmHandle(
            self._executor.submit(Performance(self.directory, job, {"OMP_NUM_THREADS": str(self._config.cpus)}))
        )
        self._submitted.append(handle)
        return handle

    def close(self) -> None:
        pass


class Performance:
    """`perform` as submitit wants it: callable, and able to say what is queued again after a time limit. Of a job's
    tasks the first one has the run, and every other one a further process of it."""

    def __init__(self, directory: Path, job: Job, environment: Mapping[str, str]) -> None:
        self.arguments = (directory, job, dict(environment))

    def __call__(self) -> AttemptResult:
        import submitit

        directory, job, environment = self.arguments
        if submitit.JobEnvironment().num_tasks == 1:
            return perform(directory, job, environment)
        place = submitit.helpers.TorchDistributedEnvironment()
        place.export(set_cuda_visible_devices=False, overwrite=True)
        return perform(directory, job, environment) if place.rank == 0 else follow(directory, job, environment)

    def checkpoint(self) -> Any:
        """The run saves when its parent ends, and goes on from there."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class _SlurmHandle:
    def __init__(self, job: Any) -> None:
        self._job = job

    def is_over(self) -> bool:
        return bool(self._job.done())

    def poll(self) -> AttemptResult | None:
        if not self._job.done():
            return None
        error = self._job.exception()
        return (
            self._job.results()[0]
            if error is None
            else AttemptResult(states.INTERRUPTED, f"SLURM job {self._job.job_id}: {_first_line(error)}")
        )

    def stop(self) -> None:
        self._job.cancel()

    def kill(self) -> None:
        self._job.cancel()


class Ray:
    """Tasks of an existing Ray cluster, or of one that is started here."""

    def __init__(self, config: RayLauncherConfig, directory: Path) -> None:
        self._ray = _library("ray", "ray")
        self.directory, self._config, self._submitted = directory.absolute(), config, list[_RayHandle]()
        try:
            self._ray.init(
                address=config.address or "local", include_dashboard=False, log_to_driver=False, configure_logging=False
            )
        except (ConnectionError, ValueError) as error:
            reason = _first_line(error)
            raise UserError(
                f"launcher.address={config.address} leads to no Ray cluster ({reason}); start one with: ray start "
                "--head."
            ) from error
        resources = self._ray.cluster_resources()
        for name, asked in (("GPU", config.gpus), ("CPU", config.cpus)):
            if asked > resources.get(name, 0):
                self._ray.shutdown()
                key = f"launcher.{name.lower()}s"
                raise UserError(
                    f"{key}={asked} is more than the Ray cluster has ({resources.get(name, 0):g}); lower it, or no "
                    "run ever starts."
                )
        self._perform = self._ray.remote(num_cpus=config.cpus, num_gpus=config.gpus, max_retries=0)(perform)

    def room(self) -> bool:
        self._submitted = [handle for handle in self._submitted if not handle.is_over()]
        return len(self._submitted) < self._config.max_jobs

    def start(self, job: Job) -> Handle | AttemptResult:
        handle = _RayHandle(self._ray, self._perform.remote(self.directory, job, {}))
        self._submitted.append(handle)
        return handle

    def close(self) -> None:
        self._ray.shutdown()


class _RayHandle:
    def __init__(self, ray: Any, reference: Any) -> None:
        self._ray, self._reference = ray, reference

    def is_over(self) -> bool:
        return bool(self._ray.wait([self._reference], timeout=0)[0])

    def poll(self) -> AttemptResult | None:
        if not self.is_over():
            return None
        try:
            outcome: AttemptResult = self._ray.get(self._reference)
        except self._ray.exceptions.RayError as error:
            return AttemptResult(states.INTERRUPTED, f"Ray: {_first_line(error)}")
        return outcome

    def stop(self) -> None:
        self._ray.cancel(self._reference, force=True)

    def kill(self) -> None:
        self.stop()


def _library(name: str, extra: str) -> Any:
    """Raises UserError where it is not installed."""
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UserError(
            f"launcher={extra} needs {name}, which is not installed; pip install 'ebft[{extra}]'."
        ) from error


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
