"""Shapes and types execute in tests: every annotation in `ebft` is checked by jaxtyping and beartype.

The hook must be in place before the first import of `ebft`, so it is installed here and never removed. With the numeric
tower an int passes for a float, as for mypy.
"""

import os
import signal

import pytest
import torch
from jaxtyping import install_import_hook

os.environ.update(
    HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1"
)  # tensors here are too small to share
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a shell's background jobs ignore it, and so would every process that a test starts
install_import_hook("ebft", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu") is not None:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
