"""The notebook of examples/, its cells run in order; nothing is read but a finished sweep's folder."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from tests.docs.pages import ROOT

NOTEBOOK = ROOT / "examples" / "read_a_sweep.ipynb"


@pytest.mark.slow
def test_it_reads_a_sweep_and_draws_a_figure(rendered: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(NOTEBOOK.parent)
    matplotlib.use("Agg")
    from matplotlib import pyplot

    found: dict[str, Any] = {}
    try:
        for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), NOTEBOOK.name, "exec"), found)
                assert cell["outputs"] == [], "outputs are kept out of the repository"
        found["figure"].savefig(tmp_path / "figure.png")
    finally:
        pyplot.close("all")
    shown, evaluations, (axes,) = found["shown"], found["evaluations"], found["figure"].axes
    assert shown.loc["sft", "mean"] == pytest.approx(0.0803, abs=1e-4)  # as docs/results/laptop/README.md has it
    assert len(axes.lines) == 30  # six cells, five seeds
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "ebft",
        "ebft reference_code",
        "rlvr",
        "sft",
    ]
    assert evaluations.groupby("method").seed.nunique().tolist() == [5, 5, 5, 5]
