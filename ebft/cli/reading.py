"""What `ebft-sweep` says of runs that are there: how far a sweep is, its comparison, and what more runs would see."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ebft.cli.sweep_settings import say, settings
from ebft.comparison.cells import label
from ebft.comparison.kept import unpacked
from ebft.comparison.runs import FROM_RUN, Planned
from ebft.config.schema import ProjectTrackerConfig, UserError
from ebft.config.sweeps import GridConfig, SweepConfig
from ebft.output.files import WriteFailure, exclusive_lock, reason
from ebft.sweep.jobs import MANIFEST, Job, Manifest, read_manifest


def status(own: Sequence[str], config: SweepConfig) -> int:
    from ebft.output.console import aligned
    from ebft.sweep import state as states

    directory = Path(config.sweep.dir)
    with unpacked(directory) as runs:
        jobs = _manifest(runs).jobs
        known = {job.name: states.state(runs, job) for job in jobs}
    say(
        "\n".join(
            aligned(
                [
                    ["run", "cell", "seed", "state"],
                    *([job.name, label(job.variant, job.keys), str(job.seed), known[job.name].kind] for job in jobs),
                ]
            )
        )
    )
    for job in jobs:
        if known[job.name].note:
            say(f"{job.name}: {known[job.name].note}")
    counts = Counter(state.kind for state in known.values())
    say(f"{len(jobs)} runs in {directory}: {', '.join(f'{count} {kind}' for kind, count in counts.items())}")
    return 0


def collect(own: Sequence[str], config: SweepConfig) -> int:
    """Writes the comparison of a sweep's folder with the settings of the sweep, of any other with those of the
    command line."""
    directory = _existing(config)
    with unpacked(directory) as runs:
        sweep, jobs = _told(own, config, runs)
        write_comparison(sweep, directory, jobs, say, runs)
    return 0


def power(own: Sequence[str], config: SweepConfig) -> int:
    """Says what seeds and rows would see, from the runs that are there. Writes nothing."""
    from ebft import comparison
    from ebft.comparison import power as pilots

    with unpacked(_existing(config)) as runs:
        sweep, jobs = _told(own, config, runs)
        compared = comparison.compare(runs, replace(sweep, metrics=[sweep.metric]), _noted(jobs, runs))
    say(pilots.text(compared, sweep.metric, sweep.difference))
    return 0


def _existing(config: SweepConfig) -> Path:
    directory = Path(config.sweep.dir)
    if not directory.is_dir():
        raise UserError(f"sweep.dir={directory} is no folder; name one that holds runs.")
    return directory


def _told(own: Sequence[str], config: SweepConfig, runs: Path) -> tuple[GridConfig, Sequence[Job] | None]:
    """The settings of a comparison and the jobs of its sweep; None where the folder is not a sweep's."""
    from ebft.cli.brought import of_sweep

    manifest = read_manifest(runs)
    if manifest is None:
        return config.sweep, None
    theirs = of_sweep(runs / MANIFEST, manifest.settings, own)
    return settings([*theirs, *own]).sweep, manifest.jobs


def _noted(jobs: Sequence[Job] | None, runs: Path) -> list[Planned] | None:
    """Jobs as planned runs, with why each is not done."""
    from ebft.sweep import state as states

    if jobs is None:
        return None
    known = {job.name: states.state(runs, job) for job in jobs}
    return [planned_run(job, _note(known[job.name])) for job in jobs]


def _manifest(directory: Path) -> Manifest:
    stored = read_manifest(directory)
    if stored is None:
        raise UserError(f"sweep.dir={directory} holds no sweep; name the folder of one.")
    return stored


def write_comparison(
    sweep: GridConfig, directory: Path, jobs: Sequence[Job] | None, say: Any, runs: Path | None = None
) -> None:
    """Into `directory`, from the runs there or in the folder `runs`."""
    from ebft import comparison

    runs, lock = runs or directory, directory / ".comparison.lock"
    is_first = not lock.exists()
    try:
        with exclusive_lock(lock):
            compared = comparison.compare(runs, sweep, _noted(jobs, runs))
            *_, page = comparison.write(compared, directory)
    except UserError:
        if is_first:  # in a folder that has nothing to compare, nothing is left
            lock.unlink(missing_ok=True)
        raise
    except (OSError, WriteFailure) as error:
        raise UserError(
            f"sweep.dir={directory} cannot be written ({reason(error)}), where the comparison goes; collect a copy of "
            "it."
        ) from error
    say(comparison.text(compared))
    say(f"Comparison: {page}")
    track(sweep, directory, jobs or [], compared)


def planned_run(job: Job, note: str = "") -> Planned:
    config = job.settings if job.needs is None else {**job.settings, "model.path": f"{FROM_RUN}runs/{job.needs}"}
    return Planned(f"runs/{job.name}", job.variant, job.keys, config, note)


def _note(known: Any) -> str:
    return "" if known.kind == "done" else f"{known.kind}: {known.note}" if known.note else known.kind


def track(sweep: GridConfig, directory: Path, jobs: Sequence[Job], compared: Any) -> None:
    """The comparison as a table where its runs are tracked, in their group."""
    from ebft import comparison
    from ebft.output import tracking

    tracked = next(
        (job.config.tracker for job in jobs if job.config is not None and job.config.tracker.name != "none"),
        None,
    )
    if tracked is None:
        return
    if isinstance(tracked, ProjectTrackerConfig):
        tracked = replace(tracked, group=tracked.group or sweep.name, run_name=f"{sweep.name} comparison")
    tracker = tracking.start(tracked, directory, asdict(sweep), {})
    columns, rows = comparison.summary_rows(compared)
    tracker.table("comparison", 0, rows, columns)
    tracker.finish(failed=False)
