"""Names of other packages that begin with an underscore, and so may move in any release: all of them, and what to do
when one has moved."""

import ast
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [path for folder in ("conf", "ebft", "scripts", "tests") for path in sorted((ROOT / folder).rglob("*.py"))]
DOCUMENTED = {"_exit"}  # of Python's os

ADVICE = {
    "hydra._internal.config_loader_impl:ConfigLoaderImpl._apply_overrides_to_config": (
        "Composer (ebft/cli/grid.py) sets values on a composed tree with it. Find what hydra.compose calls after it "
        "has merged the files, and let tests/cli/test_grid.py compare; or have Composer.config call compose for every "
        "list of overrides, which is right and several times as slow. Then move hydra-core's bound in pyproject.toml."
    ),
    "hydra._internal.config_loader_impl:ConfigLoaderImpl._compose_config_from_defaults_list": (
        "The tests merge what our own files compose to once with it (tests/files_once.py). Without it they take a "
        "minute longer; find what merges the defaults list's files now, or leave it out."
    ),
    "hydra._internal.defaults_list:_create_interpolation_map": (
        "The tests tell with it which groups name others' choices (tests/files_once.py); see "
        "_compose_config_from_defaults_list."
    ),
    "hydra._internal.hydra:ConfigLoaderImpl": (
        "restrict (ebft/cli/targets.py) puts OwnTargets in its place, so that a configuration is looked through before "
        "Hydra calls what it names. Find who loads a configuration for hydra.main now; tests/cli/test_targets.py says "
        "whether it is looked through."
    ),
    "subprocess:Popen._close_pipe_fds": (
        "What the tests fork (tests/forked.py) takes the parent's ends of its pipes from Popen, which closes them with "
        "it. Close them as Popen's own _execute_child does."
    ),
    "atexit:_run_exitfuncs": (
        "A whole program (ebft/sandbox/script.py) ends as the interpreter ends one, though its process goes on to say "
        "what it wrote; Python's Py_FinalizeEx calls the same. A program of the tests registers an exit function."
    ),
    "threading:_shutdown": (
        "A whole program (ebft/sandbox/script.py) waits with it for threads that are no daemons, as the interpreter "
        "does at its end; joining threading.enumerate() but for the own and the daemons does the same."
    ),
    "peft.tuners.tuners_utils:BaseTunerLayer._disable_adapters": (
        "Adapters.off (ebft/models/adapters.py) switches layers with it, because the public enable_adapters sets "
        "requires_grad of the weights that a layer has at that moment: those in shards or those gathered from them, "
        "and the others keep what they had. Find what LoRA's forward asks now, or whether enable_adapters leaves "
        "requires_grad alone, and run tests/train/test_data_parallel.py -k 'adapters or reference'."
    ),
    "sacrebleu.metrics.base:Metric._compute_score_from_stats": (
        "A corpus without each sentence in turn (ebft/tasks/text_match.py) is scored from sums of the statistics with "
        "it; corpus_score of the remaining texts says the same in a hundred times the time."
    ),
    "sacrebleu.metrics.base:Metric._extract_corpus_statistics": (
        "It gives those statistics, one list a sentence; see _compute_score_from_stats."
    ),
    "torch:_foreach_mul_": (
        "clip_gradients (ebft/parallel/fsdp.py) scales all gradients in one kernel with it; a loop over Tensor.mul_ "
        "does the same."
    ),
    "torch._dynamo.utils:counters": (
        "The tests of flex attention read there how many graphs were compiled; torch's own tests say where it is now."
    ),
    "transformers:PreTrainedConfig._attn_implementation": (
        "tests/train/test_loop.py asks it whether plain transformers runs an exported model by its own attention."
    ),
}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def used(tree: ast.AST) -> Iterator[str]:
    """Private names in imports, and attributes that are."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Import):
            yield from (part for alias in node.names for part in alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            yield from (part for alias in node.names for part in f"{node.module}.{alias.name}".split("."))


def defined(tree: ast.AST) -> Iterator[str]:
    """Names that a module gives to something of its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


def foreign(sources: list[str]) -> set[str]:
    trees = [ast.parse(source) for source in sources]
    ours = {name for tree in trees for name in defined(tree)}
    return {name for tree in trees for name in used(tree) if private(name)} - ours - DOCUMENTED


@pytest.mark.slow
def test_every_private_name_of_another_package_is_listed() -> None:
    listed = {part for place in ADVICE for part in re.split("[.:]", place) if private(part)}
    found = foreign([path.read_text() for path in SOURCES])
    assert found == listed, "use what the package documents; where there is nothing, say in ADVICE what to do"


@pytest.mark.parametrize("place", ADVICE)
def test_a_private_name_is_where_it_was(place: str) -> None:
    package = place.partition(":")[0].partition(".")[0]
    pytest.importorskip(package)
    try:
        pkgutil.resolve_name(place)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"{package} has moved {place}: {error}. {ADVICE[place]}")


def test_the_rule_sees_what_it_lists() -> None:
    assert foreign(["import a._b.c\nx._d = y._e", "from f import _g\nself._h.i\nos._exit(0)"]) == {
        "_b",
        "_d",
        "_e",
        "_g",
        "_h",
    }
    assert foreign(["def _a(): self._b = 1\nx = _a(y._b)", "from z import _a\nw._b"]) == set()
