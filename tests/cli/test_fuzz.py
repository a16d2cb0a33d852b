"""Command lines that nobody has thought of: each composes, or ends in one sentence."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebft.cli.grid import Composer, cells
from ebft.cli.keys import all_keys, types_of
from ebft.cli.own import with_config_dirs
from ebft.cli.resuming import with_run
from ebft.config.schema import TrainConfig, UserError

COMPOSER = Composer()
KEYS = sorted(all_keys())
OPTIONS = {
    "method": ["sft", "ebft", "rlvr"],
    "data": ["code_qa", "stdlib", "translation", "jsonl", "mixture"],
    "model": ["tiny", "debug", "hf"],
    "features": ["quartiles", "last"],
    "sampler": ["strided", "completion"],
    "eval": ["quick", "default", "forgetting"],
    "tracker": ["none", "wandb"],
}
NUMBERS = [
    "0",
    "1",
    "-1",
    "3",
    "0.5",
    "1e-9",
    "1e400",
    "inf",
    "-inf",
    "nan",
    "99999999999",
    "1e308",
    str(2**64),
    "0x10",
]
WORDS = [
    "null",
    "true",
    "auto",
    "never",
    "a",
    "''",
    '"',
    "a=b",
    "x" * 300,
    "../..",
    "/dev/null",
    "é\u202e",
    "${seed}",
    "${",
]
CONTAINERS = ["[]", "[1,2]", "[[1]]", "{}", "{a: 1}", "{a: {b: ${nope}}}", "[" * 40, "1,2", "range(0,4,0)", "range(3)"]
CONTAINERS += ["glob(*)", "choice(1,2)", "interval(0,1)", "tag(log,interval(1e-5,1e-3))", "shuffle(1,2)", "sort(3,1)"]
SHARED = [key for key, owners in all_keys().items() if not owners]
FITTING = {key: ["true", "false"] for key in SHARED if types_of(key) == {bool}}
FITTING |= {key: ["1", "3", "7"] for key in SHARED if types_of(key) == {int}}
FITTING |= {key: ["0.5", "1", "2e-3"] for key in SHARED if types_of(key) == {float}}
VALUES = st.sampled_from(NUMBERS + WORDS + CONTAINERS) | st.text(max_size=8)


@st.composite
def overrides(draw: st.DrawFn) -> str:
    """Mostly KEY=VALUE of a key that there is; now and then a misspelt one, another prefix or any text at all."""
    kind = draw(st.sampled_from(["fitting"] * 12 + ["key"] * 6 + ["option"] + ["misspelt", "prefix", "text"]))
    key, value = draw(st.sampled_from(KEYS)), draw(VALUES)
    if kind == "fitting":
        key = draw(st.sampled_from(sorted(FITTING)))
        return f"{key}={draw(st.sampled_from(FITTING[key]))}"
    if kind == "option":
        group = draw(st.sampled_from(sorted(OPTIONS)))
        return f"{group}={draw(st.sampled_from([*OPTIONS[group], 'nope', value]))}"
    if kind == "misspelt":
        place = draw(st.integers(0, len(key)))
        return f"{key[:place]}{draw(st.sampled_from('xy.@/ '))}{key[place + 1 :]}={value}"
    if kind == "prefix":
        return f"{draw(st.sampled_from(['+', '++', '~', '+data@eval.sets.a', '--', 'hydra.']))}{key}={value}"
    return draw(st.text(max_size=20)) if kind == "text" else f"{key}={value}"


def outcome(line: list[str]) -> TrainConfig | str:
    """The configuration of a command line, or the sentence that refuses it; anything else is a bug."""
    try:
        return COMPOSER.config(with_run(with_config_dirs(line)))
    except UserError as error:
        return str(error)


SETTINGS: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


@pytest.mark.slow
@settings(max_examples=250, **SETTINGS)
@given(line=st.lists(overrides(), min_size=1, max_size=4))
def test_a_command_line_composes_or_ends_in_one_sentence(line: list[str]) -> None:
    told = outcome(line)
    if isinstance(told, str):
        assert told.strip(), line
        assert "Traceback" not in told
        assert len(told) < 2000 + sum(map(len, line)), told


@pytest.mark.slow
@settings(max_examples=100, **SETTINGS)
@given(grid=st.lists(overrides(), min_size=1, max_size=3))
def test_a_grid_has_cells_or_ends_in_one_sentence(grid: list[str]) -> None:
    try:
        assert all(len(cell) == len(cells(grid)[0]) for cell in cells(grid)[:9])
    except UserError as error:
        told = str(error)
        if not told.strip():
            pytest.fail(f"{grid} is refused without a word")
