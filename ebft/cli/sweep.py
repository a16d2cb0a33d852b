"""`ebft-sweep`: a grid of runs, from overrides on the command line to a comparison.

Keys that begin with `mode`, `sweep` and `launcher` are its own, all others belong to the runs. Nothing here loads
torch: that is for the runs.
"""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from textwrap import wrap
from typing import Any

from ebft.cli.own import split_searchpath, with_config_dirs
from ebft.cli.refusals import as_user_error, one_sentence
from ebft.comparison.cells import is_judged, label
from ebft.comparison.kept import unpacked
from ebft.comparison.runs import FROM_RUN, Planned
from ebft.config.schema import UserError, WandbTrackerConfig
from ebft.config.sweeps import GridConfig, SweepConfig
from ebft.output.files import exclusive_lock
from ebft.output.visible import visible
from ebft.sweep.jobs import MANIFEST, Job, Manifest, check_folder, read_manifest, write_manifest

OWN = ("mode", "sweep", "launcher")
READING = ("status", "collect", "power")  # modes that run nothing
HELP = """\
ebft-sweep [sweep=NAME] [mode=MODE] [launcher=WHERE] [KEY=VALUE[,VALUE...] ...]

Runs a grid of ebft-train, each run in a process of its own, and writes the comparison: a verdict in words, means and
95 % intervals over seeds and held-out rows, paired differences to a reference, plots.
Without arguments: the three methods with two seeds each on the embedded default.
Killed, interrupted or with new failures fixed, the same command goes on where it was: done runs are skipped, started
ones resume.

sweep=NAME          a grid from conf/sweep:
{sweeps}
KEY=VALUE,VALUE     more axes, or other values of the grid's, in Hydra's grammar: seed=range(5) optimizer.lr=1e-4,3e-4
mode=plan           says what would run, what is done and what it costs, and runs nothing
mode=run            runs what is not done (the default)
mode=status         says how far sweep.dir is
mode=collect        writes the comparison of sweep.dir: any folder of runs, or of an archive of them (runs.zip)
mode=power          says from the runs in sweep.dir how many seeds and held-out rows tell a difference of sweep.metric
                    apart: for sweep.difference=0.01, or what given numbers would see

Often changed:
  sweep.dir=outputs/mine             the sweep's folder
  sweep.retry_failed=true            run again what failed
  sweep.reference=sft                the cell that differences are taken to; null: base
  sweep.metrics=[eval/greedy]        columns of the comparison
  sweep.by=[method.name]             keys that tell cells apart; sweep.split: keys that tell tables apart
  sweep.search=optuna                let Optuna choose values of axes, as in the last example
  sweep.early_stopping=median        stop runs that do worse than the others
  launcher=local                     launcher.slots_per_device=2 for two runs at a time on a GPU, or on the CPU
  launcher=slurm launcher=ray        a cluster

Examples:
  ebft-sweep
  ebft-sweep method=sft,ebft data=translation 'seed=range(5)' sweep.dir=outputs/translation
  ebft-sweep sweep=laptop_code_qa mode=plan
  ebft-sweep mode=collect sweep.dir=outputs/multirun/2026-11-24
  ebft-sweep mode=power sweep.dir=outputs/pilots sweep.reference=sft sweep.metric=eval/greedy sweep.difference=0.02
  ebft-sweep sweep.search=optuna method=ebft 'optimizer.lr=tag(log,interval(1e-5,1e-3))' sweep.dir=outputs/search

Exit codes: 0 done, 1 some runs failed, 2 a mistake on the command line, 130 interrupted."""
HELP_WIDTH, NAME_WIDTH = 130, 33


