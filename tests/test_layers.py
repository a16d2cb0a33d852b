"""The floors of the house: a room imports from lower floors and from rooms before it on its own, the pure ones stay
pure, and nobody above the methods knows a method's name."""

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ebft"
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))

FLOORS = [
    ["types", "config"],
    ["objective", "geometry", "parallel", "output", "cost"],
    ["sandbox", "tasks", "data", "models"],
    ["rollout", "report", "run"],
    ["methods", "evaluation", "comparison", "sweep"],
    ["train"],
    ["cli"],
]
PLACE = {name: number for number, name in enumerate(name for names in FLOORS for name in names)}
PURE = ("objective", "geometry")
OWNERS = {
    "hydra": ["cli"],
    "omegaconf": ["cli"],
    "datasets": ["data"],
    "wandb": ["output"],
    "trackio": ["output"],
}  # who alone may import it
IMPURE = {
    "transformers",
    "hydra",
    "os",
    "pathlib",
    "io",
    "shutil",
    "tempfile",
    "random",
    "numpy",
    "safetensors",
    "datasets",
    "wandb",
}
IMPURE_CALLS = {
    "open",
    "cuda",
    "manual_seed",
    "set_rng_state",
    "set_default_device",
    "set_default_dtype",
    "save",
    "load",
}
METHODS = ("sft", "rlvr", "ebft")


def room(path: Path) -> str:
    """ebft/data/columns.py -> data, ebft/types.py -> types."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def imported(source: str) -> list[str]:
    """Dotted names, `from a.b import c` as a.b.c; kept, for every script asks all modules again."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write absolute imports"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def violations(name: str, source: str) -> list[str]:
    """What a module of room `name` must not contain."""
    found = []
    for dotted in imported(source):
        top, *rest = dotted.split(".")
        if top == "ebft" and rest[0] != name and PLACE[rest[0]] >= PLACE[name]:
            found.append(f"imports {rest[0]}")
        if name not in OWNERS.get(top, [name]) or (name in PURE and top in IMPURE):
            found.append(f"imports {top}")
    if name in PURE:
        nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name | ast.Attribute)]
        names = {node.id if isinstance(node, ast.Name) else node.attr for node in nodes}
        found += [f"uses {impure}" for impure in sorted(names & IMPURE_CALLS)]
    return found


def method_names(source: str) -> list[str]:
    """Methods named in code or in strings; docstrings, the package's name in an import and the commands' names are no
    such thing."""
    tree = ast.parse(source)
    documented = ast.Module | ast.ClassDef | ast.FunctionDef
    docstrings = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, documented)}
    constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    texts = {value for value in constants if isinstance(value, str)} - docstrings
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {dotted.removeprefix("ebft.") for dotted in imported(source)}
    named = re.sub(r"ebft-\w+|`ebft`", "", " ".join(texts | names).lower())
    return sorted(method for method in METHODS if method in named)


def test_every_module_is_in_a_room() -> None:
    assert {room(path) for path in MODULES} == {*PLACE, "__init__"}
    assert [path.name for path in PACKAGE.glob("*.py")] == ["__init__.py", "types.py"]


def test_class_names_are_unique() -> None:
    """A Row was a table's, a data file's and a forward's; a name that is heard means one class."""
    owners = defaultdict(list)
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                owners[node.name].append(str(path.relative_to(PACKAGE)))
    assert {name: paths for name, paths in owners.items() if len(paths) > 1} == {}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_come_from_lower_floors(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        assert imported(path.read_text()) == []
    else:
        assert violations(room(path), path.read_text()) == []


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_on_the_roof(path: Path) -> None:
    """They may import from every room, and from one another in no circle; nobody imports them."""
    scripts = {script.stem for script in SCRIPTS}
    assert not any(name.split(".")[0] in {"hydra", "omegaconf", "wandb"} for name in imported(path.read_text()))
    seen, ahead = set[str](), [path.stem]
    while ahead:
        source = (ROOT / "scripts" / f"{ahead.pop()}.py").read_text()
        needed = {name.split(".")[0] for name in imported(source)} & scripts
        assert path.stem not in needed
        ahead += needed - seen
        seen |= needed
    below = [
        module.name
        for module in MODULES
        if {name.split(".")[0] for name in imported(module.read_text())} & (scripts | {"scripts"})
    ]
    assert below == []


def test_no_method_is_named_above_the_methods_or_where_their_needs_are_asked_for() -> None:
    asking = [PACKAGE / "config" / "rules.py", PACKAGE / "config" / "schema.py"]
    above = [path for path in MODULES if room(path) in ("train", "evaluation", "cost") or path in asking]
    assert {path.name: names for path in above if (names := method_names(path.read_text()))} == {}


def test_no_config_of_a_method_is_asked_for_its_class() -> None:
    """Its needs are asked for instead; a class that is not known would be taken for the last of those that are."""
    for path in MODULES:
        if room(path) == "methods":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                assert not re.search(r"\b(SFT|RLVR|EBFT|Method)Config", ast.unparse(node)), path


@pytest.mark.parametrize(
    ("name", "source", "found"),
    [
        ("geometry", "from ebft.rollout.sampler import sample", ["imports rollout"]),
        ("data", "from ebft.tasks import build", []),
        ("tasks", "import ebft.data", ["imports data"]),
        ("objective", "import ebft.geometry.blocks", ["imports geometry"]),
        ("geometry", "from pathlib import Path\nopen('x')", ["imports pathlib", "uses open"]),
        ("objective", "import torch\ntorch.manual_seed(0)", ["uses manual_seed"]),
        ("rollout", "import datasets", ["imports datasets"]),
        ("train", "def f():\n    import hydra", ["imports hydra"]),
        ("train", "from ebft.rollout.sampler import sample\nfrom ebft.train.loop import x", []),
    ],
)
def test_the_rule_sees_what_it_forbids(name: str, source: str, found: list[str]) -> None:
    assert violations(name, source) == found


def test_the_rule_sees_a_method() -> None:
    source = '"""The ebft loop."""\nfrom ebft.config.schema import EBFTConfig\nif name == "sft": pass'
    assert method_names(source) == ["ebft", "sft"]
    assert method_names('"""The ebft loop."""\nfrom ebft.config.schema import MethodConfig') == []
