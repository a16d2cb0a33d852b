"""The site is built without a warning, reads without a network, and says what the code says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ebft.cli.keys import fields_of
from ebft.config.schema import EvaluateConfig
from ebft.config.sweeps import SweepConfig
from tests.docs.pages import PAGES, ROOT

sys.path.insert(0, str(ROOT / "scripts"))

import draw_figures
import key_reference

README_LINES, RULES_LINES = 150, 80


def test_every_key_is_in_the_reference_with_words() -> None:
    keys = key_reference.described()
    names = {name for whole in (EvaluateConfig, SweepConfig) for name, _, _ in fields_of(whole)}
    assert {key.name for key in keys} == names
    assert [key.name for key in keys if not key.what] == []
    page = key_reference.page()
    assert [name for name in names if f"| `{name}` |" not in page] == []


def test_the_reference_has_values_limits_and_options_of_a_key() -> None:
    page = key_reference.page()
    assert "| `method.ce_coef` | number, at least 0 | `0.0` | weight of cross-entropy (`method=rlvr`) |" in page
    assert "| `eval.num_documents` | whole number, at least 2 | `192` | held-out rows |" in page
    assert "| `model=debug` | A random model too small to learn anything, for trying the machinery out. |" in page
    assert "| `data.path` | text | to be given | file with the training rows" in page


def test_pictures_are_what_the_script_draws() -> None:
    drawn = draw_figures.figures()
    assert {path.name for path in draw_figures.FIGURES.iterdir()} == set(drawn)
    for name, text in drawn.items():
        assert (draw_figures.FIGURES / name).read_text(encoding="utf-8") == text, name


def test_the_front_door_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= RULES_LINES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files(page: Path) -> None:
    """Those out of docs/ too, which the site leaves out; keys.md is made when it is built."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [target for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if not target.startswith("https://")]
    assert [target for target in targets if target != "keys.md" and not (page.parent / target).exists()] == []


@pytest.mark.slow
def test_the_site_is_built_in_strict_mode_and_fetches_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    method = (tmp_path / "method.html").read_text()
    assert 'xmlns="http://www.w3.org/1998/Math/MathML" display="block"' in method  # between lines, at full size
    assert 'display="inline"' in method
    assert "sampler.stride" in (tmp_path / "keys.html").read_text()
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "arithmatex" not in text, page
        fetched = re.findall(r"<(?:script|img|link)[^>]+(?:src|href)=\"?(?:https?:)?//[^\" >]+", text)
        assert fetched == [], page
