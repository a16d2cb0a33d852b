"""Trackers: Weights & Biases, others on this machine, several at once, or none. The only module that imports wandb.

W&B is used online where an API key is configured and its server answers, else offline inside the run folder; it never
prompts, never waits long for a network, and `WANDB_MODE` has the last word. Metrics travel with `step` as a metric of
their own instead of W&B's internal step, which may only grow: a run that resumes at an earlier checkpoint logs some
steps twice.
"""

import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from ebft.config.schema import ProjectTrackerConfig, TrackerConfig, UserError, WandbTrackerConfig
from ebft.output.files import refuse_links
from ebft.output.masking import command_line, without_secrets

Metrics = Mapping[str, float]

PROBE_SECONDS = 3.0
INIT_SECONDS = 30.0
UPLOAD_SECONDS = 300.0  # at the end of a run; what is left stays on disk for `wandb sync`


class Tracker:
    """A destination of metrics besides the run folder; this one, `tracker=none`, sends them nowhere."""

    run_ids: Mapping[str, str] = {}  # by tracker; kept in the run folder, so that a resumed run continues its records
    notices: Sequence[str] = ()  # what the user should know about where the figures go

    def log(self, step: int, metrics: Metrics) -> None:
        """One row of metrics."""

    def table(self, name: str, step: int, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
        """Logs the named columns of the rows as a table for people to read."""

    def finish(self, failed: bool) -> None:
        """Closes the record."""


class Several(Tracker):
    """The same to each of several trackers, in their order."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = trackers
        self.run_ids = {name: run_id for tracker in trackers for name, run_id in tracker.run_ids.items()}
        self.notices = [notice for tracker in trackers for notice in tracker.notices]

    def log(self, step: int, metrics: Metrics) -> None:
        for tracker in self.trackers:
            tracker.log(step, metrics)

    def table(self, name: str, step: int, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
        for tracker in self.trackers:
            tracker.table(name, step, rows, columns)

    def finish(self, failed: bool) -> None:
        for tracker in self.trackers:
            tracker.finish(failed)


PACKAGES = ("trackio", "tensorboard")  # those of trackers that are extras


def names(config: TrackerConfig) -> list[str]:
    return [config.name, *(config.also if isinstance(config, ProjectTrackerConfig) else [])]


def check(config: TrackerConfig) -> None:
    """Raises UserError for a tracker whose package is not installed."""
    for name in names(config):
        if name in PACKAGES and find_spec(name) is None:
            raise UserError(f"tracker={name} needs {name}, which is not installed; pip install 'ebft[{name}]'.")


def start(
    config: TrackerConfig, directory: Path, resolved_config: dict[str, Any], run_ids: Mapping[str, str]
) -> Tracker:
    """The configured trackers, continuing the records that `run_ids` names by tracker. UserError where W&B refuses the
    run."""
    from ebft.output.local_trackers import TensorboardTracker, TrackioTracker

    check(config)
    kept = without_secrets(resolved_config)
    trackers: list[Tracker] = []
    for name in names(config):
        if name == "wandb":
            assert isinstance(config, WandbTrackerConfig)
            trackers.append(WandbTracker(config, directory, kept, run_ids.get(name)))
        elif name == "trackio":
            assert isinstance(config, ProjectTrackerConfig)
            trackers.append(TrackioTracker(config, directory, kept, run_ids.get(name)))
        elif name == "tensorboard":
            trackers.append(TensorboardTracker(directory, kept))
    return trackers[0] if len(trackers) == 1 else Several(trackers)


class WandbTracker(Tracker):
    """One W&B run; `directory/wandb` holds its files."""

    def __init__(
        self, config: WandbTrackerConfig, directory: Path, resolved_config: dict[str, Any], run_id: str | None
    ) -> None:
        import wandb

        refuse_links([directory / "wandb"])
        _refuse_settings_of_run(Path.cwd())
        try:
            with _masked_command_line():
                mode, reason = _mode()
                self._run = wandb.init(
                    project=config.project,
                    entity=config.entity,
                    group=config.group,
                    name=config.run_name or directory.name,
                    tags=config.tags,
                    id=run_id,
                    resume="allow",
                    dir=directory,
                    config=resolved_config,
                    mode=mode,  # type: ignore[arg-type]
                    settings=wandb.Settings(
                        console="off", silent=True, init_timeout=INIT_SECONDS, finish_timeout=UPLOAD_SECONDS
                    ),
                )
        except wandb.errors.Error as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"tracker=wandb could not start ({reason}); check the API key and the project, or use tracker=none."
            ) from error
        self.run_ids = {"wandb": self._run.id}
        self.notices = [self._notice(mode, reason)]
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def _notice(self, mode: str, reason: str | None) -> str:
        if mode == "online":
            return f"W&B: {self._run.url}"
        if mode == "offline":
            because = f" because {reason}" if reason else ""
            return f"W&B is offline{because}; upload later with: wandb sync {self._run.settings.sync_dir}"
        return f"W&B: WANDB_MODE={mode}"

    def log(self, step: int, metrics: Metrics) -> None:
        self._run.log({"step": step, **metrics})

    def table(self, name: str, step: int, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
        import wandb

        data = [[step, *(row[column] for column in columns)] for row in rows]
        self._run.log({"step": step, name: wandb.Table(columns=["step", *columns], data=data)})

    def finish(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def _refuse_settings_of_run(here: Path) -> None:
    """Raises UserError for settings of W&B in a run folder, which may be somebody else's: where a command starts there,
    W&B reads them, and sends the user's key to whatever server they name."""
    if (here / "config.yaml").is_file() and (here / "metrics.jsonl").is_file():
        for settings in (here / folder / "settings" for folder in ("wandb", ".wandb")):
            if settings.exists():
                raise UserError(
                    f"{settings} came with a run and would tell W&B where to send figures; remove it, or start the "
                    "command in another folder."
                )


@contextmanager
def _masked_command_line() -> Iterator[None]:
    """What W&B keeps of the command line, it takes from `sys.argv` while a run is set up."""
    arguments, sys.argv = sys.argv, command_line()
    try:
        yield
    finally:
        sys.argv = arguments


def _mode() -> tuple[str, str | None]:
    """The mode for `wandb.init` and, where it was not the user's choice, the reason."""
    import wandb

    settings = wandb.setup(wandb.Settings(silent=True)).settings
    if settings.mode != "online":
        return settings.mode, None
    try:
        has_key = wandb.login(prompt=False, verify=False)
    except wandb.errors.Error as error:
        raise UserError(
            f"tracker=wandb found an API key that cannot be right ({error}); correct it or use tracker=none."
        ) from error
    return choose_mode(has_key, settings.base_url, answers)


def choose_mode(has_key: bool, base_url: str, probe: Callable[[str, int], bool]) -> tuple[str, str | None]:
    """Online with a key and a server that answers, else offline and why."""
    if not has_key:
        return "offline", "no API key is configured (wandb login)"
    if not probe(*endpoint(base_url)):
        return "offline", f"{base_url} does not answer"
    return "online", None


def endpoint(base_url: str) -> tuple[str, int]:
    """Host and port that a request to `base_url` connects to first: its own, or those of a configured proxy."""
    parts = urlsplit(base_url)
    assert parts.hostname is not None, base_url
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(parts.hostname):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)


def answers(host: str, port: int) -> bool:
    """Whether a TCP connection opens within PROBE_SECONDS. In a thread, because looking a name up knows no time
    limit."""
    connected: list[bool] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=PROBE_SECONDS).close()
        except OSError:
            return
        connected.append(True)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(connected)
