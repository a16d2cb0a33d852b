"""Profiles of steps, and the arithmetic of utilisation."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ebft.run.folder import StopSignals
from ebft.run.profiling import Profile, operators, utilization
from ebft.train.loop import Loop, train
from ebft.train.optimization import Optimization
from ebft.train.setup import prepare
from tests.debug_run import assert_same_run, miniature, summary

pytestmark = pytest.mark.usefixtures("no_report")

CPU, GPU = torch.autograd.DeviceType.CPU, torch.autograd.DeviceType.CUDA
ROOMY = ["method=sft", "eval.every_steps=10", "trainer.checkpoint_every_steps=10"]  # nothing is due between steps
ROLLOUTS = [*ROOMY, "method=ebft", "trainer.batch_size=2"]  # of which a step has thousands of operators


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def steps_in(run: Path) -> list[str]:
    """Names of the steps in a run's trace."""
    with gzip.open(run / "profile" / "trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    return sorted(
        event["name"] for event in events if event.get("cat") == "user_annotation" and event["name"].startswith("step ")
    )


def entry(
    name: str, calls: int, own: float, total: float, own_device: float = 0.0, total_device: float = 0.0, **changes: Any
) -> SimpleNamespace:
    """As torch's averages have them, in microseconds."""
    times = {
        "self_cpu_time_total": own,
        "cpu_time_total": total,
        "self_device_time_total": own_device,
        "device_time_total": total_device,
    }
    return SimpleNamespace(
        **({"key": name, "count": calls, "is_user_annotation": False, "device_type": CPU} | times | changes)
    )


AVERAGES = [
    entry("aten::linear", 7, 1_000.0, 4_000.0, 0.0, 9_000.0),
    entry("aten::mm", 1_234, 3_000.0, 3_000.0, 9_000.0, 9_000.0),
    entry("step 2", 1, 90_000.0, 95_000.0, is_user_annotation=True),
    entry("sgemm", 7, 0.0, 0.0, 9_000.0, 9_000.0, device_type=GPU),
    entry("aten::add", 3, 1_000.0, 1_000.0, 3_000.0, 3_000.0),
]


def test_operators_by_their_own_time() -> None:
    """5 ms of the CPU and 12 of the GPU; the range that a program named is no operator, and a kernel's time is its
    operator's."""
    assert operators(AVERAGES, "cpu", [2, 3, 4]) == (
        "Operators of steps 2 to 4 by their own time on the CPU, in milliseconds; the total is with the operators "
        "they call.\n\n"
        "| operator | calls | own | share | total |\n| --- | --- | --- | --- | --- |\n"
        "| `aten::mm` | 1,234 | 3.00 | 60.0 % | 3.00 |\n"
        "| `aten::linear` | 7 | 1.00 | 20.0 % | 4.00 |\n"
        "| `aten::add` | 3 | 1.00 | 20.0 % | 1.00 |\n"
    )
    *_, first, second, third = operators(AVERAGES, "cuda", [5]).splitlines()
    assert (first, second) == (
        "| `aten::mm` | 1,234 | 9.00 | 75.0 % | 9.00 |",
        "| `aten::add` | 3 | 3.00 | 25.0 % | 3.00 |",
    )
    assert third == "| `aten::linear` | 7 | 0.00 | 0.0 % | 9.00 |"


def test_ten_operators_are_listed_with_their_share_of_all() -> None:
    lines = operators([entry(f"aten::op{n}", 1, n, n) for n in range(1, 14)], "cpu", [2]).splitlines()
    assert len(lines) == 4 + 10
    assert (lines[4], lines[-1]) == (
        "| `aten::op13` | 1 | 0.01 | 14.3 % | 0.01 |",
        "| `aten::op4` | 1 | 0.00 | 4.4 % | 0.00 |",
    )


def test_a_device_of_which_torch_saw_nothing_is_named() -> None:
    assert (
        operators([entry("aten::mm", 1, 5.0, 5.0)], "cuda", [2, 3])
        == "torch recorded no operator on the GPU in steps 2 to 3.\n"
    )


def test_utilisation() -> None:
    """11 tokens of 13 operations in 7 seconds, of 17 a second."""
    assert utilization(11, 13, 7, 17) == pytest.approx(143 / 119)


