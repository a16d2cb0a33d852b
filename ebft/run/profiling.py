"""Where a run's time goes: the share of the device's matmul peak that a step reaches, and a torch profile of a few
steps."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from ebft.output.files import atomic_folder

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FOLDER, TRACE, OPERATORS = "profile", "trace.json.gz", "operators.md"
NUM_STEPS, NUM_OPERATORS = 3, 10
MATMUL_WIDTH, NUM_MATMULS = {"cpu": 1024, "cuda": 8192}, 10


def utilization(tokens: float, flops_per_token: float, seconds: float, peak: float) -> float:
    """Model-FLOPs utilisation: `tokens` forwards of a token (a backward counts as two; what is computed again does not
    count) in `seconds`, as a share of `peak` operations a second."""
    return tokens * flops_per_token / (seconds * peak)


def matmul_peak(dtype: torch.dtype, device: str) -> float:
    """Floating-point operations a second of the device in a large matmul: the best of ten. On CUDA it frees what it
    took, and starts the count of peak memory anew."""
    width = MATMUL_WIDTH[device]
    factor = torch.randn(width, width, device=device, dtype=dtype)
    product = factor @ factor  # the first one chooses a kernel
    seconds = min(_matmul_seconds(factor, product) for _ in range(NUM_MATMULS))
    del factor, product
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return 2 * width**3 / seconds


def _matmul_seconds(factor: torch.Tensor, product: torch.Tensor) -> float:
    started = now_seconds(factor.device.type)
    torch.mm(factor, factor, out=product)
    return now_seconds(factor.device.type) - started


def now_seconds(device: str) -> float:
    """When the device has done all that it was asked for."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Profile:
    """A torch profile of up to three steps that follow one another, the first of this start left out where there are
    others.

    Ends early where anything but a step is due: `close` then writes what there is, and no later step is profiled.
    """

    def __init__(self, run_dir: Path, device: str, steps_left: int, say: Callable[[str], None]) -> None:
        self._folder, self._device, self._say = run_dir / FOLDER, device, say
        self._skip = 1 if steps_left > 1 else 0
        self._profiler: profile | None = None
        self._steps: list[int] = []
        self._done = False

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around the optimiser step of that number."""
        if self._done or self._skip:
            self._skip = 0
            yield
            return
        if self._profiler is None:
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._device == "cuda" else [])]
            self._profiler = profile(activities=activities, acc_events=True)  # some versions warn of the default
            self._profiler.start()
        with record_function(f"step {number}"):
            yield
        self._steps.append(number)
        if len(self._steps) == NUM_STEPS:
            self.close()

    def close(self) -> None:
        """Write the profile, if it has any step."""
        profiler = self._stop()
        if profiler is None:
            return
        with atomic_folder(self._folder) as folder:
            profiler.export_chrome_trace(str(folder / TRACE))
            (folder / OPERATORS).write_text(
                operators(profiler.key_averages(), self._device, self._steps), encoding="utf-8"
            )
        self._say(f"Profile of {_named(self._steps)}: {self._folder}")

    def discard(self) -> None:
        """Stop without writing, after an error."""
        self._stop()

    def _stop(self) -> profile | None:
        profiler, self._profiler = self._profiler, None
        if profiler is not None:
            self._done = True
            profiler.stop()
        return profiler


class NoProfile(Profile):
    """Stands in where a run takes no profile."""

    def __init__(self) -> None:
        self._profiler, self._done = None, True


def operators(averages: Any, device: str, steps: list[int], most: int = NUM_OPERATORS) -> str:
    """The operators, ten or `most`, that take most of the device's time themselves, as a Markdown table; `averages` are
    torch's, in microseconds."""
    where = "GPU" if device == "cuda" else "CPU"
    rows = [(row.key, row.count, *_times(row, device)) for row in averages if _is_operator(row)]
    whole = sum(own for _, _, own, _ in rows)
    if not whole:
        return f"torch recorded no operator on the {where} in {_named(steps)}.\n"
    lines = [
        f"Operators of {_named(steps)} by their own time on the {where}, in milliseconds; the total is with the "
        "operators they call.",
        "",
        "| operator | calls | own | share | total |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, calls, own, total in sorted(rows, key=lambda row: -row[2])[:most]:
        lines.append(f"| `{name}` | {calls:,} | {own / 1e3:,.2f} | {100 * own / whole:.1f} % | {total / 1e3:,.2f} |")
    return "\n".join(lines) + "\n"


def _times(row: Any, device: str) -> tuple[float, float]:
    """Own and total."""
    return (
        (row.self_device_time_total, row.device_time_total)
        if device == "cuda"
        else (row.self_cpu_time_total, row.cpu_time_total)
    )


def _is_operator(row: Any) -> bool:
    """Neither a range that a program named nor a kernel, whose time is its operator's."""
    return not row.is_user_annotation and row.device_type == torch.autograd.DeviceType.CPU


def _named(steps: list[int]) -> str:
    return f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
