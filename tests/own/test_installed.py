"""What installed packages offer in entry points: a task by its name, a method with a folder of configs."""

import sys
from pathlib import Path

import pytest

from ebft.cli.compose import compose
from ebft.config.schema import UserError
from ebft.tasks import build
from ebft.tasks.own import OwnTask
from tests.sandbox.helpers import ReadHere

FILES = {
    "polite/__init__.py": "",
    "polite/task.py": "def score(prompt, completion, row): return float('please' in completion)\n",
    "polite/method.py": (
        "from dataclasses import dataclass\n"
        "from ebft.config.methods import OwnMethodConfig\n"
        "from ebft.config.schema import Needs, at_least\n"
        "from ebft.methods.sft import SFT\n"
        "@dataclass(frozen=True)\n"
        "class Config(OwnMethodConfig):\n"
        "    warmth: float = at_least(0)\n"
        "    def needs(self, sampler): return Needs()\n"
        "class Polite(SFT):\n"
        "    Config = Config\n"
    ),
    "polite/conf/__init__.py": "",
    "polite/conf/method/polite.yaml": "name: polite\ncode: polite.method:Polite\nwarmth: 0.5\n",
    "polite/conf/optimizer/polite.yaml": "defaults: [sft, _self_]\nlr: 0.25\n",
    "polite-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: polite\nVersion: 1.0\n",
    "polite-1.0.dist-info/entry_points.txt": (
        "[ebft.tasks]\npoliteness = polite.task:score\n\n[ebft.conf]\npolite = polite.conf\n"
    ),
}


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in FILES.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "polite"]:
        del sys.modules[name]


def test_a_task_is_chosen_by_its_name() -> None:
    config = compose(["data.task=politeness", "method=sft"])
    task = build(config.data.task or "", None, ReadHere)
    assert isinstance(task, OwnTask)
    assert task.reference == "polite.task:score"


@pytest.mark.slow
def test_a_method_and_its_optimizer_are_options_like_any_other() -> None:
    config = compose(["method=polite", "method.warmth=2"])
    assert (type(config.method).__name__, config.method.name, config.optimizer.lr) == ("Config", "polite", 0.25)
    assert vars(config.method)["warmth"] == 2
    with pytest.raises(UserError, match=r"^method\.warmth=-1\.0 must be at least 0\.$"):
        compose(["method=polite", "method.warmth=-1"])
    with pytest.raises(UserError, match=r"^method=polit does not exist; did you mean polite\?"):
        compose(["method=polit"])
