"""Per-row scores on disk."""

import math
from pathlib import Path

import pandas
import pytest

from ebft.config.schema import UserError
from ebft.output import row_scores
from ebft.output.row_scores import RowScores

SCORES = [
    RowScores("eval/cross_entropy", ["a", "b", "c"], ["x", "x", "y"], [1.5, -2.0, 0.0], [3.0, 2, 0]),
    RowScores("eval/sampled", ["b"], ["x"], [1.0], [1.0], 0),
    RowScores("eval/sampled", ["b"], ["x"], [0.0], [1.0], 1),
]


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    row_scores.write(tmp_path / "rows.parquet", SCORES)
    found = row_scores.read(tmp_path / "rows.parquet")
    assert found is not None
    for one, other in zip(found, SCORES, strict=True):
        assert (one.metric, one.rows, one.documents, one.draw) == (
            other.metric,
            other.rows,
            other.documents,
            other.draw,
        )
        assert (one.sums, one.counts) == (other.sums, other.counts)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]
    table = pandas.read_parquet(tmp_path / "rows.parquet")
    assert list(table.columns) == list(row_scores.COLUMNS)
    assert table["draw"].isna().tolist() == [True, True, True, False, False]


def test_no_file_is_no_error_and_another_kind_of_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    assert row_scores.read(path) is None
    for content in (b"PAR1", b"not parquet at all"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"rows\.parquet does not hold the scores of held-out rows as ebft-train"):
            row_scores.read(path)
    pandas.DataFrame({"metric": ["eval/greedy"], "row": ["a"]}).to_parquet(path)
    with pytest.raises(UserError, match="does not hold the scores"):
        row_scores.read(path)
    row_scores.write(path, SCORES)
    table = pandas.read_parquet(path)
    table.loc[1, "document"] = None
    table.to_parquet(path)
    with pytest.raises(UserError, match="does not hold the scores"):
        row_scores.read(path)


@pytest.mark.parametrize(("number", "count"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, -1.0)])
def test_numbers_that_no_run_writes_are_refused(tmp_path: Path, number: float, count: float) -> None:
    row_scores.write(tmp_path / "x.parquet", [RowScores("m", ["a"], ["a"], [number], [count])])
    with pytest.raises(UserError, match=r"x\.parquet does not hold"):
        row_scores.read(tmp_path / "x.parquet")
