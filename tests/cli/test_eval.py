"""`ebft-eval` from the command line to the evaluation's door: what a run folder brings along, and what replaces it."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from ebft.cli import eval as cli
from ebft.cli.compose import compose
from ebft.cli.eval import with_run
from ebft.config.quoting import literal
from ebft.config.schema import (
    AdapterConfig,
    EvaluateConfig,
    FileDataConfig,
    LoRAConfig,
    MixtureDataConfig,
    UserError,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder of a run with settings of its own."""
    folder = tmp_path / "my run"
    (folder / "checkpoints" / "step_000004").mkdir(parents=True)
    (folder / "metrics.jsonl").touch()
    config = {
        "seed": 3,
        "resume": "auto",
        "method": {"name": "ebft"},
        "model": {"path": "tiny", "revision": None},
        "data": {"source": "jsonl", "path": 'a "quoted" file.jsonl', "sequence_length": 96},
        "sampler": {"anchors": "all"},
        "eval": {"horizons": [1, 5], "stride": 7},
        "trainer": {"max_steps": 4},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


def test_without_a_run_folder_the_command_line_stays(tmp_path: Path) -> None:
    arguments = ["model=hf", "model.path=Qwen/Qwen2.5-0.5B", "eval.stride=3"]
    assert with_run(arguments) == arguments
    assert with_run([f"model.path={tmp_path}"]) == [f"model.path={tmp_path}"]


def evaluated(*arguments: str) -> EvaluateConfig:
    """What is evaluated for a command line."""
    config = compose(with_run(list(arguments)), "eval")
    assert isinstance(config, EvaluateConfig)
    return config


def change(run: Path, **groups: Any) -> None:
    """Other values of some keys in the config of a run folder; a value that is no mapping takes a group's place."""
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text())
    for name, values in groups.items():
        config[name] = {**config.get(name, {}), **values} if isinstance(values, dict) else values
    path.write_text(yaml.safe_dump(config, sort_keys=False))


@pytest.mark.slow
def test_a_run_folder_brings_its_configuration_and_is_held_against_its_base(run: Path) -> None:
    config = evaluated(f"model.path={run}")
    assert (config.seed, config.model.path, config.models) == (3, "tiny", [str(run)])
    assert isinstance(config.data, FileDataConfig)
    assert (config.data.source, config.data.path, config.data.sequence_length) == (
        "jsonl",
        'a "quoted" file.jsonl',
        96,
    )
    assert (config.sampler.anchors, config.eval.horizons, config.eval.stride) == ("all", [1, 5], 7)
    assert config.trainer.max_steps != 4  # which is none of an evaluation's


@pytest.mark.slow
@pytest.mark.parametrize(("old", "new"), [(True, "drop"), (False, "refuse")])
def test_a_run_of_an_older_version_is_read_by_the_names_of_today(run: Path, old: bool, new: str) -> None:
    change(run, data={"drop_long_pairs": old})
    assert evaluated(f"model.path={run}").data.bad_rows == new


