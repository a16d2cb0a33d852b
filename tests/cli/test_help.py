"""`ebft-train --help` tells the truth about conf/."""

import re
import shlex
from functools import reduce

import pytest

from ebft.cli.compose import compose
from ebft.cli.help import help_text
from tests.cli.conftest import Launcher

EXAMPLES = re.findall(r"^  ebft-train (?:--multirun )?(.+)$", help_text(), re.MULTILINE)


def test_help_says_what_it_does_and_lists_groups(launch: Launcher) -> None:
    outcome = launch("--help")
    assert (outcome.code, outcome.out) == (0, help_text() + "\n")
    assert re.search(r"^  method +ebft, rlvr, sft +the algorithm$", outcome.out, re.MULTILINE)
    assert re.search(r"^  \+experiment +scaling, smoke, .*tiny_base.* +a named run$", outcome.out, re.MULTILINE)
    assert max(map(len, outcome.out.splitlines())) <= 130


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_composes(example: str) -> None:
    assert len(EXAMPLES) == 4
    compose([re.sub(r",.*", "", override) for override in shlex.split(example)])


def test_every_key_is_one() -> None:
    tree = compose(["model=hf", "model/adapter=lora", "model.path=x", "data=jsonl", "data.path=x"])
    for key in re.findall(r"^  ((?!hydra)\w+(?:\.\w+)+)=", help_text(), re.MULTILINE):
        *groups, name = key.split(".")
        assert hasattr(reduce(getattr, groups, tree), name), key
