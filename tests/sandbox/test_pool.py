"""The sandbox as a whole: its level, its pool, its deadlines, what it does when its own machinery fails, and what it
leaves behind."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ebft.config.schema import RunFailure, UserError
from ebft.sandbox import Sandbox, kernel, levels, pool, worker
from tests.sandbox.helpers import CONFIG, program
from tests.sandbox.machines import ROOT

RIGHT = program("def f(x): return x", ((1,), 1))
HANGING = program("def f(x):\n    while True: pass", ((1,), 1))
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def descendants(pid: int) -> set[int]:
    """Living processes that `pid` started, and that those started."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rsplit(")", 1)[1].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    found, left = set[int](), [pid]
    while left:
        new = children.get(left.pop(), [])
        found.update(new)
        left += new
    return found


@pytest.mark.parametrize(
    ("parts", "level"),
    [
        ([], "none"),
        (["seccomp", "landlock", "namespaces"], "none"),
        (["rlimits"], "rlimits"),
        (["rlimits", "landlock", "namespaces"], "rlimits"),
        (["rlimits", "seccomp", "landlock"], "landlock"),
        (["rlimits", "seccomp", "landlock", "namespaces"], "namespaces"),
    ],
)
def test_a_level_needs_all_its_parts(parts: list[str], level: str) -> None:
    assert levels.level(parts) == level


@pytest.mark.parametrize("parts", [levels.PARTS, levels.PARTS[:3], levels.PARTS[:2], levels.PARTS[:1], ()])
def test_right_passes_and_wrong_fails_at_every_level(parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "PARTS", parts)
    with Sandbox(CONFIG) as sandbox:
        assert set(sandbox.parts) <= set(parts)
        sandbox.check_canaries()


def test_a_level_below_the_required_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "PARTS", ())
    message = (
        "sandbox.require=landlock, but this machine reaches only none: rlimits, seccomp, landlock failed; "
        "use another machine, .*require=none"
    )
    with pytest.raises(UserError, match=message):
        Sandbox(replace(CONFIG, require="landlock"))
    with Sandbox(CONFIG) as sandbox:
        assert sandbox.level == "none"


def test_a_limit_that_the_system_ignores_earns_no_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux does not limit root's processes, so that without the filter a fork bomb would go on."""
    monkeypatch.setattr(levels, "PARTS", ("rlimits",))
    with Sandbox(CONFIG) as sandbox:
        assert sandbox.level == ("none" if os.geteuid() == 0 else "rlimits")


@pytest.mark.slow
def test_threads_are_counted_where_users_are_namespaced(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> None:
    source = """
import threading, time
def f(count):
    for _ in range(count): threading.Thread(target=time.sleep, args=(1000,)).start()
    return threading.active_count()
"""
    if sandbox.level != "namespaces":
        pytest.skip("needs namespaces")
    with Sandbox(replace(CONFIG, processes=4)) as threaded:
        assert threaded.run(program(source, ((3,), 4))).kind == "passed"
        assert threaded.run(program(source, ((20,), 21))).kind == "exception"
        assert threaded.run(program("import os\ndef f(): return os.fork()", ((), 1))).kind == "forbidden"
    monkeypatch.setattr(levels, "PARTS", levels.PARTS[:3])
    with pytest.raises(UserError, match=r"sandbox\.processes=4 can be enforced with namespaces only"):
        Sandbox(replace(CONFIG, processes=4))


@pytest.mark.slow
def test_outcomes_come_in_order_and_a_hanging_program_costs_only_its_own_limit(sandbox: Sandbox) -> None:
    programs = [program("def f(x): return x", ((number,), number if number % 3 else 0)) for number in range(1, 16)]
    started = time.monotonic()
    outcomes = sandbox.run_all([HANGING, *programs])
    assert time.monotonic() - started < 10
    assert outcomes[0].kind == "timeout"
    assert outcomes[0].seconds >= 0.5
    assert [outcome.kind for outcome in outcomes[1:]] == ["passed", "passed", "wrong_value"] * 5


@pytest.mark.slow
def test_what_the_batch_has_no_time_for_is_an_error_and_not_a_failure() -> None:
    with Sandbox(replace(CONFIG, workers=1, batch_seconds=0.1)) as sandbox:
        outcomes = sandbox.run_all([HANGING, RIGHT, RIGHT])
        assert [outcome.status for outcome in outcomes] == ["failed", "error", "error"]
        assert outcomes[2].kind == "not started within sandbox.batch_seconds"
        assert sandbox.run_all([RIGHT])[0].status == "passed"


def test_no_programs_no_outcomes(sandbox: Sandbox) -> None:
    assert sandbox.run_all([]) == []


def test_a_sandbox_that_cannot_tell_right_from_wrong_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox
) -> None:
    sandbox.check_canaries()
    monkeypatch.setitem(pool.CANARIES, "failed", pool.CANARIES["passed"])
    with pytest.raises(RunFailure, match="a program that should have failed got passed"):
        sandbox.check_canaries()