@pytest.mark.slow
def test_a_mapping_takes_the_place_of_the_option_s(run: Path) -> None:
    change(run, model={"init": "random", "config_overrides": {"num_hidden_layers": 1}})
    assert evaluated(f"model.path={run}").model.config_overrides == {"num_hidden_layers": 1}
    one_more = "model.config_overrides.num_hidden_layers=2"
    assert evaluated(f"model.path={run}", one_more).model.config_overrides == {"num_hidden_layers": 2}
    change(run, data={"source": "mixture", "parts": {"stdlib": 1}})
    config = yaml.safe_load((run / "config.yaml").read_text())
    del config["data"]["path"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    data = evaluated(f"model.path={run}").data
    assert isinstance(data, MixtureDataConfig)
    assert data.parts == {"stdlib": 1}


@pytest.mark.slow
def test_keys_and_groups_on_the_command_line_replace_the_run_s(run: Path) -> None:
    config = evaluated(f"model.path={run}", "data=stdlib", "eval.stride=2")
    assert (config.data.source, config.data.sequence_length, config.eval.stride) == ("stdlib", 256, 2)
    assert config.eval.horizons == [1, 5]


@pytest.mark.slow
def test_anchors_follow_other_data_than_the_run_s(run: Path) -> None:
    """Its `all` once made an evaluation on pairs refuse them, for it came from the modules that the run was trained
    on."""
    assert evaluated(f"model.path={run}", "eval.stride=2").sampler.anchors == "all"
    assert evaluated(f"model.path={run}", "data=code_qa").sampler.anchors == "completion"


@pytest.mark.slow
def test_layout_and_loss_follow_where_texts_become_pairs(run: Path) -> None:
    """What was a default of the run's texts is none of the command line's pairs; other changes leave it."""
    change(run, data={"layout": "packed", "loss_tokens": "all"})
    kept = evaluated(f"model.path={run}", "data.path=other.jsonl")
    assert (kept.data.layout, kept.data.loss_tokens, kept.sampler.anchors) == ("packed", "all", "all")
    pairs = ["data.text_column=null", "data.prompt_column=p", "data.completion_column=c"]
    dropped = evaluated(f"model.path={run}", *pairs)
    assert (dropped.data.layout, dropped.data.loss_tokens, dropped.sampler.anchors) == (
        "padded",
        "completion",
        "completion",
    )


@pytest.mark.parametrize("entry", ["", "/checkpoints/step_000004"])
def test_a_list_takes_the_configuration_of_its_first_run(run: Path, entry: str) -> None:
    config = evaluated(f"models=[base,{run}{entry}]")
    assert (config.data.source, config.model.path) == ("jsonl", "tiny")
    assert config.models == ["base", f"{run}{entry}"]


@pytest.mark.slow
def test_adapters_come_along_as_a_choice_and_its_keys(run: Path) -> None:
    change(run, model={"adapter": {"name": "lora", "rank": 3, "targets": None}})
    adapter = evaluated(f"model.path={run}").model.adapter
    assert isinstance(adapter, LoRAConfig)
    assert (adapter.rank, adapter.targets, adapter.alpha) == (3, None, 32)
    for choice in ("model=tiny", "model/adapter=none"):
        assert evaluated(f"models=[{run}]", choice).model.adapter == AdapterConfig("none")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        "{",
        "model: 5",
        "model: [path]",
        "data: {source: jsonl}",
        "model: {path: tiny}\ndata: {source: jsonl, path: 2024-01-02}",
        "model: {path: tiny}\ndata: {source: jsonl, path: 2024-13-45}",
        "model: {path: tiny}\ndata: {source: jsonl, path: !!set {a}}",
        "model: {path: tiny}\ndata: {source: jsonl, path: !!python/object/apply:os.getcwd []}",
        "model: {path: tiny}\ndata: {source: jsonl, 3: 4}",
        "model: &all {path: tiny, revision: *all}\ndata: {source: jsonl}",
        "model: {path: &one [a], revision: *one}\ndata: {source: jsonl}",
        f"model: {{path: tiny}}\ndata: {{source: jsonl, path: {'[' * 500}}}",
    ],
)
def test_a_folder_whose_config_is_no_run_s_is_refused(run: Path, text: str) -> None:
    (run / "config.yaml").write_text(text)
    with pytest.raises(
        UserError, match=r"my run/config\.yaml is not a config of ebft; name a run folder of ebft-train\.$"
    ):
        with_run([f"model.path={run}"])


def test_a_key_that_this_version_lacks_is_named_with_its_file(run: Path) -> None:
    change(run, eval={"stride=1 hydra.run.dir": "/tmp"})
    with pytest.raises(UserError, match=r"config\.yaml has eval\.stride=1 hydra\.run\.dir, which is no key of this"):
        with_run([f"model.path={run}"])


ELSEWHERE = """
hydra:
  callbacks:
    theirs: {_target_: ebft.tasks.code_qa.questions.run, program: "raise SystemExit(7)", name: f, arguments: []}
data: {source: code_qa}
"""


@pytest.mark.parametrize("value", ["../../../..{file}", "jsonl,stdlib", "${oc.env:HOME}", "base", ["jsonl"], None, 3])
@pytest.mark.parametrize("group", ["data", "adapter"])
def test_an_option_is_one_of_the_package_s_own(run: Path, value: Any, group: str) -> None:
    """`data.source: ../../evil` once made Hydra read a file beside a stranger's config, and call what that named."""
    (run / "evil.yaml").write_text(ELSEWHERE)
    value = value.replace("{file}", str(run / "evil")) if isinstance(value, str) else value
    change(run, **({"data": {"source": value}} if group == "data" else {"model": {"adapter": {"name": value}}}))
    name = "data" if group == "data" else "model/adapter"
    with pytest.raises(
        UserError, match=rf"config\.yaml has {name}=.*, which is none of .*; type {name}=OPTION yourself\.$"
    ):
        with_run([f"model.path={run}"])
    assert with_run([f"model.path={run}", f"{name}={'stdlib' if group == 'data' else 'none'}"])


