"""Shapes and types execute in tests: every annotation in `ebft` is checked, by jaxtyping and beartype in modules that
name shapes, by beartype alone in the others, where a call then costs a tenth.

The hooks must be in place before the first import of `ebft`, so they are installed here and never removed. With the
numeric tower an int passes for a float, as for mypy.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from beartype import BeartypeConf
from beartype.claw import beartype_package
from jaxtyping import install_import_hook

from tests import forked
from tests.limits import Meter, Teller

os.environ.update(
    HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", EBFT_CACHE=""
)  # tensors here are too small to share
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a shell's background jobs ignore it, and so would every process that a test starts

EBFT = Path(__file__).parents[1] / "ebft"
SHAPED = tuple(  # beartype alone does not know how to leave out a name that is imported for mypy only
    ".".join(path.relative_to(EBFT.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(EBFT.rglob("*.py"))
    if re.search(r"from jaxtyping import|TYPE_CHECKING", path.read_text(encoding="utf-8"))
)
install_import_hook(SHAPED, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
beartype_package("ebft", conf=BeartypeConf(is_pep484_tower=True, claw_is_pep526=False, claw_skip_package_names=SHAPED))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A test that left torch more threads once made all behind it in its worker ten times slower, with other digits."""
    yield
    torch = sys.modules.get("torch")
    left = 1 if torch is None else torch.get_num_threads()
    if torch is not None:
        torch.set_num_threads(1)
    assert left == 1, f"the test leaves torch {left} threads"


@pytest.fixture
def no_report() -> Iterator[None]:
    """For runs whose page nobody reads: its plots take longer than a few steps."""
    from tests.debug_run import without_report

    with without_report():
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--limits", action="store_true", help="tell what the tests cost, and hold them to tests/limits.py")


@pytest.fixture
def fresh_interpreters(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of how an interpreter starts: none is forked."""
    monkeypatch.setattr(subprocess, "Popen", forked.ORIGINAL)


def pytest_configure(config: pytest.Config) -> None:
    forked.install()
    if config.getoption("limits"):
        config.pluginmanager.register(Meter())
        if not hasattr(config, "workerinput"):  # which xdist gives its workers
            config.pluginmanager.register(Teller())


def pytest_unconfigure() -> None:
    forked.uninstall()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu") is not None:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
