"""`ebft-eval` from the command line to the evaluation's door: what a run folder brings along, and what replaces it."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from ebft.cli import eval as cli
from ebft.cli.compose import compose
from ebft.cli.eval import overrides_of, with_run
from ebft.config.quoting import literal
from ebft.config.schema import EvaluateConfig, UserError


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


def test_a_run_folder_brings_its_configuration_and_is_held_against_its_base(run: Path) -> None:
    expected = [
        "data=jsonl",
        "seed=3",
        'model.path="tiny"',
        "model.revision=null",
        'data.source="jsonl"',
        r'data.path="a \"quoted\" file.jsonl"',
        "data.sequence_length=96",
        'sampler.anchors="all"',
        "eval.horizons=[1,5]",
        "eval.stride=7",
    ]
    assert overrides_of(run) == expected
    assert with_run([f"model.path={run}"]) == [*expected, f'models=["{run}"]']


def test_a_mapping_may_have_keys_of_its_own(run: Path) -> None:
    path = run / "config.yaml"
    path.write_text(
        path.read_text().replace("revision: null", "revision: null\n  config_overrides: {num_hidden_layers: 1}")
    )
    taken, added = (override for override in with_run([f"model.path={run}"]) if "config_overrides" in override)
    assert (taken, added) == ("~model.config_overrides", "+model.config_overrides={num_hidden_layers:1}")
    assert compose(["model=debug", "model.path=tiny", taken, added]).model.config_overrides == {"num_hidden_layers": 1}
    replaced = with_run([f"model.path={run}", "model.config_overrides.num_hidden_layers=2"])
    assert [override for override in replaced if "config_overrides" in override] == [
        taken,
        added,
        "model.config_overrides.num_hidden_layers=2",
    ]


def test_keys_and_groups_on_the_command_line_replace_the_run_s(run: Path) -> None:
    merged = with_run([f"model.path={run}", "data=stdlib", "eval.stride=2"])
    assert not any(override.startswith(("data.", "data=jsonl", "eval.stride=7")) for override in merged)
    assert "eval.horizons=[1,5]" in merged
    assert merged[-3:] == ["data=stdlib", "eval.stride=2", f'models=["{run}"]']


def test_anchors_follow_other_data_than_the_run_s(run: Path) -> None:
    """Its `all` once made an evaluation on pairs refuse them, for it came from the modules that the run was trained
    on."""
    assert 'sampler.anchors="all"' in with_run([f"model.path={run}", "eval.stride=2"])
    assert not any(
        override.startswith("sampler.anchors") for override in with_run([f"model.path={run}", "data=code_qa"])
    )


def test_layout_and_loss_follow_where_texts_become_pairs(run: Path) -> None:
    """What was a default of the run's texts is none of the command line's pairs; other changes leave it."""
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("sequence_length: 96", "layout: packed\n  loss_tokens: all"))
    kept = with_run([f"model.path={run}", "data.path=other.jsonl"])
    assert {'data.layout="packed"', 'data.loss_tokens="all"', 'sampler.anchors="all"'} <= set(kept)
    dropped = with_run([f"model.path={run}", "data.text_column=null", "data.prompt_column=p"])
    assert not any(override.startswith(("data.layout", "data.loss_tokens", "sampler.anchors")) for override in dropped)


@pytest.mark.parametrize("entry", ["", "/checkpoints/step_000004"])
def test_a_list_takes_the_configuration_of_its_first_run(run: Path, entry: str) -> None:
    merged = with_run([f"models=[base,{run}{entry}]"])
    assert merged[0] == "data=jsonl"
    assert merged[-1] == f"models=[base,{run}{entry}]"
    assert 'model.path="tiny"' in merged


def test_adapters_come_along_as_a_choice_and_its_keys(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["adapter"] = {"name": "lora", "rank": 3, "targets": None}
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    assert overrides_of(run)[:2] == ["data=jsonl", "model/adapter=lora"]
    assert overrides_of(run)[-3:] == ['model.adapter.name="lora"', "model.adapter.rank=3", "model.adapter.targets=null"]
    merged = {choice: with_run([f"model.path={run}", choice]) for choice in ("model=hf", "model/adapter=none")}
    assert not any(override.startswith(("model/adapter", "model.adapter")) for override in merged["model=hf"])
    assert [override for override in merged["model/adapter=none"] if override.startswith(("model/", "model.a"))] == [
        "model/adapter=none"
    ]


def test_a_folder_whose_config_is_no_run_s_is_refused(run: Path) -> None:
    (run / "config.yaml").write_text("[]")
    with pytest.raises(
        UserError, match=r"my run/config\.yaml is not a config of ebft; name a run folder of ebft-train\."
    ):
        with_run([f"model.path={run}"])


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
        (["models=3"], "models=3 is not a list of strings in brackets."),
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


def test_help_names_what_can_be_evaluated(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert Door(monkeypatch, {})("--help") == 0
    assert "models=[base,outputs/sft,outputs/ebft]" in capsys.readouterr().out