def main() -> None:
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(help_text())
        return
    try:
        with one_sentence():
            code = sweep(sys.argv[1:])
    except KeyboardInterrupt:  # while nothing runs; the runner takes the signal itself
        print("Interrupted.", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # head and the like have seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        code = 141
    sys.exit(code)


def help_text() -> str:
    from importlib import resources

    lines = []
    for path in sorted(resources.files("ebft.conf").joinpath("sweep").iterdir(), key=lambda path: path.name):
        meaning = path.read_text(encoding="utf-8").splitlines()[1].removeprefix("# ")
        first, *others = wrap(meaning, HELP_WIDTH - NAME_WIDTH)
        lines += [
            f"  {path.name.removesuffix('.yaml'):{NAME_WIDTH - 3}} {first}",
            *(" " * NAME_WIDTH + other for other in others),
        ]
    return HELP.format(sweeps="\n".join(lines))


def sweep(arguments: Sequence[str]) -> int:
    """Does what the command line says and returns the exit code. Raises UserError."""
    arguments, found = split_searchpath(with_config_dirs(arguments))
    if options := [argument for argument in arguments if argument.startswith("-")]:
        raise UserError(
            f"{options[0]} is no option of ebft-sweep; besides --help and --config-dir it takes KEY=VALUE alone."
        )
    own = [*found, *(argument for argument in arguments if _is_own(argument))]
    runs = [argument for argument in arguments if not _is_own(argument)]
    from ebft.cli.planning import Planner

    config = settings(own, runs)
    if config.mode in READING:
        if runs:
            raise UserError(
                f"mode={config.mode} reads what lies in sweep.dir={config.sweep.dir}; leave out {' '.join(runs)}."
            )
        return {"status": status, "collect": collect, "power": power}[config.mode](own, config)
    planner = Planner(Path(config.sweep.dir), config.sweep, found)
    return (search if config.sweep.search == "optuna" else grid)(own, runs, config, planner)


def say(text: str) -> None:
    """To the terminal; names and notes may come from anybody's folder."""
    print(visible(text), flush=True)


def _is_own(argument: str) -> bool:
    return argument.lstrip("+~").split("=")[0].split(".")[0] in OWN


def settings(own: Sequence[str], runs: Sequence[str] = ()) -> SweepConfig:
    """The sweep's own configuration; `runs` are overrides of its runs, whose own tasks may have metrics of their own.
    Raises UserError."""
    import hydra

    from ebft.cli.compose import typed
    from ebft.cli.overrides import as_typed
    from ebft.config.rules import check_limits
    from ebft.output.metric_names import check_known, lower_is_better

    with hydra.initialize_config_module("ebft.conf", version_base="1.3"), as_user_error(list(own)):
        tree = hydra.compose("sweep", as_typed(own))
    config: SweepConfig = typed(tree, SweepConfig)
    check_limits(config)
    if config.mode in ("collect", "power"):  # where the runs tell what metrics there are
        return config
    _add_own_metrics([*config.sweep.grid, *runs])
    for metric in (*config.sweep.metrics, config.sweep.metric):
        check_known(metric)
    if is_judged(config.sweep) and lower_is_better(config.sweep.metric) is None:
        raise UserError(
            f"sweep.metric={config.sweep.metric} is better neither high nor low; choose one that is, such as "
            "eval/cross_entropy."
        )
    return config


def _add_own_metrics(overrides: Sequence[str]) -> None:
    from ebft.cli.grid import parse, values
    from ebft.config import doors
    from ebft.output.metric_names import add_own

    tasks = [
        value for override in parse(overrides) if override.key_or_group == "data.task" for value in values(override)
    ]
    for reference in (task.partition("=")[2].strip("'\"") for task in tasks):
        if doors.is_door(reference):
            add_own(getattr(doors.load(reference, "data.task"), "directions", {}), f"data.task={reference}")


def grid(own: Sequence[str], runs: Sequence[str], config: SweepConfig, planner: Any) -> int:
    """Every run of the grid."""
    from ebft.comparison import check_comparable
    from ebft.sweep.runner import GridSource

    directory = Path(config.sweep.dir)
    jobs = planner.jobs(runs)
    check_folder(directory, jobs)
    check_comparable([_planned(job) for job in jobs], config.sweep)
    print_plan(config, directory, jobs)
    return (
        0
        if config.mode == "plan"
        else run(config, directory, GridSource(jobs), Manifest(_kept(config.sweep), (), tuple(jobs)))
    )


def search(own: Sequence[str], runs: Sequence[str], config: SweepConfig, planner: Any) -> int:
    """Optuna's choice of runs."""
    from ebft.cli import searching
    from ebft.comparison import check_comparable
    from ebft.output.metric_names import lower_is_better
    from ebft.sweep.launchers import num_at_a_time
    from ebft.sweep.search import Search

    directory, metric = Path(config.sweep.dir), config.sweep.metric
    lower = lower_is_better(metric)
    assert lower is not None, metric
    plan, examples = searching.plan(planner, runs)
    check_comparable([_planned(job) for job in examples], config.sweep)
    stored = check_folder(directory, (), (*plan.axes, *plan.fixed))
    earlier = () if stored is None else stored.jobs
    say(
        f"{config.sweep.name}: {config.sweep.num_trials} trials in {directory}, {len({job.trial for job in earlier})} "
        f"begun, for {metric}"
    )
    say("\n".join(f"  {line}" for line in (*plan.axes, *plan.fixed)))
    if config.mode == "plan":
        return 0
    source = Search(directory, config.sweep, plan.space, plan.jobs, earlier, lower, num_at_a_time(config.launcher))
    code = run(config, directory, source, Manifest(_kept(config.sweep), (*plan.axes, *plan.fixed), tuple(earlier)))
    if (best := source.best()) is not None:
        say(f"Best trial: {' '.join(f'{key}={value}' for key, value in best[0].items())} with {metric} = {best[1]:.4f}")
    return code


def _kept(sweep: GridConfig) -> dict[str, Any]:
    """The settings by which a sweep's comparison is made again; not its folder, which may have moved."""
    return {f"sweep.{key}": value for key, value in asdict(sweep).items() if key != "dir"}


def print_plan(config: SweepConfig, directory: Path, jobs: Sequence[Job]) -> None:
    """Cells with their runs, how many are done, and what a step of one costs."""
    from ebft.cost import tokens as cost
    from ebft.output.console import aligned
    from ebft.sweep import state as states

    cells: dict[str, list[Job]] = {}
    for job in jobs:
        cells.setdefault(label(job.variant, job.keys), []).append(job)
    known = {job.name: states.state(directory, job).kind for job in jobs}
    counts = Counter(known.values())
    say(
        f"{config.sweep.name}: {len(jobs)} runs in {directory}, "
        f"{', '.join(f'{count} {kind}' for kind, count in counts.items())}"
    )
    rows = [["cell", "runs", "done", "steps", "cost"]]
    for name, members in cells.items():
        first = members[0].config
        assert first is not None
        steps = str(first.trainer.max_steps) if first.trainer.max_steps else f"{first.trainer.max_epochs:g} epochs"
        rows.append(
            [
                name,
                str(len(members)),
                str(sum(known[job.name] == states.DONE for job in members)),
                steps,
                cost.line(first),
            ]
        )
    say("\n".join(aligned(rows)))


def run(config: SweepConfig, directory: Path, source: Any, manifest: Manifest) -> int:
    """Everything that is not done, then the comparison."""
    from ebft.output.console import Console
    from ebft.sweep import launchers
    from ebft.sweep import state as states
    from ebft.sweep.runner import SweepRunner

    launcher = launchers.build(config.launcher, directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_manifest(directory, manifest)
    except OSError as error:
        raise UserError(
            f"sweep.dir={directory} cannot be written ({error.strerror}); choose another sweep.dir."
        ) from error
    console = Console(directory / "sweep.log")

    def keep(jobs: Sequence[Job]) -> None:
        """Keeps the jobs on record, those of an earlier search too, which a resumed one takes up again one by one."""
        write_manifest(
            directory, replace(manifest, jobs=tuple({job.name: job for job in (*manifest.jobs, *jobs)}.values()))
        )

    runner = SweepRunner(directory, config.sweep, launcher, source, keep, console.say)
    ended = runner.run()
    if runner.stop_requests:
        console.say("Interrupted; the same command goes on.")
        return 130
    failures = {name: known for name, known in ended.items() if known.kind == states.FAILED}
    write_comparison(config.sweep, directory, list(runner.jobs.values()), console.say)
    for name, known in failures.items():
        console.say(f"failed {name}: {known.note}")
    if failures:
        console.say(
            f"{len(failures)} of {len(ended)} runs failed; put them right and run the same command with "
            "sweep.retry_failed=true."
        )
    return 1 if failures else 0


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
        sweep, jobs = _as_planned(own, config, runs)
        write_comparison(sweep, directory, jobs, say, runs)
    return 0


def power(own: Sequence[str], config: SweepConfig) -> int:
    """Says what seeds and rows would see, from the runs that are there. Writes nothing."""
    from ebft import comparison
    from ebft.comparison import power as pilots

    with unpacked(_existing(config)) as runs:
        sweep, jobs = _as_planned(own, config, runs)
        compared = comparison.compare(runs, replace(sweep, metrics=[sweep.metric]), _noted(jobs, runs))
    say(pilots.text(compared, sweep.metric, sweep.difference))
    return 0


def _existing(config: SweepConfig) -> Path:
    directory = Path(config.sweep.dir)
    if not directory.is_dir():
        raise UserError(f"sweep.dir={directory} is no folder; name one that holds runs.")
    return directory


def _as_planned(own: Sequence[str], config: SweepConfig, runs: Path) -> tuple[GridConfig, Sequence[Job] | None]:
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
    return [_planned(job, _note(known[job.name])) for job in jobs]


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

    runs = runs or directory
    try:
        with exclusive_lock(directory / ".comparison.lock"):
            compared = comparison.compare(runs, sweep, _noted(jobs, runs))
            *_, page = comparison.write(compared, directory)
    except OSError as error:
        raise UserError(
            f"sweep.dir={directory} cannot be written ({error.strerror}), where the comparison goes; collect a copy "
            "of it."
        ) from error
    say(comparison.text(compared))
    say(f"Comparison: {page}")
    track(sweep, directory, jobs or [], compared)


def _planned(job: Job, note: str = "") -> Planned:
    config = job.settings if job.needs is None else {**job.settings, "model.path": f"{FROM_RUN}runs/{job.needs}"}
    return Planned(f"runs/{job.name}", job.variant, job.keys, config, note)


def _note(known: Any) -> str:
    return "" if known.kind == "done" else f"{known.kind}: {known.note}" if known.note else known.kind


def track(sweep: GridConfig, directory: Path, jobs: Sequence[Job], compared: Any) -> None:
    """The comparison as a table in W&B, in the group of its runs, where they are tracked there."""
    from ebft import comparison
    from ebft.output import tracking

    tracked = next(
        (
            job.config.tracker
            for job in jobs
            if job.config is not None and isinstance(job.config.tracker, WandbTrackerConfig)
        ),
        None,
    )
    if tracked is None:
        return
    tracker = tracking.start(
        replace(tracked, group=tracked.group or sweep.name, run_name=f"{sweep.name} comparison"),
        directory,
        asdict(sweep),
        None,
    )
    columns, rows = comparison.summary_rows(compared)
    tracker.table("comparison", 0, rows, columns)
    tracker.finish(failed=False)


if __name__ == "__main__":
    main()