@pytest.mark.slow
def test_interpolations_and_grammar_of_a_folder_are_text(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`${oc.env:HF_TOKEN}` once put the token into config.yaml, the W&B record and a message."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    text = "${oc.env:HF_TOKEN}"
    change(run, data={"path": text, "end_token": f"a}},b={text}\\"}, model={"path": "choice(a,b)", "revision": text})
    config = evaluated(f"models=[{run}]")
    assert isinstance(config.data, FileDataConfig)
    assert (config.data.path, config.data.end_token) == (text, f"a}},b={text}\\")
    assert (config.model.path, config.model.revision) == ("choice(a,b)", text)
    change(run, eval={"stride": text})
    with pytest.raises(UserError, match=r"^eval\.stride=\$\{oc\.env:HF_TOKEN\} is not a whole number\.$"):
        evaluated(f"models=[{run}]")


@pytest.mark.slow
def test_permissions_are_the_caller_s(run: Path) -> None:
    change(
        run,
        model={"trust_remote_code": True},
        sandbox={"allow_code_execution": True, "require": "none", "seconds": 3.0},
    )
    config = evaluated(f"model.path={run}")
    assert not config.model.trust_remote_code
    assert not config.sandbox.allow_code_execution
    assert (config.sandbox.require, config.sandbox.seconds) == ("landlock", 3.0)
    typed = evaluated(f"model.path={run}", "model.trust_remote_code=true", "sandbox.require=rlimits")
    assert (typed.model.trust_remote_code, typed.sandbox.require) == (True, "rlimits")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (1e-5, "1e-05"),
        ("a\\b", r'"a\b"'),
        ([1, 0.5], "[1,0.5]"),
        ({"a": ["b"]}, '{a:["b"]}'),
    ],
)
def test_values_in_hydra_s_grammar(value: Any, text: str) -> None:
    assert literal(value) == text


class Door:
    """Stands in for the evaluation; `calls` reached it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failures: dict[str, str]) -> None:
        self.calls: list[tuple[EvaluateConfig, Path]] = []
        self.failures = failures
        module: Any = ModuleType("ebft.train.evaluate_models")
        module.evaluate = self.evaluate
        monkeypatch.setitem(sys.modules, "ebft.train.evaluate_models", module)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        self.monkeypatch = monkeypatch

    def evaluate(self, config: EvaluateConfig, directory: Path) -> dict[str, str]:
        self.calls.append((config, directory))
        return self.failures

    def __call__(self, *arguments: str) -> int:
        self.monkeypatch.setattr(sys, "argv", ["ebft-eval", *arguments])
        try:
            cli.main()
        except SystemExit as leaving:
            return int(leaving.code or 0)
        return 0


@pytest.mark.slow
def test_the_evaluation_gets_a_typed_config_and_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    door = Door(monkeypatch, {})
    assert door("models=[base,some/folder]", "eval.n_samples=5", "hydra.run.dir=out") == 0
    ((config, directory),) = door.calls
    assert (config.models, config.eval.n_samples, directory) == (["base", "some/folder"], 5, tmp_path / "out")


@pytest.mark.slow
def test_a_model_that_could_not_be_evaluated_gives_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Door(monkeypatch, {"b": "why"})("models=[base,b]", "hydra.run.dir=out") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["eval.n_sample=5"], "eval.n_sample is not a key of the configuration; did you mean eval.n_samples?"),
        (["plan_only=true"], "plan_only=true plans a run of ebft-train; ebft-eval has none, so leave it out."),
        (["resume=RUN"], "resume=RUN goes on with a run of ebft-train; to evaluate it, write model.path=RUN."),
        (["modls=[a]"], "modls is not a key of the configuration; did you mean models?"),
        (["models=3"], "models=3 is not a list of strings in brackets."),
        (
            ["/"],
            "/ is not of the form KEY=VALUE; write model.path=/, or 'models=[base,/]' for several in one table.",
        ),
    ],
)
def test_mistakes_end_in_one_sentence_without_a_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    door = Door(monkeypatch, {})
    assert door(*arguments) == 2
    assert capsys.readouterr().err == sentence + "\n"
    assert (door.calls, list(tmp_path.iterdir())) == ([], [])


@pytest.mark.slow
def test_a_stranger_s_sentence_does_not_act_on_the_terminal(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change(run, data={"source": "\x1b]0;theirs\x07\u202e"})
    assert Door(monkeypatch, {})(f"model.path={run}") == 2
    assert r"has data=\x1b]0;theirs\x07\u202e, which is none of" in capsys.readouterr().err


def test_help_names_what_can_be_evaluated(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert Door(monkeypatch, {})("--help") == 0
    assert "models=[base,outputs/sft,outputs/ebft]" in capsys.readouterr().out
