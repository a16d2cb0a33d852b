"""`ebft-sweep`: a grid of runs, from overrides on the command line to a comparison.

Keys that begin with `mode`, `sweep` and `launcher` are its own, all others belong to the runs. Nothing here loads
torch: that is for the runs.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from textwrap import wrap
from typing import Any

from ebft.cli import completion
from ebft.cli.from_file import with_files
from ebft.cli.own import split_searchpath, with_config_dirs
from ebft.cli.reading import collect, planned_run, power, status, write_comparison
from ebft.cli.refusals import one_sentence
from ebft.cli.sweep_settings import say, settings
from ebft.comparison.cells import label
from ebft.config.schema import UserError
from ebft.config.sweeps import GridConfig, SweepConfig
from ebft.output.streams import end_if_cut, outlive_console
from ebft.sweep.jobs import Job, Manifest, check_folder, write_manifest

OWN = ("mode", "sweep", "launcher")
CFG = ("--cfg", "-c")
READING = {"status": status, "collect": collect, "power": power}  # modes that run nothing
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

A YAML file as the input:      ebft-sweep my.yaml seed=0,1
Every key with its value:      ebft-sweep --cfg job
Shell completion:              eval "$(ebft-sweep -sc install=bash)"
Exit codes: 0 done, 1 some runs failed, 2 a mistake on the command line, 130 interrupted."""
HELP_WIDTH, NAME_WIDTH = 130, 33


def main() -> None:
    outlive_console()
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(help_text())
        end_if_cut()
        return
    try:
        with one_sentence():
            code = sweep(sys.argv[1:])
    except KeyboardInterrupt:  # while nothing runs; the runner takes the signal itself
        print("Interrupted.", file=sys.stderr)
        code = 130
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
    if set(arguments) & set(completion.FLAGS):
        completion.complete(arguments, OWN)
        end_if_cut()
        return 0
    arguments, found = split_searchpath(with_config_dirs(with_files(arguments)))
    arguments, shown = _without_cfg(arguments)
    if options := [argument for argument in arguments if argument.startswith("-")]:
        raise UserError(
            f"{options[0]} is no option of ebft-sweep; besides --help, --cfg job, -sc and --config-dir it takes "
            "KEY=VALUE alone."
        )
    own = [*found, *(argument for argument in arguments if _is_own(argument))]
    runs = [argument for argument in arguments if not _is_own(argument)]
    from ebft.cli.planning import Planner

    config = settings(own, runs)
    if shown:
        completion.show(shown, config, runs)
        end_if_cut()
        return 0
    if config.mode in READING:
        if runs:
            raise UserError(
                f"mode={config.mode} reads what lies in sweep.dir={config.sweep.dir}; leave out {' '.join(runs)}."
            )
        code = READING[config.mode](own, config)
        end_if_cut()
        return code
    planner = Planner(Path(config.sweep.dir), config.sweep, found)
    code = (search if config.sweep.search == "optuna" else grid)(own, runs, config, planner)
    if config.mode == "plan":
        end_if_cut()
    return code


def _without_cfg(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command line without --cfg and what stands behind it, and those."""
    place = next((place for place, argument in enumerate(arguments) if argument.partition("=")[0] in CFG), None)
    if place is None:
        return list(arguments), []
    end = place + (1 if "=" in arguments[place] else 2)
    return [*arguments[:place], *arguments[end:]], ["--cfg", *arguments[place:end][-1].split("=")[-1:]]


def _is_own(argument: str) -> bool:
    return argument.lstrip("+~").split("=")[0].split(".")[0] in OWN


def grid(own: Sequence[str], runs: Sequence[str], config: SweepConfig, planner: Any) -> int:
    """Every run of the grid."""
    from ebft.comparison import check_comparable
    from ebft.sweep.runner import GridSource

    directory = Path(config.sweep.dir)
    jobs = planner.jobs(runs)
    check_folder(directory, jobs)
    check_comparable([planned_run(job) for job in jobs], config.sweep)
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
    check_comparable([planned_run(job) for job in examples], config.sweep)
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
    from ebft.output import files
    from ebft.output.console import Console
    from ebft.sweep import launchers
    from ebft.sweep import state as states
    from ebft.sweep.runner import SweepRunner

    launcher = launchers.build(config.launcher, directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with files.alone(directory):  # until it says whose it is; a second process may then work on the same sweep
            check_folder(directory, manifest.jobs, manifest.search)
            write_manifest(directory, manifest)
    except (OSError, files.WriteFailure) as error:
        raise UserError(
            f"sweep.dir={directory} cannot be written ({files.reason(error)}); choose another sweep.dir."
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


if __name__ == "__main__":
    main()
