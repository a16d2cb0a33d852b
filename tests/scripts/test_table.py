"""The README's tables: what is averaged, and the interval around it."""

import json
from pathlib import Path

import pytest
import table
import yaml


def write_run(folder: Path, source: str, method: str, base: float, change: float, **more: float) -> None:
    folder.mkdir(parents=True)
    figures = {name.replace("__", "@"): value for name, value in more.items()}
    summary = {
        "status": "completed",
        "base": {"eval/cross_entropy": base} | dict.fromkeys(figures, 0.0),
        "final": {"eval/cross_entropy": base + change} | figures,
        "change": {"eval/cross_entropy": change, "eval/cross_entropy_stderr": 0.01} | figures,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text(yaml.safe_dump({"method": {"name": method}, "data": {"source": source}, "optimizer": {"lr": 0.5}}))


def test_side_by_side_gives_every_method_a_column_and_an_interval_over_seeds(tmp_path: Path) -> None:
    """Changes of -0.1, -0.2, -0.3: mean -0.2, standard deviation 0.1, so 4.303 * 0.1 / sqrt(3) = 0.2484 either way.

    A metric that a row lacks is left out of it.
    """
    for seed in (1, 2, 3):
        write_run(tmp_path / f"ebft{seed}", "stdlib", "ebft", 2.0, -seed / 10)
    write_run(tmp_path / "sft", "stdlib", "sft", 2.0, 0.5)
    write_run(tmp_path / "code", "code_qa", "sft", 3.0, 0.25, eval__k=0.125)
    assert table.side_by_side(table.read_runs(tmp_path, ["data.source", "method.name"]), ["eval/cross_entropy", "eval@k"]) == [
        "| runs | metric | base | ebft | sft |",
        "| --- | --- | --- | --- | --- |",
        "| code_qa | `eval/cross_entropy` | 3.0000 | - | 3.2500 (+0.2500) |",
        "| code_qa | `eval@k` | 0.0000 | - | 0.1250 (+0.1250) |",
        "| stdlib | `eval/cross_entropy` | 2.0000 | 1.8000 (-0.2000 ± 0.2484) | 2.5000 (+0.5000) |",
    ]


def test_a_row_is_base_final_and_change_with_both_errors(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        write_run(tmp_path / f"run{seed}", "stdlib", "ebft", 2.0, -seed / 10)
    (runs,) = table.read_runs(tmp_path, ["method.name", "optimizer.lr"]).items()
    assert table.row(runs[0], "eval/cross_entropy", runs[1]) == (
        "| ebft lr=0.5 (n = 3) | `eval/cross_entropy` | 2.0000 | 1.8000 | -0.2000 | 0.1000 | 0.0100 |"
    )


def test_runs_of_two_bases_are_not_put_side_by_side(tmp_path: Path) -> None:
    write_run(tmp_path / "one", "stdlib", "ebft", 2.0, -0.1)
    write_run(tmp_path / "other", "stdlib", "sft", 2.5, -0.1)
    runs = table.read_runs(tmp_path, ["data.source", "method.name"])
    with pytest.raises(SystemExit, match=r"Runs of stdlib start from eval/cross_entropy 2\.0000, 2\.5000; compare runs of one base"):
        table.side_by_side(runs, ["eval/cross_entropy"])


def test_a_metric_that_no_run_has_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt one once left an empty table."""
    write_run(tmp_path / "one", "stdlib", "ebft", 2.0, -0.1)
    monkeypatch.setattr("sys.argv", ["table.py", str(tmp_path), "--metrics", "eval/cross_entropy", "eval/gredy"])
    with pytest.raises(SystemExit):
        table.main()
    assert "No run has eval/gredy; name others with --metrics." in capsys.readouterr().err