@pytest.mark.slow
def test_a_run_with_a_peak_logs_its_share_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Per token 2 layers of 2 operations a parameter and 4 * 48 for each of the (23 + 1) / 2 tokens that one sees."""
    begin = Loop.__init__

    def with_peak(self: Loop, *args: Any) -> None:
        begin(self, *args)
        self.peak = 7e12

    monkeypatch.setattr(Loop, "__init__", with_peak)
    config, run = miniature(tmp_path, "method=sft", "trainer.max_steps=2"), tmp_path / "run"
    train(config, run)
    layer = prepare(config).workload.network.layer_parameters
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    shares = [(row["train/mfu"], row["train/tokens_per_second"]) for row in found if "train/loss" in row]
    assert len(shares) == 2
    for share, tokens_per_second in shares:
        assert share == pytest.approx(tokens_per_second * 2 * (2 * layer + 4 * 48 * 12) / 7e12)
    log = (run / "train.log").read_text()
    assert "train/mfu is a share of 7.0 TFLOP/s, which a large fp32 matmul reaches here." in log
    assert ", mfu 0.000" in log


@pytest.mark.slow
def test_a_run_on_a_cpu_has_no_utilisation(tmp_path: Path) -> None:
    train(miniature(tmp_path, "method=sft", "trainer.max_steps=1"), tmp_path / "run")
    assert "mfu" not in (tmp_path / "run" / "metrics.jsonl").read_text() + (tmp_path / "run" / "train.log").read_text()


@pytest.mark.slow
def test_a_profiled_run_is_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, run = miniature(tmp_path, *ROLLOUTS, "trainer.profile=true"), tmp_path / "run"
    train(config, run)
    assert steps_in(run) == ["step 2", "step 3", "step 4"]
    assert sorted(path.name for path in (run / "profile").iterdir()) == ["operators.md", "trace.json.gz"]
    assert (
        (run / "profile" / "operators.md")
        .read_text()
        .startswith("Operators of steps 2 to 4 by their own time on the CPU")
    )
    assert f"Profile of steps 2 to 4: {run / 'profile'}\n" in capsys.readouterr().out
    train(miniature(tmp_path, *ROLLOUTS), tmp_path / "straight")
    assert_same_run(run, tmp_path / "straight")
    assert not (tmp_path / "straight" / "profile").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        (["eval.every_steps=3"], ["step 2", "step 3"]),
        (["trainer.checkpoint_every_steps=2"], ["step 2"]),
        (["trainer.max_steps=2"], ["step 2"]),
        (["trainer.max_steps=1"], ["step 1"]),
    ],
    ids=["evaluation", "checkpoint", "short", "shortest"],
)
def test_a_profile_ends_where_something_else_is_due(tmp_path: Path, overrides: list[str], steps: list[str]) -> None:
    last = {override.partition("=")[0]: override for override in (*ROOMY, *overrides)}
    train(miniature(tmp_path, *last.values(), "trainer.profile=true"), tmp_path / "run")
    assert steps_in(tmp_path / "run") == steps


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The step with that index, counted from 0, asks the run to stop."""
    original, signals = Optimization.step, []
    enter = StopSignals.__enter__
    monkeypatch.setattr(StopSignals, "__enter__", lambda self: (signals.append(self), enter(self))[1])

    def stepped(self: Optimization, method: Any, batch: Any, number: int, *limits: Any) -> dict[str, float]:
        signals[-1].requested |= number == step
        return original(self, method, batch, number, *limits)

    monkeypatch.setattr(Optimization, "step", stepped)


@pytest.mark.slow
def test_an_interrupted_run_has_the_steps_it_took_and_a_resumed_one_its_own(tmp_path: Path) -> None:
    config, run = miniature(tmp_path, *ROOMY, "trainer.profile=true"), tmp_path / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        interrupt(monkeypatch, 2)
        assert train(config, run) == "interrupted"
    assert steps_in(run) == ["step 2", "step 3"]
    assert train(config, run) == "completed"
    assert steps_in(run) == ["step 5", "step 6", "step 7"]
    train(miniature(tmp_path, *ROOMY), tmp_path / "straight")
    straight, resumed = (len(list((folder / "checkpoints").iterdir())) for folder in (tmp_path / "straight", run))
    assert (straight, resumed) == (1, 2)  # the interruption's checkpoint is among those kept
    for name in ("steps", "tokens_forwarded", "final"):
        assert summary(run)[name] == summary(tmp_path / "straight")[name]


@pytest.mark.slow
def test_a_run_that_fails_in_a_profiled_step_leaves_no_profile_and_no_profiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run, original = miniature(tmp_path, *ROOMY, "trainer.profile=true"), tmp_path / "run", Optimization.step

    def failing(self: Optimization, method: Any, batch: Any, number: int, *limits: Any) -> dict[str, float]:
        if number == 2:
            raise RuntimeError("out of luck")
        return original(self, method, batch, number, *limits)

    monkeypatch.setattr(Optimization, "step", failing)
    with pytest.raises(RuntimeError, match="out of luck"):
        train(config, run)
    assert summary(run)["status"] == "failed"
    assert not [path for path in run.iterdir() if "profile" in path.name]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as another:  # torch has one at a time
        torch.ones(3) + 1
    assert "aten::add" in {row.key for row in another.key_averages()}


@pytest.mark.slow
def test_a_profile_may_be_asked_for_when_a_run_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(miniature(tmp_path, *ROOMY, "trainer.max_steps=4"), run)
    train(miniature(tmp_path, *ROOMY, "trainer.profile=true"), run)
    assert steps_in(run) == ["step 6", "step 7", "step 8"]


def test_closing_without_a_step_writes_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    profile = Profile(tmp_path, "cpu", 5, said.append)
    profile.close()
    profile.discard()
    assert (said, list(tmp_path.iterdir())) == ([], [])
