"""The verdict in words: one sentence a metric, made from the statistics alone and never stronger than they are."""

from collections.abc import Sequence

from ebft.comparison.columns import LEAST_SEEDS, Standing, is_small
from ebft.comparison.statistics import Estimate
from ebft.comparison.tables import Table, TableRow
from ebft.output.metric_names import lower_is_better, short
from ebft.report.html_parts import figure, quantity, unit

MOST_NAMES = 3  # of cells in one clause
SAME_COST = 1.05  # ratios below are called the same tokens


def sentences(table: Table) -> list[str]:
    """A metric whose figures are those of an earlier one, as right answers are exact matches, is told to be that."""
    metrics = [metric for metric in table.metrics if metric in table.standings and table.standings[metric].gaps]
    found = []
    for place, metric in enumerate(metrics):
        same = next((earlier for earlier in metrics[:place] if _are_equal(table, earlier, metric)), None)
        if same is None:
            found.append(sentence(table, metric, table.standings[metric]))
        else:
            found.append(f"{short(metric)} has the figures of {short(same)}.")
    return found


def _are_equal(table: Table, one: str, other: str) -> bool:
    return all(row.figures[one] == row.figures[other] for row in table.rows)


def sentence(table: Table, metric: str, standing: Standing) -> str:
    """Which cell is best, or that the runs do not say; then what they say against the reference."""
    gaps = [*standing.gaps.values()]
    if all(gap.mean == 0 and gap.half_width == 0 for gap in gaps):
        return f"{short(metric)}: every cell has the same figure in every pair, {design(gaps[0])}."
    head = _best(table, metric, standing) if standing.is_best else _not_best(metric, standing)
    return f"{head}{_against_reference(table, metric, standing)}."


def _best(table: Table, metric: str, standing: Standing) -> str:
    nearest, gap = _nearest(standing, list(standing.gaps))
    way, most = ("lower", "lowest") if lower_is_better(metric) else ("higher", "highest")
    by = f"by {span(metric, gap, absolute=True)}, {design(gap)}{_cost(table, standing.leader, nearest)}"
    if len(standing.gaps) == 1:
        return f"{standing.leader} has {way} {short(metric)} than {nearest} {by}"
    return f"{standing.leader} has the {most} {short(metric)}, {way} than {nearest}, the nearest, {by}"


def _not_best(metric: str, standing: Standing) -> str:
    unclear = [name for name in standing.gaps if not is_small(standing.p_values.get(name))]
    if not unclear:  # a run is missing, or a cell has no run in common with the leader
        return f"{short(metric)}: {standing.leader} leads, but not every run that it takes to say so is there"
    nearest, gap = _nearest(standing, unclear)
    others = _names([name for name in unclear if name != nearest])
    also = f" nor from {others}" if others else ""
    why, smallest = _why(standing, nearest), _could_have_been_seen(metric, standing, gap)
    return (
        f"{short(metric)}: {standing.leader} leads but is not told apart from {nearest} "
        f"({span(metric, gap)}, {design(gap)}{why}){also}{smallest}"
    )


def _why(standing: Standing, name: str) -> str:
    """What speaks against a difference whose interval does not hold 0."""
    gap = standing.gaps[name]
    if not gap.excludes_zero or gap.n < LEAST_SEEDS:
        return ""
    return f"; beside 0, but not after Holm's correction over {len(standing.p_values)} cells"


def _could_have_been_seen(metric: str, standing: Standing, gap: Estimate) -> str:
    smallest = gap.detectable(max(1, len(standing.p_values)))
    if smallest is None or gap.n < LEAST_SEEDS:
        return ""
    return f"; {quantity(metric, smallest, sign='-')} would have been seen with a chance of 80 %"


def _nearest(standing: Standing, names: Sequence[str]) -> tuple[str, Estimate]:
    name = min(names, key=lambda name: abs(standing.gaps[name].mean))
    return name, standing.gaps[name]


def span(metric: str, gap: Estimate, absolute: bool = False) -> str:
    """0.021 (0.008 to 0.034); `absolute` for a difference whose direction words say."""
    low, high = (gap.mean + sign * (gap.half_width or 0.0) for sign in (-1, 1))
    if absolute and gap.mean < 0:
        low, high = -high, -low
    sign = "" if absolute else "+"
    middle = f"{figure(metric, abs(gap.mean) if absolute else gap.mean, sign)}{unit(metric, '+')}"
    if gap.half_width == 0:
        return f"{middle} in every pair, which says nothing of the spread"
    if gap.half_width is None:
        return middle
    return f"{middle} ({figure(metric, low, sign)} to {figure(metric, high, sign)})"


def design(gap: Estimate) -> str:
    """What the interval rests on, and what it does not cover."""
    seeds = "one seed" if gap.n == 1 else f"{gap.n} seeds"
    if gap.rows is None:
        return seeds if gap.n == 1 else f"{seeds}{_weak(gap)}, rows not covered"
    documents = f" of {gap.documents} documents" if gap.documents != gap.rows else ""
    if gap.n == 1:
        return f"one seed x {gap.rows} rows{documents}, other seeds not covered"
    return f"{seeds}{_weak(gap)} x {gap.rows} rows{documents}"


def _weak(gap: Estimate) -> str:
    return " (weak)" if gap.n == LEAST_SEEDS else ""


def _cost(table: Table, leader: str, other: str) -> str:
    ours, theirs = (_tokens(table, name) for name in (leader, other))
    if not ours or not theirs:
        return ""
    ratio = ours / theirs
    if 1 / SAME_COST < ratio < SAME_COST:
        return ", same tokens"
    return f", at {ratio:.2g} times its tokens"


def _tokens(table: Table, name: str) -> float | None:
    row = _row(table, name)
    return None if row.tokens is None else row.tokens.mean


def _row(table: Table, name: str) -> TableRow:
    return next(row for row in table.rows if row.name == name)


def _against_reference(table: Table, metric: str, standing: Standing) -> str:
    """Cells that are told apart from the reference, where the first half has not said it all."""
    found = {row.name: row.figures[metric] for row in table.rows}
    gaps = {name: figure.difference for name, figure in found.items() if figure.difference is not None}
    if len(gaps) < 2 and set(standing.gaps) | {standing.leader} == {table.reference, *gaps}:
        return ""
    if not gaps:
        return ""
    told = {name: gap.mean for name, gap in gaps.items() if found[name].is_told_apart}
    sides = {"lower": [name for name in told if told[name] < 0], "higher": [name for name in told if told[name] > 0]}
    parts = [f"{_names(names)} {'is' if len(names) == 1 else 'are'} {way}" for way, names in sides.items() if names]
    return f"; against {table.reference}, {', '.join(parts) if parts else 'no cell is told apart'}"


def _names(names: Sequence[str]) -> str:
    shown = list(names[:MOST_NAMES]) + ([f"{len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else [])
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
