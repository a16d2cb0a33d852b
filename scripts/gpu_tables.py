"""The tables of docs/benchmarks/gpu.md, from what the stages of `gpu_check.py` recorded."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

Found = dict[str, Any]
STEP_HEADER = (
    *("", "rows", "s", "sampling", "features", "update", "tokens", "utilisation", "peak GiB", "of the plan"),
    "graphs compiled after two steps",
)


def tables(found: dict[str, Found]) -> str:
    """Markdown, a section for every stage that recorded something."""
    sections = [
        "\n".join([f"### {TITLES[stage]}", "", *SECTIONS[stage](found[stage])]) for stage in SECTIONS if stage in found
    ]
    return "\n\n".join(sections) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"| {' | '.join('---' for _ in header)} |"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def machine(found: Found) -> Iterator[str]:
    environment = found["environment"]
    libraries = environment["libraries"]
    rows = [
        ("device", environment["device"]),
        ("driver, CUDA", f"{found.get('driver', 'none')}, {found.get('cuda', 'none')}"),
        ("torch, transformers", f"{libraries['torch']}, {libraries['transformers']}"),
        *(
            (f"TFLOP/s in a large matmul, {dtype}", f"{flops / 1e12:,.1f}")
            for dtype, flops in found["matmul_flops"].items()
        ),
    ]
    if "copied_bytes_per_second" in found:
        rows.append(("TB/s read and written in a copy", f"{found['copied_bytes_per_second'] / 1e12:.2f}"))
    yield from table(("", ""), rows)


def tests(found: Found) -> Iterator[str]:
    failed, not_reached = found.get("failed", []), found.get("not_reached", [])
    if "passed" not in found:  # as pytest counts them
        bad = found["failures"] + found["errors"]
        yield f"{found['tests'] - bad - found['skipped']} of {found['tests']} passed, {bad} failed."
        return
    yield (
        f"{found['passed']} of {found['tests']} passed, {len(failed)} failed, {len(not_reached)} were not reached in "
        "the time there was."
    )
    for title, names in (("Failed", failed), ("Not reached", not_reached)):
        if names:
            yield ""
            yield f"{title}: " + ", ".join(f"`{name.rpartition('/')[2]}`" for name in names) + "."


def parity(found: Found) -> Iterator[str]:
    """The worst family of every precision."""
    for dtype, families in found.items():
        told = {name: figures for name, figures in families.items() if "error" not in figures}
        if not told:
            continue
        yield from table(
            (f"{dtype}, {len(told)} families", "worst", "family"),
            [
                _worst("largest difference of a log-prob", told, "largest_log_prob_difference", max, "{:.1e}"),
                _worst("cosine of gradients", told, "gradient_cosine", min, "{:.6f}"),
                _worst("cosine of features", told, "feature_cosine", min, "{:.6f}"),
                _worst("share of equal rollouts", told, "equal_rollouts", min, "{:.3f}"),
            ],
        )
        yield ""
    for dtype, families in found.items():
        for name, figures in families.items():
            if "error" in figures:
                yield f"{name} in {dtype} failed: {figures['error']}"


def _worst(
    title: str, families: dict[str, Found], key: str, worst: Callable[..., str], shape: str
) -> tuple[str, str, str]:
    name = worst(families, key=lambda family: families[family][key])
    return title, shape.format(families[name][key]), name


def step(found: Found) -> Iterator[str]:
    setting = found["setting"]
    yield (
        f"{setting['rows']} rows of {setting['length']:,} tokens, at most {setting['max_tokens']:,} tokens with "
        f"activations at a time, {setting['dtype']}; seconds are medians."
    )
    yield ""
    names = [name for name in ("ours", "reuse", "sft", "naive") if name in found]
    yield from table(STEP_HEADER, [_contender(name, found) for name in names])
    for name in ("ours", "reuse"):
        for other in ("sft", "naive"):
            if "seconds" in found.get(name, {}) and "seconds" in found.get(other, {}):
                ratio = _seconds_a_row(found[name]) / _seconds_a_row(found[other])
                yield ""
                yield f"A row in `{name}` takes {ratio:.3g} times its seconds in `{other}`."


def _seconds_a_row(figures: Found) -> float:
    seconds: float = figures["seconds"]["step"] / figures["rows"]
    return seconds


def _contender(name: str, found: Found) -> tuple[str, ...]:
    figures = found[name]
    if "out_of_memory" in figures:
        return (name, *["-"] * 7, "out of memory", "-", "-")
    seconds, used = figures["seconds"], figures["utilization"]
    planned = sum(found["planned_bytes"].get(name, {}).values())
    return (
        name,
        str(figures["rows"]),
        f"{seconds['step']:.2f}",
        *(f"{seconds[phase]:.2f}" if phase in seconds else "-" for phase in ("sampling", "features", "update")),
        f"{figures['tokens']['step']:,.0f}",
        "-" if used is None else f"{used:.0%}",
        f"{figures['peak_bytes'] / 2**30:.1f}",
        f"{figures['peak_bytes'] / planned:.2f}" if planned else "-",
        str(figures["graphs_after_warm_up"]),
    )


def shapes(found: Found) -> Iterator[str]:
    for name, figures in found.items():
        yield f"**{name}**"
        yield ""
        yield from step(figures)
        yield ""


def steady(found: Found) -> Iterator[str]:
    held, graphs, period = found["held_bytes"], found["graphs"], len(found["lengths"])
    warm = min(2 * period, len(held) - 1)
    lengths_text, late = ", ".join(map(str, found["lengths"])), graphs[-1] - graphs[warm]
    yield (
        f"{found['steps']} steps over rows of {lengths_text} tokens: {held[warm] / 2**20:,.1f} MiB held after "
        f"{warm + 1} steps, {held[-1] / 2**20:,.1f} at the end; {graphs[warm]} graphs compiled by then, {late} more to "
        f"the end; {found['median_seconds']:.3f} s a step."
    )


def held(found: Found) -> Iterator[str]:
    rows = [
        (
            name,
            f"{figures['planned_sum'] / 2**30:.1f}",
            f"{figures['peak_bytes'] / 2**30:.1f}",
            f"{figures['seconds']:.2f}",
        )
        for name, figures in found.items()
        if isinstance(figures, dict)
    ]
    yield from table(("", "planned GiB", "peak GiB", "s a step"), rows)
    if "whole" in found:
        yield ""
        yield f"All weights of that shape: {found['whole']}"


def pieces(found: Found) -> Iterator[str]:
    rows = [
        (name if "options" not in figures else f"attention, {figures['options']}", f"{1e3 * figures['seconds']:.2f}")
        for name, figures in found.items()
        if isinstance(figures, dict) and "seconds" in figures
    ]
    yield from table(("", "ms"), rows)


def lengths(found: Found) -> Iterator[str]:
    rows = [
        (name, "-" if "out_of_memory" in figures else f"{figures['seconds']['step']:.3f}")
        for name, figures in found.items()
    ]
    yield from table(("", "s a step"), rows)


def real(found: Found) -> Iterator[str]:
    if "skipped" in found:
        yield f"Skipped: {found['skipped']}."
        return
    rows = [
        (method, metric, f"{value:.4f}")
        for method, summary in found.items()
        for metric, value in sorted(summary.get("final", {}).items())
        if isinstance(value, float)
    ]
    yield from table(("method", "metric", "at the end"), rows)


SECTIONS: dict[str, Callable[[Found], Iterator[str]]] = {
    section.__name__: section for section in (machine, tests, parity, step, shapes, steady, held, real, pieces, lengths)
}
TITLES = {
    "machine": "The machine",
    "tests": "tests/gpu",
    "parity": "Every family beside the CPU",
    "step": "Steps of the 1.5 B shape",
    "shapes": "Steps of other shapes",
    "steady": "Many steps",
    "held": "Memory of a 7 B shape under LoRA",
    "real": "A real model",
    "pieces": "Pieces of an update of two rows",
    "lengths": "Flex attention and chunks by row length",
}
