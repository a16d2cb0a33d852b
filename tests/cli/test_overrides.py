"""What is typed is what the program gets: Hydra's grammar once made 202411 of data.path=2024_11."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ebft.cli.compose import compose, to_config
from ebft.cli.eval import with_run
from ebft.cli.grid import Composer, cells
from ebft.cli.overrides import as_texts, as_typed
from ebft.cli.processes import read_task
from ebft.config.identity import resolved
from ebft.config.quoting import literal
from ebft.config.schema import (
    ColumnsDataConfig,
    EvaluateConfig,
    MixtureDataConfig,
    TrackerConfig,
    TrainConfig,
    UserError,
)

FILE = ["data=jsonl", "data.path=x"]
PAIR = ["data.text_column=null", "data.completion_column=c"]


def data(*overrides: str) -> Any:
    return compose([*FILE, *overrides]).data


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("2024_11", "2024_11"),
        ("1.10", "1.10"),
        ("1e5", "1e5"),
        ("true", "true"),
        ("0x_1", "0x_1"),
        ("nan", "nan"),
        ("'1.10'", "1.10"),
        ("a b.jsonl", "a b.jsonl"),
        ("élan (1)/[2].jsonl", "élan (1)/[2].jsonl"),
        ("a=b#c", "a=b#c"),
        ("{x}", "{x}"),
        (r"C:\new\table", r"C:\new\table"),
        ("it's", "it's"),
        (r"a\,b", "a,b"),
    ],
)
def test_a_path_is_the_text_that_was_typed(typed: str, text: str) -> None:
    assert data(f"data.path={typed}").path == text


def test_lists_of_texts_and_hydra_s_own_folders_too() -> None:
    config = compose(["tracker=wandb", 'tracker.tags=[1.10,2024_11,"a],b",c]', "tracker.entity=null", "seed=1_0"])
    assert (config.tracker.tags, config.tracker.entity, config.seed) == (["1.10", "2024_11", "a],b", "c"], None, 10)  # type: ignore[attr-defined]
    assert as_typed(["hydra.run.dir=2024_11"]) == ['hydra.run.dir="2024_11"']
    assert as_typed(["--cfg", "job", "-m", "~seed"]) == ["--cfg", "job", "-m", "~seed"]


def test_several_values_stay_several() -> None:
    assert cells(["data.path=1.10,choice"]) == [['data.path="1.10"'], ["data.path=choice"]]
    assert cells(["data.path=choice(1.10,b)"]) == [['data.path="1.10"'], ["data.path=b"]]
    assert as_texts(as_texts(["data.path=1.10,2_0"])) == ['data.path="1.10","2_0"']
    with pytest.raises(UserError, match=r"lists several values; add --multirun"):
        data("data.path=1.10,2_0")


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        (r'"{question}\n"', "{question}\n"),
        (r"'{question}\n'", "{question}\n"),
        (r"{question}\n", "{question}\n"),
        (r'"Q:\t{q}\nA: "', "Q:\t{q}\nA: "),
        (r'"{q}\\n \d \"x\""', r'{q}\n \d "x"'),
        (r"{q}\\n", r"{q}\n"),
        ("{q}\n", "{q}\n"),
        (r"Sum: {a}\, {b}", "Sum: {a}, {b}"),
        ("Q: {q} ", "Q: {q} "),  # blanks were taken away without a word
        (r" {q}\n ", " {q}\n "),
    ],
)
def test_escapes_in_templates_are_those_of_the_example(typed: str, text: str) -> None:
    """conf/data/columns.yaml shows "{question}\n", which was a backslash and an n on the command line."""
    assert data(*PAIR, f"data.prompt_template={typed}").prompt_template == text


@pytest.mark.slow
def test_a_sweep_s_run_decodes_its_template_once(tmp_path: Path) -> None:
    typed = r'data.prompt_template="{q}\\n\n"'
    ours = Composer().config([*FILE, *PAIR, typed]).data
    assert isinstance(ours, ColumnsDataConfig)
    assert ours.prompt_template == "{q}\\n\n"
    (cell,) = cells([*FILE, *PAIR, typed])  # what a job of ebft-sweep gets
    assert compose(cell).data == ours


@pytest.mark.slow
def test_a_mapping_replaces_the_one_that_is_there() -> None:
    """data.parts={code_qa:1} once left the other two parts in."""
    parts = [
        config.data.parts
        for config in (
            compose(["data=mixture", "data.parts={code_qa:1}"]),
            compose(["data=mixture", "+data.parts={code_qa:1}"]),
        )
        if isinstance(config.data, MixtureDataConfig)
    ]
    assert parts == [{"code_qa": 1}, {"stdlib": 1, "code_qa": 1, "translation": 3}]
    swept = [to.data for to in map(Composer().config, cells(["data=mixture", "data.parts={code_qa:1},{stdlib:2}"]))]
    assert [part.parts for part in swept if isinstance(part, MixtureDataConfig)] == [{"code_qa": 1}, {"stdlib": 2}]
    assert compose(["model=debug", "model.config_overrides={}"]).model.config_overrides == {}
    with pytest.raises(UserError, match=r"^data\.parts belongs to data=mixture; choose that"):
        compose(["data.parts={code_qa:1}"])


def test_hydra_s_own_multirun_replaces_mappings_cell_by_cell() -> None:
    found = cells(as_typed(["data=mixture", "data.parts={code_qa:1},{stdlib:2}"]))
    assert found == [["data=mixture", "~data.parts", f"+data.parts={{{part}}}"] for part in ("code_qa:1", "stdlib:2")]


NASTY = [
    "\\n",
    "a\\\\",
    "\\\\\\",
    "${oc.env:HOME}",
    "\\${x}",
    "\\\\${x}\\",
    "'\"",
    '\\"',
    '"\\\\"',
    "line\nbreak\r\n\ttab",
    "{a}, [b] (c) = d: #é\u2028",
    "null",
    "1.10",
    "",
    " padded ",
    "${",
]


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return compose(
        [*FILE, *PAIR, "data.prompt_column=p", "model.init=random", "model.config_overrides={hidden_size:8}"]
    )


def replayed(folder: Path, config: TrainConfig) -> EvaluateConfig:
    """What ebft-eval makes of the config that a run has left in its folder."""
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").touch()
    (folder / "config.yaml").write_text(yaml.safe_dump(resolved(config), sort_keys=False))
    with hydra.initialize_config_module("ebft.conf", version_base="1.3"):
        found = to_config(hydra.compose("eval", with_run([f"models=[{literal(str(folder))}]"])))
    assert isinstance(found, EvaluateConfig)
    return found


@pytest.mark.slow
def test_a_run_s_config_comes_back_byte_for_byte(tmp_path: Path, config: TrainConfig) -> None:
    """A template's backslashes were doubled, and ${ was looked up, on the way from a run to ebft-eval."""
    texts: Iterator[str] = iter(NASTY)
    for template, path, column in zip(texts, texts, texts, strict=False):
        columns = {"prompt_column": None, "prompt_template": f"{{q}}{template}", "completion_column": f"c{column}"}
        changed = replace(config, data=replace(config.data, path=path, **columns))
        found = replayed(tmp_path / "run", changed)
        assert (found.data, found.model, found.sampler, found.eval) == (
            changed.data,
            changed.model,
            changed.sampler,
            changed.eval,
        )


