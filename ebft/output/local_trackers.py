"""Trackers on this machine, without an account or a network: Trackio and TensorBoard. The only module that imports
either."""

import io
import secrets
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import yaml

from ebft.config.schema import ProjectTrackerConfig
from ebft.output.files import refuse_links
from ebft.output.tracking import Metrics, Tracker
from ebft.output.visible import markdown

TENSORBOARD = "tensorboard"  # its folder in a run folder


class TrackioTracker(Tracker):
    """One run of Trackio, which keeps all projects of a user in one place, so a run's name must not be another's."""

    def __init__(
        self, config: ProjectTrackerConfig, directory: Path, resolved_config: dict[str, Any], run_id: str | None
    ) -> None:
        import trackio

        name = run_id or f"{config.run_name or directory.name}-{secrets.token_hex(2)}"
        with redirect_stdout(io.StringIO()):  # of its announcements
            self._run = trackio.init(
                project=config.project,
                name=name,
                group=config.group,
                config=resolved_config,
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        self.run_ids = {"trackio": name}
        self.notices = [f"Trackio: {name} in project {config.project}; look at it with: trackio show"]

    def log(self, step: int, metrics: Metrics) -> None:
        self._run.log(dict(metrics), step=step)

    def table(self, name: str, step: int, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
        import trackio

        data = [[row[column] for column in columns] for row in rows]
        self._run.log({name: trackio.Table(columns=list(columns), data=data)}, step=step)

    def finish(self, failed: bool) -> None:
        with redirect_stdout(io.StringIO()):
            self._run.finish()


class TensorboardTracker(Tracker):
    """`directory/tensorboard`. A resumed run adds a file there, which repeats the steps that it takes again."""

    def __init__(self, directory: Path, resolved_config: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        refuse_links([directory / TENSORBOARD])
        self._writer = SummaryWriter(str(directory / TENSORBOARD))
        self._writer.add_text("config", f"```yaml\n{yaml.safe_dump(resolved_config, sort_keys=False)}```")
        self.notices = [f"TensorBoard: tensorboard --logdir {directory}"]

    def log(self, step: int, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def table(self, name: str, step: int, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
        lines = [list(columns), ["---"] * len(columns), *([str(row[column]) for column in columns] for row in rows)]
        text = "".join(f"| {' | '.join(map(markdown, line))} |\n" for line in lines)
        self._writer.add_text(name, text, step)

    def finish(self, failed: bool) -> None:
        self._writer.close()
