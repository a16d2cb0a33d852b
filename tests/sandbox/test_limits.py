"""A run's time: by the processor, by the clock only for what is neither computing nor waiting, and starvation apart."""

import os
import sys
import time
from dataclasses import replace

import pytest

from ebft.sandbox import Sandbox
from ebft.sandbox import limits as run_limits
from ebft.sandbox.clocks import Clocks
from ebft.sandbox.limits import Starved, Stopwatch
from tests.sandbox.helpers import CONFIG, program


@pytest.mark.parametrize(
    ("elapsed", "cpu", "waited", "own_wait", "busy", "raised"),
    [
        (1.9, 1.9, 0.0, 0.0, False, None),
        (2.0, 2.0, 0.0, 0.0, False, TimeoutError),  # computed
        (30.0, 2.0, 28.0, 0.0, True, TimeoutError),  # computed, on a machine at load 15
        (5.1, 0.1, 0.0, 0.0, False, TimeoutError),  # slept
        (5.0, 0.1, 1.0, 0.0, False, None),  # slept for 3.9
        (60.0, 1.0, 57.0, 0.0, True, None),  # waited
        (60.0, 1.0, 30.0, 27.0, True, None),  # waited for us, who waited
        (60.0, 1.0, 30.0, 0.0, True, TimeoutError),  # slept for 29, busy machine or not
        (100.0, 1.0, 98.0, 0.0, True, Starved),
        (5.0, 0.1, None, 0.0, False, TimeoutError),  # where nobody knows how long it waited
        (4.9, 0.1, None, 0.0, False, None),
        (5.0, 0.1, None, 0.0, True, Starved),
        (5.0, None, None, 0.0, False, TimeoutError),
    ],
)
def test_a_program_has_its_time_and_a_starved_one_is_no_slow_one(
    elapsed: float,
    cpu: float | None,
    waited: float | None,
    own_wait: float,
    busy: bool,
    raised: type[Exception] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two seconds of processor time, five on the clock, given up after a hundred."""
    now, own = [1000.0], [7.0]
    monkeypatch.setattr(run_limits.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(run_limits, "own_wait_seconds", lambda: own[0])
    watch = Stopwatch(2.0, 5.0, lambda: (cpu, waited), lambda: busy)
    now[0], own[0] = 1000.0 + elapsed, 7.0 + own_wait
    if raised is None:
        watch.look()
    else:
        with pytest.raises(raised):
            watch.look()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processes_that_share_a_processor_wait_for_it() -> None:
    """Two that compute on one core, for a fifth of a second: each has about half of it and waits for the other half."""
    core = {min(os.sched_getaffinity(0))}
    clocks, children = Clocks(), []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            os.sched_setaffinity(0, core)
            while True:
                pass
        children.append(child)
    time.sleep(0.2)
    cpu, waited = clocks.read(children)
    for child in children:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert cpu is not None
    assert cpu > 0.01
    assert waited is None or waited > 0.05


@pytest.mark.slow
def test_a_starved_program_is_tried_again_alone_and_is_an_error_and_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = []

    def starve(watch: Stopwatch) -> None:
        started.append(watch)
        raise Starved

    sleeping = program("import time\ndef f(x):\n    time.sleep(0.3)\n    return x", ((1,), 1))
    with Sandbox(replace(CONFIG, seconds=2.0)) as sandbox:
        assert sandbox.run_all([sleeping])[0].kind == "passed"
        monkeypatch.setattr(Stopwatch, "look", starve)
        outcomes = sandbox.run_all([sleeping, program("def f(x): return x", ((1,), 1))])
        assert [(outcome.status, outcome.kind) for outcome in outcomes] == [
            ("error", "the machine had no processor for the program"),
            ("passed", "passed"),
        ]
        assert len(started) == 2
        monkeypatch.setattr(Stopwatch, "look", lambda watch: None if len(started) == 3 else starve(watch))
        assert sandbox.run_all([sleeping])[0].kind == "passed"


@pytest.mark.slow
def test_a_program_that_took_too_long_has_not_passed_whenever_we_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stopwatch, "look", lambda _: None)
    slow = program("import time\ndef f(x):\n    while time.process_time() < 0.3: pass\n    return x", ((1,), 1))
    with Sandbox(replace(CONFIG, seconds=0.2)) as sandbox:
        assert sandbox.run(slow).kind == "timeout"
    with Sandbox(replace(CONFIG, seconds=2.0)) as sandbox:
        assert sandbox.run(slow).kind == "passed"
