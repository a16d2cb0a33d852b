"""What holds for all tests: their environment, checks of types, forked processes, and how workers share them."""

import ctypes
import gc
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests import files_once, forked, pictures, type_checks
from tests.limits import WORKER_MEGABYTES, Meter, Teller, resident_megabytes
from tests.order import by_worker

os.environ.update(
    HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", EBFT_CACHE=""
)  # tensors here are too small to share
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a shell's background jobs ignore it, and so would every process that a test starts

IS_GLIBC = platform.libc_ver()[0] == "glibc"

type_checks.install()
pictures.install()
files_once.install()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    type_checks.begin_test()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A test that left torch more threads once made all behind it in its worker ten times slower, with other digits."""
    yield
    torch = sys.modules.get("torch")
    left = 1 if torch is None else torch.get_num_threads()
    if torch is not None:
        torch.set_num_threads(1)
    assert left == 1, f"the test leaves torch {left} threads"


@pytest.fixture(autouse=True)
def same_start() -> Iterator[None]:
    """Ray left a variable of Python's behind, and whatever its worker started afterwards was forked no more."""
    before = forked.read_at_start(os.environ)
    yield
    assert forked.read_at_start(os.environ) == before, "the test leaves what an interpreter reads"


HELD = [WORKER_MEGABYTES / 3]  # by this worker when its garbage was last collected
MORE = 100.0  # megabytes: to collect takes up to a second, so not behind every test


@pytest.fixture(autouse=True)
def heap_given_back() -> Iterator[None]:
    """What large tests freed: glibc kept half a gigabyte of it, and torch's profiler, whose events hang in cycles,
    another."""
    yield
    if IS_GLIBC and resident_megabytes() > HELD[0] + MORE:
        gc.unfreeze()  # commands freeze what they import, and in a test whatever else is there
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        HELD[0] = resident_megabytes()


@pytest.fixture
def built_in_methods() -> Iterator[None]:
    """For tests that may bring methods along: those are gone afterwards."""
    from ebft.config.methods import METHODS

    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


@pytest.fixture
def rendered() -> Iterator[None]:
    """For tests of what a picture looks like."""
    with pictures.rendered():
        yield


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
    items[:] = by_worker(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)))