@pytest.mark.slow
def test_a_run_s_mapping_comes_back_without_the_option_s(tmp_path: Path) -> None:
    config = compose(["data=mixture", "data.parts={code_qa:1}"])
    assert replayed(tmp_path / "run", config).data == config.data


@pytest.mark.slow
def test_workers_get_the_config_as_it_is(tmp_path: Path, config: TrainConfig) -> None:
    changed = replace(config, data=replace(config.data, path="${x}\\", text_column=None))
    (tmp_path / "task").write_text(yaml.safe_dump({"config": resolved(changed), "run_dir": "out"}))
    assert read_task(tmp_path / "task") == (changed, Path("out"))


@pytest.mark.slow
@given(st.one_of(st.sampled_from(NASTY), st.text(st.sampled_from("\\$\"'{}n \n,:[a"), max_size=8)))
def test_a_literal_is_what_it_stands_for(text: str) -> None:
    from omegaconf import OmegaConf

    from ebft.cli.overrides import value_of

    value = {"key": [text, {"inner": text}]}
    assert OmegaConf.to_container(OmegaConf.create(value_of(f"x={literal(value)}")), resolve=True) == value


@pytest.mark.slow
def test_several_trackers_are_one_with_settings_and_others_beside_it() -> None:
    config = compose(["tracker=[tensorboard,wandb,trackio]", "tracker.project=mine"])
    assert (config.tracker.name, config.tracker.also) == ("wandb", ["trackio", "tensorboard"])  # type: ignore[attr-defined]
    assert compose(["tracker=[tensorboard]"]).tracker == TrackerConfig("tensorboard")
    assert as_typed(as_typed(["tracker=[tensorboard,trackio]"])) == ["tracker=trackio", "tracker.also=[tensorboard]"]
