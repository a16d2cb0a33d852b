"""The rank rule: a module imports from lower ranks only, the pure ones stay pure, and nobody above a method knows its name."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ebft"
MODULES = sorted(PACKAGE.rglob("*.py"))

# The ranks of the design, from the bottom; a rank whose modules build on one another has several floors.
FLOORS = [
    ["types", "config"],  # 0
    ["blocks", "features", "rewards", "advantages", "losses"],  # 1, pure
    ["reuse"],  # pure as well
    ["rules", "identity", "cost", "workload", "pulse", "launched"],
    ["distributed"],
    ["sharded"],
    ["memory"],
    ["sharding"],
    ["scaling"],
    ["scaling_table"],
    ["chunked", "flex", "sandbox"],  # 2
    ["attention"],
    ["tasks"],
    ["data"],
    ["quantization"],
    ["adapters"],
    ["models", "kernels"],
    ["loading"],
    ["sampler"],  # 3
    ["completions"],
    ["methods", "evaluation"],  # 4
    ["files", "tracking"],  # 5
    ["tensors"],
    ["optimization"],
    ["checkpoint", "console", "environment", "pages", "plots"],
    ["report"],
    ["comparison", "run"],
    ["sweep"],
    ["judging", "budget", "profiling"],  # 6
    ["setup"],
    ["plan"],
    ["train", "evaluate", "preview"],
    ["cli"],  # 7
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
PURE = FLOORS[1] + FLOORS[2]
OWNERS = {"hydra": "cli", "omegaconf": "cli", "datasets": "data", "wandb": "tracking"}  # who alone may import it
IMPURE = {"transformers", "hydra", "os", "pathlib", "io", "shutil", "tempfile", "random", "numpy", "safetensors", "datasets", "wandb"}
IMPURE_CALLS = {"open", "cuda", "manual_seed", "set_rng_state", "set_default_device", "set_default_dtype", "save", "load"}
METHODS = ("sft", "rlvr", "ebft")


def unit(path: Path) -> str:
    """ebft/data/columns.py -> data, ebft/blocks.py -> blocks."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names, `from a.b import c` as a.b.c."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write absolute imports"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(name: str, source: str) -> list[str]:
    """What the module of unit `name` must not contain."""
    tree = ast.parse(source)
    found = []
    for dotted in imported(tree):
        top, *rest = dotted.split(".")
        if top == "ebft" and rest[0] != name and FLOOR[rest[0]] >= FLOOR[name]:
            found.append(f"imports {rest[0]}")
        if OWNERS.get(top, name) != name or (name in PURE and top in IMPURE):
            found.append(f"imports {top}")
    if name in PURE:
        names = {node.id if isinstance(node, ast.Name) else node.attr for node in ast.walk(tree) if isinstance(node, ast.Name | ast.Attribute)}
        found += [f"uses {impure}" for impure in sorted(names & IMPURE_CALLS)]
    return found


def method_names(source: str) -> list[str]:
    """Methods named in code or in strings; docstrings, the package's name in an import and the commands' names are no such thing."""
    tree = ast.parse(source)
    docstrings = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)}
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)} - docstrings
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | {dotted.removeprefix("ebft.") for dotted in imported(tree)}
    named = re.sub(r"ebft-\w+", "", " ".join(texts | names).lower())
    return sorted(method for method in METHODS if method in named)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_come_from_lower_ranks(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        assert list(imported(ast.parse(path.read_text()))) == []
    else:
        assert violations(unit(path), path.read_text()) == []


def test_no_method_is_named_above_the_methods() -> None:
    above = [path for path in MODULES if unit(path) in ("train", "evaluation")]
    assert {path.name: names for path in above if (names := method_names(path.read_text()))} == {}


@pytest.mark.parametrize(
    ("name", "source", "found"),
    [
        ("blocks", "from ebft.sampler import draw", ["imports sampler"]),
        ("rewards", "import ebft.losses", ["imports losses"]),
        ("blocks", "from pathlib import Path\nopen('x')", ["imports pathlib", "uses open"]),
        ("losses", "import torch\ntorch.manual_seed(0)", ["uses manual_seed"]),
        ("sampler", "import datasets", ["imports datasets"]),
        ("train", "def f():\n    import hydra", ["imports hydra"]),
        ("train", "from ebft.sampler import draw\nfrom ebft.train import x", []),
    ],
)
def test_the_rule_sees_what_it_forbids(name: str, source: str, found: list[str]) -> None:
    assert violations(name, source) == found


def test_the_rule_sees_a_method() -> None:
    assert method_names('"""The ebft loop."""\nfrom ebft.config import EBFTConfig\nif name == "sft": pass') == ["ebft", "sft"]
    assert method_names('"""The ebft loop."""\nfrom ebft.config import MethodConfig') == []
