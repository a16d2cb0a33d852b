import sys
from pathlib import Path

import keep_results
import pytest

from ebft.comparison import compare, write
from ebft.comparison.kept import ARCHIVE, unpacked
from tests.comparison.helpers import keep_rows
from tests.comparison.test_tables import three_seeds
from tests.sweep.helpers import grid


def keep(monkeypatch: pytest.MonkeyPatch, *arguments: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["keep_results.py", *map(str, arguments)])
    keep_results.main()


@pytest.mark.slow
def test_what_is_kept_gives_the_same_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, kept = tmp_path / "sweep", tmp_path / "docs" / "kept"
    three_seeds(sweep)
    for run in sweep.iterdir():
        keep_rows(run, {"eval/greedy": [1, 0, 1]}, {"eval/greedy": [0, 0, 1]})
        (run / "environment.json").write_text("{}")
        (run / "model").mkdir()
    keep(monkeypatch, sweep, kept)
    archive = (kept / ARCHIVE).read_bytes()
    keep(monkeypatch, sweep, kept)
    assert (kept / ARCHIVE).read_bytes() == archive, "the same runs give the same archive"
    for folder in (sweep, kept):
        with unpacked(folder) as runs:
            write(compare(runs, grid(), None), folder)
    for name in ("comparison.csv", "comparison.json"):
        assert (kept / name).read_text().replace("kept", "sweep") == (sweep / name).read_text()
    assert (kept / "plots" / "losses.png").read_bytes() == (sweep / "plots" / "losses.png").read_bytes()
    with unpacked(kept) as runs:
        assert not list(runs.rglob("model"))
        assert "train/loss" not in (runs / "s0" / "metrics.jsonl").read_text()
        assert (runs / "s0" / "environment.json").read_text() == "{}"


def test_pages_that_an_archive_no_longer_gives_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    three_seeds(tmp_path / "sweep")
    keep(monkeypatch, tmp_path / "sweep", tmp_path / "kept")
    (tmp_path / "kept" / "comparison.md").write_text("of other runs")
    keep(monkeypatch, tmp_path / "sweep", tmp_path / "kept")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [ARCHIVE]


def test_why_a_run_failed_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    three_seeds(tmp_path / "sweep")
    (tmp_path / "sweep" / "records").mkdir()
    (tmp_path / "sweep" / "records" / "x.json").write_text("why")
    keep(monkeypatch, tmp_path / "sweep", tmp_path / "kept")
    with unpacked(tmp_path / "kept") as runs:
        assert (runs / "records" / "x.json").read_text() == "why"


def test_folders_that_would_be_lost_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        keep(monkeypatch, tmp_path, tmp_path / "kept")
    assert "holds no finished run" in capsys.readouterr().err
    three_seeds(tmp_path / "sweep")
    (tmp_path / "other").mkdir()
    with pytest.raises(SystemExit):
        keep(monkeypatch, tmp_path / "sweep", tmp_path / "other")
    assert "exists and was not made by keep_results.py" in capsys.readouterr().err
    for target in (tmp_path, tmp_path / "sweep", tmp_path / "sweep" / "s0"):
        with pytest.raises(SystemExit):
            keep(monkeypatch, tmp_path / "sweep", target)
        assert "lie in one another" in capsys.readouterr().err
