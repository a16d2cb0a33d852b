"""What the tests cost: CPU time of each and memory of every worker, told at the end of a run with `--limits`.

A test that is not marked `slow` fails where it takes ten times what it should, and the run where a worker takes more
memory than two of them have on a laptop. CPU time is counted, a test's own and that of the processes that it waited
for, since a busy machine stretches wall time without end; the total is only told, since the machine decides it too.
"""

import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

TEST_SECONDS = 10.0  # of CPU, without the marker; about one is meant, and a first import of a library may be among them
WORKER_MEGABYTES = 2000.0
RUN_SECONDS = 2 * 9 * 60.0  # of CPU: what two cores have in nine minutes
NUM_TOLD = 40


@dataclass(frozen=True)
class Cost:
    """Of one test, with its fixtures."""

    name: str
    worker: str
    cpu_seconds: float
    wall_seconds: float
    peak_megabytes: float  # of the worker, from its start to the test's end


def cpu_seconds() -> float:
    """Of this process and of the ended ones that it waited for."""
    return sum(os.times()[:4])


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def resident_megabytes() -> float:
    """Of this process now, under Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


class Meter:
    """Measures where tests run: in a worker, or here where there are none."""

    def __init__(self) -> None:
        self._start = self._call = (0.0, 0.0)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        self._start = cpu_seconds(), time.monotonic()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        now = cpu_seconds(), time.monotonic()
        if call.when == "setup":
            self._call = now
        elif call.when == "call" and report.passed and item.get_closest_marker("slow") is None:
            fail_above_limit(report, now[0] - self._call[0])
        elif call.when == "teardown":
            worker = os.environ.get("PYTEST_XDIST_WORKER", "tests")
            cost = (worker, now[0] - self._start[0], now[1] - self._start[1], peak_megabytes())
            report.user_properties.append(("cost", cost))
        return report


def fail_above_limit(report: pytest.TestReport, seconds: float) -> None:
    if seconds > TEST_SECONDS:
        report.outcome = "failed"
        report.longrepr = (
            f"It took {seconds:.1f} s of CPU, above the {TEST_SECONDS:g} of a test that is not marked slow; make it "
            "smaller, or mark it."
        )


class Teller:
    """Collects what all workers measured, and says it."""

    def __init__(self) -> None:
        self.costs: list[Cost] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.costs += [Cost(report.nodeid, *value) for name, value in report.user_properties if name == "cost"]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.OK and max(self.peaks().values(), default=0) > WORKER_MEGABYTES:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.costs:
            terminalreporter.section("what the tests cost")
            for line in self.lines():
                terminalreporter.line(line)

    def peaks(self) -> dict[str, float]:
        """Megabytes by worker."""
        peaks: dict[str, float] = defaultdict(float)
        for cost in self.costs:
            peaks[cost.worker] = max(peaks[cost.worker], cost.peak_megabytes)
        return dict(peaks)

    def rises(self) -> dict[str, float]:
        """Megabytes by which a test's end had its worker's peak above the test before, without the first's imports."""
        before: dict[str, float] = {}
        rises: dict[str, float] = {}
        for cost in self.costs:
            rises[cost.name] = cost.peak_megabytes - before.get(cost.worker, cost.peak_megabytes)
            before[cost.worker] = cost.peak_megabytes
        return rises

    def lines(self) -> list[str]:
        files: dict[str, float] = defaultdict(float)
        for cost in self.costs:
            files[cost.name.partition("::")[0]] += cost.cpu_seconds
        tests = {cost.name: cost.cpu_seconds for cost in self.costs}
        lines = [f"{sum(tests.values()):.0f} s of CPU, of the {RUN_SECONDS:.0f} that two cores have in nine minutes"]
        for worker, peak in sorted(self.peaks().items()):
            wall = sum(cost.wall_seconds for cost in self.costs if cost.worker == worker)
            above = f", ABOVE THE LIMIT OF {WORKER_MEGABYTES:.0f}" if peak > WORKER_MEGABYTES else ""
            lines.append(f"{worker}: {wall:.0f} s, {peak:.0f} MB at most{above}")
        for title, unit, figures in (
            ("files that took the most CPU time", "s", files),
            ("tests that took the most CPU time", "s", tests),
            ("tests that raised their worker's memory the most", "MB", self.rises()),
        ):
            lines.append(f"{title}:")
            most = sorted(figures, key=figures.__getitem__, reverse=True)[:NUM_TOLD]
            lines += [f"{figures[name]:8.1f} {unit}  {name}" for name in most]
        return lines
