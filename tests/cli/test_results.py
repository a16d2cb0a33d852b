"""The pages under docs/results come out of the archives beside them, to the byte.

Where a page is meant to change: `ebft-sweep mode=collect sweep.dir=docs/results/laptop/STUDY` writes it anew, to be
reviewed as part of the change.
"""

import shutil
from pathlib import Path

import pytest

from ebft.cli import sweep as cli
from ebft.comparison import figures
from ebft.comparison.kept import ARCHIVE
from tests.sweep.helpers import ROOT

STUDIES = sorted(path.parent for path in (ROOT / "docs" / "results").rglob(ARCHIVE))
PAGES = [study for study in STUDIES if (study / "comparison.html").is_file()]


def collected(study: Path, folder: Path) -> Path:
    """What the archive gives, in a folder of the study's name."""
    (folder / study.name).mkdir()
    shutil.copy(study / ARCHIVE, folder / study.name)
    assert cli.sweep(["mode=collect", f"sweep.dir={folder / study.name}"]) == 0
    return folder / study.name


def test_there_are_studies() -> None:
    assert len(STUDIES) == 12
    assert len(PAGES) == 9
    assert not list((ROOT / "docs" / "results").rglob("summary.json")), "runs belong into the archive"


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_tables_come_out_of_the_archive(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "draw", lambda *_: [])
    found = collected(study, tmp_path)
    for name in ("comparison.md", "comparison.csv"):
        assert (found / name).read_bytes() == (study / name).read_bytes()


@pytest.mark.slow  # five pages of eight plots and more, as text and as pictures
@pytest.mark.parametrize("study", PAGES, ids=lambda study: study.name)
def test_pages_and_plots_come_out_of_the_archive(rendered: None, study: Path, tmp_path: Path) -> None:
    found = collected(study, tmp_path)
    published = sorted(path.relative_to(study) for path in study.rglob("*") if path.is_file())
    assert len(published) >= 12, published
    for path in published:
        assert (found / path).read_bytes() == (study / path).read_bytes(), path