def test_an_interpreter_that_does_not_start_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_COMMAND", ["/no/such/python"])
    with pytest.raises(RunFailure, match=r"could not start its first process \(FileNotFoundError"):
        Sandbox(CONFIG)


@pytest.mark.slow
@linux
@pytest.mark.parametrize("parts", [levels.PARTS, levels.PARTS[:3]])
def test_our_own_failure_is_an_error_and_the_next_program_runs(
    parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(levels, "PARTS", parts)
    before = descendants(os.getpid())
    with Sandbox(replace(CONFIG, workers=1)) as sandbox:
        for pid in descendants(os.getpid()) - before:
            os.kill(pid, signal.SIGKILL)
        outcome = sandbox.run(RIGHT)
        assert (outcome.status, outcome.num_tests) == ("error", 0)
        assert sandbox.run(RIGHT).status == "passed"


@pytest.mark.slow
@linux
def test_a_process_that_the_system_kills_is_an_error() -> None:
    """As the kernel does when the machine is out of memory."""
    before = descendants(os.getpid())
    with Sandbox(replace(CONFIG, workers=1, seconds=20.0)) as sandbox:
        ours = descendants(os.getpid())

        def kill_the_program(*_: object) -> None:
            for pid in descendants(os.getpid()) - ours - before:
                os.kill(pid, signal.SIGKILL)

        previous = signal.signal(signal.SIGALRM, kill_the_program)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            outcome = sandbox.run(HANGING)
        finally:
            signal.signal(signal.SIGALRM, previous)
        assert (outcome.status, "the system killed" in outcome.kind) == ("error", True)


LEAVERS = {
    "threads": program(
        "import threading, time\ndef f(x):\n    threading.Thread(target=time.sleep, args=(99,)).start()\n    return x",
        ((1,), 1),
    ),
    "hanging": HANGING,
    "files": program(
        "def f(x):\n    for n in range(9): open(str(n), 'w').write('a')\n    return x",
        ((1,), 1),
        code="open('a', 'w')\nassert f(1) == 1",
    ),
}
DAEMON = """
import os, signal, time
def f(x):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.setsid()
                os.makedirs(f"{os.getpid()}/a/b")
            time.sleep(99)
    return x
"""


@pytest.mark.slow
@linux
@pytest.mark.parametrize("parts", [levels.PARTS, levels.PARTS[:3], ()])
def test_nothing_is_left_of_a_run(parts: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any confinement not even daemons are left, which the filter would have refused."""
    monkeypatch.setattr(levels, "PARTS", parts)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = descendants(os.getpid())
    with Sandbox(replace(CONFIG, workers=1, processes=4 if len(parts) == 4 else 1)) as sandbox:
        sandbox.run(RIGHT)
        idle = descendants(os.getpid())
        outcomes = [sandbox.run(leaver) for leaver in [*LEAVERS.values(), program(DAEMON, ((1,), 1))]]
        assert descendants(os.getpid()) == idle
        assert list(tmp_path.iterdir()) == []
        assert (outcomes[-1].kind, outcomes[2].kind) == ("forbidden" if parts else "passed", "passed")
    assert descendants(os.getpid()) == before


@pytest.mark.slow
@linux
@pytest.mark.parametrize("parts", [levels.PARTS, levels.PARTS[:3]])
def test_a_runner_that_is_killed_takes_everything_with_it(parts: tuple[str, ...], tmp_path: Path) -> None:
    """A program that would run for a minute, in a runner that is killed without a chance to clean up."""
    main = f"""
import dataclasses
from ebft.sandbox import Sandbox, levels
from tests.sandbox.helpers import CONFIG, program
levels.PARTS = {parts!r}
sandbox = Sandbox(dataclasses.replace(CONFIG, seconds=60.0))
print("started", flush=True)
sandbox.run(program("def f():\\n    while True: pass", ((), 1)))
"""
    environment = {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    runner = subprocess.Popen([sys.executable, "-c", main], env=environment, stdout=subprocess.PIPE)
    assert runner.stdout is not None
    assert runner.stdout.readline() == b"started\n"
    time.sleep(0.2)
    processes = descendants(runner.pid)
    assert len(processes) >= 2
    runner.kill()
    runner.wait()
    runner.stdout.close()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in processes):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert list(tmp_path.iterdir()) == []


def test_kernel_errors_are_errors() -> None:
    if sys.platform == "linux":
        with pytest.raises(OSError, match="Invalid argument"):
            kernel.prctl(-1)
