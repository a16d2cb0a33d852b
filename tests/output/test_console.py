import io
from pathlib import Path

import pytest
from rich import console as rich_console

from ebft.output import console
from ebft.output.console import Console, clock


class Time:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    monkeypatch.setattr(console, "time", Time())
    return console.time


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0, 21.4, 83, 3600 + 2 * 60 + 3)] == ["0:00", "0:21", "1:23", "1:02:03"]


def test_plain_lines_say_the_same_on_stdout_and_in_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = Console(tmp_path / "log")
    written.say("a [bold]line[/bold] :smile: " + 100 * "x")
    written.pairs("Plan", {"model": "tiny", "steps": "40"})
    written.table("Evaluation", ("metric", "base"), [("cross_entropy", "3.1000"), ("reward", "-0.2")])
    expected = (
        "a [bold]line[/bold] :smile: " + 100 * "x" + "\n"
        "Plan\n  model: tiny\n  steps: 40\n"
        "Evaluation\n  metric           base\n  cross_entropy  3.1000\n  reward           -0.2\n"
    )
    assert capsys.readouterr().out == expected
    assert (tmp_path / "log").read_text() == expected


def test_lines_come_at_every_tenth_of_the_way(tmp_path: Path, time: Time) -> None:
    with Console(tmp_path / "log").bar("step", 40, 0, every_tenth=True) as bar:
        for step in range(1, 13):
            time.now += 0.75
            bar.update(
                step, {"train/loss": 0.5, "train/reward": -0.25, "train/tokens_per_second": 12345.6, "train/other": 1.0}
            )
    assert (tmp_path / "log").read_text().splitlines() == [
        "step 4/40, 10 %, 0:27 left, loss 0.500, reward -0.250, tokens/s 12,346",
        "step 8/40, 20 %, 0:24 left, loss 0.500, reward -0.250, tokens/s 12,346",
        "step 12/40, 30 %, 0:21 left, loss 0.500, reward -0.250, tokens/s 12,346",
    ]


def test_who_knows_better_says_how_long_it_takes(tmp_path: Path, time: Time) -> None:
    known = iter([None, 83.0])
    with Console(tmp_path / "log").bar("step", 2, 0, every_tenth=True, seconds_left=lambda: next(known)) as bar:
        bar.update()
        bar.update()
    assert (tmp_path / "log").read_text().splitlines() == ["step 1/2, 50 %", "step 2/2, 100 %, 1:23 left"]


def test_slow_work_gets_a_line_every_ten_seconds(tmp_path: Path, time: Time) -> None:
    with Console(tmp_path / "log").bar("evaluation", 1000, 0, every_tenth=False) as bar:
        for _ in range(5):
            time.now += 4
            bar.update()
    assert (tmp_path / "log").read_text() == "evaluation 3/1000, 0 %, 1:06:28 left\n"


def test_fast_evaluation_prints_nothing(tmp_path: Path, time: Time) -> None:
    with Console(tmp_path / "log").bar("evaluation", 3, 0, every_tenth=False) as bar:
        for _ in range(3):
            bar.update()
    assert not (tmp_path / "log").exists()


def test_pace_of_a_resumed_run_counts_its_own_steps_only(tmp_path: Path, time: Time) -> None:
    with Console(tmp_path / "log").bar("step", 40, 30, every_tenth=True) as bar:
        time.now += 8
        bar.update(34)
    assert (tmp_path / "log").read_text() == "step 34/40, 85 %, 0:12 left\n"


def terminal(tmp_path: Path) -> tuple[Console, io.StringIO]:
    screen = io.StringIO()
    shown = Console(tmp_path / "log")
    shown._rich = rich_console.Console(file=screen, force_terminal=True, force_interactive=True, width=100)
    return shown, screen


def test_terminal_gets_bars_and_the_log_gets_lines(tmp_path: Path) -> None:
    shown, screen = terminal(tmp_path)
    shown.pairs("Plan", {"model": "[tiny]"})
    with shown.bar("step", 2, 0, every_tenth=True) as outer:
        outer.update(1, {"train/loss": 0.5})
        with shown.bar("evaluation", 3, 0, every_tenth=False) as inner:
            inner.update()
        outer.update(2, {"train/loss": 0.25})
        shown.say("between")
        assert shown._live is not None
        shown._live.refresh()  # which a thread does ten times a second
    assert "\x1b[" in screen.getvalue()
    assert "[tiny]" in screen.getvalue()
    assert "loss 0.250" in screen.getvalue()
    assert [line.split(",")[0] for line in (tmp_path / "log").read_text().splitlines()] == [
        "Plan",
        "  model: [tiny]",
        "step 1/2",
        "step 2/2",
        "between",
    ]
    assert "\x1b" not in (tmp_path / "log").read_text()


def test_terminal_is_given_back_after_an_error(tmp_path: Path) -> None:
    shown, screen = terminal(tmp_path)
    with (
        pytest.raises(RuntimeError, match="stop"),
        shown.bar("step", 2, 0, every_tenth=True),
        shown.bar("evaluation", 3, 0, every_tenth=False),
    ):
        raise RuntimeError("stop")
    assert screen.getvalue().rindex("\x1b[?25h") > screen.getvalue().rindex("\x1b[?25l")  # the cursor is visible again
    with shown.bar("step", 2, 0, every_tenth=True) as bar:
        bar.update()


def test_what_others_wrote_does_not_act(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = Console(tmp_path / "log")
    written.say("\x1b[2Jsay")
    written.pairs("Plan", {"model": "\u202eynit"})
    written.table("Evaluation", ("metric", "\x9b1m"), [("a", "\x07")])
    shown = "\\x1b[2Jsay\nPlan\n  model: \\u202eynit\nEvaluation\n  metric  \\x9b1m\n  a         \\x07\n"
    assert capsys.readouterr().out == (tmp_path / "log").read_text() == shown
