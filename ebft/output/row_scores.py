"""Scores of held-out rows in one columnar file: `rows/base.parquet` and `rows/latest.parquet` of a run folder.

    metric  row  document  draw  sum  count

A figure is sum(sum) / sum(count) over its rows. `row` is a digest of what the row holds, so that runs can be paired by
row whoever made them; `document` a digest of the document, module or conversation that it belongs to; `draw` is the
number of the sampled answer for the verdicts of single answers, and null for figures. Any Parquet reader reads it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from ebft.config.schema import UserError
from ebft.output.files import atomic_file

FOLDER, BASE, LATEST = "rows", "base.parquet", "latest.parquet"
COLUMNS = ("metric", "row", "document", "draw", "sum", "count")


@dataclass(frozen=True)
class RowScores:
    """One metric over held-out rows."""

    metric: str
    rows: Sequence[str]
    documents: Sequence[str]
    sums: Sequence[float]
    counts: Sequence[float]
    draw: int | None = None  # of the verdicts of single sampled answers


def write(path: Path, scores: Sequence[RowScores]) -> None:
    """Atomically, replacing an older file. WriteFailure where the system refuses."""
    import pyarrow
    from pyarrow import parquet

    columns: dict[str, list[object]] = {name: [] for name in COLUMNS}
    for score in scores:
        columns["metric"] += [score.metric] * len(score.rows)
        columns["row"] += score.rows
        columns["document"] += score.documents
        columns["draw"] += [score.draw] * len(score.rows)
        columns["sum"] += score.sums
        columns["count"] += score.counts
    table = pyarrow.table(columns, _schema())
    with atomic_file(path) as file:
        parquet.write_table(table, file, compression="zstd")


def _schema() -> Any:
    import pyarrow

    text = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    number = pyarrow.float64()
    return pyarrow.schema(dict(zip(COLUMNS, (text, text, text, pyarrow.int16(), number, number), strict=True)))


def read(path: Path) -> list[RowScores] | None:
    """What `write` wrote; None where there is no file. Raises UserError for a file of something else."""
    import pyarrow
    from pyarrow import parquet

    if not path.is_file():
        return None
    try:
        table = parquet.read_table(path, schema=_schema())
        if any(table[name].null_count for name in COLUMNS if name != "draw"):
            raise _refusal(path)
        metric, row, document = (_texts(table[name]) for name in ("metric", "row", "document"))
        draw, sums, counts = (table[name].to_pylist() for name in ("draw", "sum", "count"))
    except (pyarrow.ArrowException, OSError) as error:
        raise _refusal(path) from error
    if not all(map(isfinite, (*sums, *counts))) or min(counts, default=0) < 0:
        raise _refusal(path)
    places: dict[tuple[str, int | None], list[int]] = {}
    for place, key in enumerate(zip(metric, draw, strict=True)):
        places.setdefault(key, []).append(place)
    return [
        RowScores(
            metric=name,
            rows=[row[place] for place in own],
            documents=[document[place] for place in own],
            sums=[sums[place] for place in own],
            counts=[counts[place] for place in own],
            draw=number,
        )
        for (name, number), own in places.items()
    ]


def _texts(column: Any) -> list[str]:
    """A column of texts without gaps, each of them read once; pyarrow's own way of it takes ten times as long."""
    found: list[str] = []
    for chunk in column.chunks:
        texts = chunk.dictionary.to_pylist()
        found += [texts[place] for place in chunk.indices.to_pylist()]
    return found


def _refusal(path: Path) -> UserError:
    return UserError(
        f"{path} does not hold the scores of held-out rows as ebft-train writes them; remove it, and intervals cover "
        "seeds only, or run its run again."
    )
