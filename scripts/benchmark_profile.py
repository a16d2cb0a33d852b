"""Where the time of a step goes, operator by operator."""

from pathlib import Path

from benchmark_contenders import OURS, Setting, contender
from torch.profiler import ProfilerActivity, profile

from ebft.run.profiling import operators


def write_profiles(folder: Path, setting: Setting, length: int) -> list[Path]:
    """A Markdown table of one step, after one that warms up, of each of `OURS`: the operators that the device itself
    spent most time in."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name in OURS:
        files.append(folder / f"{name}.md")
        title = f"`{name}`, {setting.model}, {setting.dtype}, T = {length}."
        files[-1].write_text(f"{title} {_profiled(name, setting, length)}")
    return files


def _profiled(name: str, setting: Setting, length: int) -> str:
    model = setting.build(length)
    racer, batch = contender(name, model, setting), setting.rows(model, length)
    racer.step(batch, 0)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.device == "cuda" else [])]
    with profile(activities=activities) as profiler:
        racer.step(batch, 1)
    return operators(profiler.key_averages(), setting.device, [1])
