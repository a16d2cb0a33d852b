"""The wheel's list of packages is written out, because conf/ is renamed on its way in; it must not fall behind the
folders."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_package_ships() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "ebft").rglob("__init__.py")}
    assert set(listed) == found | {"ebft.conf"}


def test_constraints_pin_what_pyproject_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *(requirement for extra in extras.values() for requirement in extra)]
    named = {requirement.partition(">")[0] for requirement in requirements if not requirement.startswith("ebft[")}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert {line.partition("==")[0] for line in lines} == named | {"setuptools"}
    assert all("==" in line for line in lines)
