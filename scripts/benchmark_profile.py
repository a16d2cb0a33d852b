"""Where the time of a step goes, operator by operator."""

from pathlib import Path

from benchmark_contenders import OURS, Setting, contender
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel

NUM_OPERATORS = 10


def write_profiles(folder: Path, setting: Setting, length: int) -> list[Path]:
    """A Markdown table of one step, after one that warms up, of each of `OURS`: the operators that the device itself spent most time in."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name in OURS:
        files.append(folder / f"{name}.md")
        files[-1].write_text(
            f"One step, `{name}`, {setting.model}, {setting.dtype}, T = {length}.\n\n{operators(name, setting.build(length), setting, length)}"
        )
    return files


def operators(name: str, model: PreTrainedModel, setting: Setting, length: int) -> str:
    racer, batch = contender(name, model, setting), setting.rows(model, length)
    racer.step(batch, 0)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.device == "cuda" else [])]
    with profile(activities=activities) as profiled:
        racer.step(batch, 1)
    field = "self_device_time_total" if setting.device == "cuda" else "self_cpu_time_total"
    times = sorted(((getattr(event, field), event.count, event.key) for event in profiled.key_averages()), reverse=True)
    total = sum(microseconds for microseconds, _, _ in times)
    lines = [
        f"| `{key}` | {count:,} | {microseconds / 1000:,.1f} | {microseconds / total:.1%} |" for microseconds, count, key in times[:NUM_OPERATORS]
    ]
    return "\n".join([f"| operator | calls | ms on the {setting.device.upper()} | share |", "| --- | --- | --- | --- |", *lines]) + "\n"
