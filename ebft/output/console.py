"""What a person sees: lines, tables and progress, on the terminal and as plain lines in `train.log`.

On a terminal progress is a live bar; elsewhere it is a line now and then. The log gets those lines either way and never
an escape code.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich import console as rich_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from ebft.output.files import append
from ebft.output.tracking import Metrics
from ebft.output.visible import visible

SECONDS_BETWEEN_LINES = 10.0
FIGURES = {
    "train/loss": "loss",
    "train/reward": "reward",
    "train/cross_entropy": "cross-entropy",
    "train/tokens_per_second": "tokens/s",
    "train/mfu": "mfu",
}


SecondsLeft = Callable[[], float | None]  # None: not known yet


class Console:
    """The terminal (or whatever stdout is), unless it is to be quiet, and a log file, if there is one."""

    def __init__(self, log_path: Path | None, quiet: bool = False) -> None:
        self._rich = rich_console.Console(quiet=quiet)
        self._log_path = log_path
        self._live: Progress | None = None

    def say(self, text: str) -> None:
        self._print(text)
        self._write(text)

    def note(self, text: str) -> None:
        """A line for the log alone."""
        self._write(text)

    def pairs(self, title: str, rows: Mapping[str, str]) -> None:
        """Named values: a table on a terminal, `key: value` lines elsewhere."""
        rows = {key: visible(value) for key, value in rows.items()}
        lines = [title, *(f"  {key}: {value}" for key, value in rows.items())]
        if self._rich.is_interactive:
            table = Table(title=title, title_justify="left", show_header=False)
            for key, value in rows.items():
                table.add_row(Text(key, style="bold"), Text(value))
            self._rich.print(table)
        else:
            self._print("\n".join(lines))
        self._write("\n".join(lines))

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Columns of figures under a header; the first column holds names."""
        header, rows = [visible(name) for name in header], [[visible(cell) for cell in row] for row in rows]
        lines = [title, *aligned([header, *rows])]
        if self._rich.is_interactive:
            table = Table(title=title, title_justify="left")
            for position, name in enumerate(header):
                table.add_column(name, justify="right" if position else "left")
            for row in rows:
                table.add_row(*map(Text, row))
            self._rich.print(table)
        else:
            self._print("\n".join(lines))
        self._write("\n".join(lines))

    @contextmanager
    def bar(
        self, label: str, total: int, done: int, every_tenth: bool, seconds_left: SecondsLeft | None = None
    ) -> Iterator["Bar"]:
        """Progress from `done` to `total`; bars may nest. Lines come every 10 seconds, and at every tenth of the way
        where asked for. `seconds_left` knows better than the pace so far how long the work still takes, if it is not
        all of one kind."""
        if not self._rich.is_interactive:
            yield Bar(self, label, total, done, every_tenth, seconds_left)
            return
        owner = self._live is None
        if self._live is None:
            self._live = _live(self._rich)
            self._live.start()
        bar = Bar(self, label, total, done, every_tenth, seconds_left)
        try:
            bar.task = self._live.add_task(label, total=total, completed=done, left="", figures="")
            yield bar
        finally:
            self._live.remove_task(bar.task)
            if owner:
                self._live.stop()
                self._live = None

    def show(self, bar: "Bar", figures: str, is_due: bool) -> None:
        """Brings the live bar up to date; where a line is due, writes it into the log and, without a terminal, prints
        it."""
        if self._live is not None:
            self._live.update(bar.task, completed=bar.done, left=bar.left, figures=figures)
        if is_due:
            progress = f"{bar.label} {bar.done}/{bar.total}, {100 * bar.done // bar.total} %"
            line = ", ".join(part for part in (progress, bar.left, figures) if part)
            self._write(line)
            if self._live is None:
                self._print(line)

    def _print(self, text: str) -> None:
        self._rich.print(Text(visible(text)), soft_wrap=True)

    def _write(self, text: str) -> None:
        if self._log_path is not None:
            append(self._log_path, visible(text) + "\n")


class Bar:
    """A progress bar: where a long piece of work stands, and the time it still needs, at the pace so far where nobody
    knows better."""

    task = TaskID(0)  # number of the live bar, on a terminal

    def __init__(
        self,
        console: Console,
        label: str,
        total: int,
        done: int,
        every_tenth: bool,
        seconds_left: SecondsLeft | None = None,
    ) -> None:
        self.label, self.total, self.done = label, total, done
        self._seconds_left = seconds_left or self._at_this_pace
        self._console, self._every_tenth = console, every_tenth
        self._first = self._shown = done
        self._started_at = self._shown_at = time.monotonic()

    @property
    def left(self) -> str:
        seconds = self._seconds_left()
        return "" if seconds is None else f"{clock(seconds)} left"

    def _at_this_pace(self) -> float | None:
        if self.done == self._first:
            return None
        elapsed = time.monotonic() - self._started_at
        return elapsed / (self.done - self._first) * (self.total - self.done)

    def update(self, done: int | None = None, metrics: Metrics | None = None) -> None:
        """`done` so far, one more than before where it is None, with the figures of the moment."""
        self.done = self.done + 1 if done is None else done
        self._console.show(self, _figures(metrics or {}), self._is_due())

    def _is_due(self) -> bool:
        now = time.monotonic()
        crossed = 10 * self.done // self.total > 10 * self._shown // self.total
        is_due = now - self._shown_at >= SECONDS_BETWEEN_LINES or (self._every_tenth and crossed)
        if is_due:
            self._shown, self._shown_at = self.done, now
        return is_due


def clock(seconds: float) -> str:
    """m:ss, or h:mm:ss from one hour."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _figures(metrics: Metrics) -> str:
    return ", ".join(f"{label} {_short(metrics[name])}" for name, label in FIGURES.items() if name in metrics)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if position else cell.ljust(width)
            for position, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _live(console: rich_console.Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn())
    return Progress(
        *columns,
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[figures]}"),
        console=console,
        transient=True,
    )
