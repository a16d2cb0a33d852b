"""The sweep's own keys, composed and checked, and how its commands speak."""

from collections.abc import Sequence

from ebft.cli.refusals import as_user_error
from ebft.comparison.cells import is_judged
from ebft.config.schema import UserError
from ebft.config.sweeps import SweepConfig
from ebft.output.visible import visible


def say(text: str) -> None:
    """To the terminal; names and notes may come from anybody's folder."""
    print(visible(text), flush=True)


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
