"""Several models in one table: the run's own figures again, paired differences, and models that cannot be loaded."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig

from ebft.config.schema import EvaluateConfig, TrainConfig, UserError
from ebft.output import files
from ebft.output.files import alone
from ebft.run import checkpoint
from ebft.run.admission import check_evaluation
from ebft.train import evaluate_models, loop
from ebft.train.evaluate_models import evaluate, labels, newest
from ebft.train.loop import train
from tests.debug_run import miniature, summary, without_report, write_rows


def evaluation_of(config: TrainConfig, models: list[str]) -> EvaluateConfig:
    return EvaluateConfig(**{item.name: getattr(config, item.name) for item in fields(TrainConfig)}, models=models)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, Path, Path]:
    """A config and two of its runs, by supervised and by energy-based fine-tuning; the latter with an average of its
    weights."""
    folder = tmp_path_factory.mktemp("runs")
    config = miniature(folder, "method=sft", "trainer.max_steps=4", "optimizer.ema_decay=null")
    with without_report():
        train(config, folder / "sft")
        train(miniature(folder, "method=ebft", "trainer.max_steps=4", "optimizer.ema_decay=0.5"), folder / "ebft")
    return config, folder / "sft", folder / "ebft"


@pytest.mark.slow
def test_a_run_gets_the_figures_of_its_own_final_evaluation_bit_for_bit(
    runs: tuple[TrainConfig, Path, Path], tmp_path: Path
) -> None:
    config, sft, ebft = runs
    checkpoint = ebft / "checkpoints" / "step_000004"
    assert (
        evaluate(
            evaluation_of(config, ["base", str(sft), str(ebft), str(checkpoint), str(sft / "model")]), tmp_path / "out"
        )
        == {}
    )
    found = json.loads((tmp_path / "out" / "eval.json").read_text())["models"]
    assert list(found) == ["base", "sft", "ebft", "step_000004", "model"]
    assert found["base"] == summary(sft)["base"] == summary(ebft)["base"]
    assert found["sft"] == found["model"] == summary(sft)["final"]
    assert found["ebft"] == found["step_000004"] == summary(ebft)["final"]


@pytest.mark.slow
def test_a_run_that_has_gone_on_is_what_it_has_come_to(
    runs: tuple[TrainConfig, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model of its shorter life was once evaluated in its place, silently."""
    config, sft, _ = runs
    run = tmp_path / "run"
    shutil.copytree(sft, run)
    (run / "model" / "ebft.json").write_text('{"step": 3}')
    assert newest(str(run)) == run / "checkpoints" / "step_000004"
    assert evaluate(evaluation_of(config, [str(sft), str(run)]), tmp_path / "out") == {}
    out = capsys.readouterr().out
    assert f"sft is {sft}/model, at step 4\n" in out
    assert f"run is {run}/checkpoints/step_000004, at step 4\n" in out
    shutil.rmtree(run / "checkpoints")
    (run / "model" / "ebft.json").unlink()
    assert newest(str(run)) == run / "model"


@pytest.mark.slow
def test_differences_are_paired_and_to_the_first_model(runs: tuple[TrainConfig, Path, Path], tmp_path: Path) -> None:
    config, sft, ebft = runs
    evaluate(evaluation_of(config, ["base", str(sft), str(ebft)]), tmp_path / "out")
    content = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert content["reference"] == "base"
    assert content["differences"] == {"sft": summary(sft)["change"], "ebft": summary(ebft)["change"]}
    table = (tmp_path / "out" / "eval.md").read_text().splitlines()
    assert table[0] == "| metric | base | sft | ebft | sft - base | ebft - base |"
    change = summary(sft)["change"]
    row = next(line for line in table if line.startswith("| cross_entropy ↓ |"))
    assert f" {change['eval/cross_entropy']:+.4f} ± {change['eval/cross_entropy_stderr']:.4f} |" in row
    assert table[-1].startswith("± one standard error over held-out documents; ")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "config.yaml",
        "environment.json",
        "eval.json",
        "eval.md",
        "evaluate.log",
        "plots",
        "rows",
        "samples.jsonl",
        "answers.jsonl",
    }
    assert list(content["rows"]) == ["base", "sft", "ebft"]
    pairs = {"base": sft / "rows" / "base.parquet", "ebft": ebft / "rows" / "latest.parquet"}
    for name, own in pairs.items():
        assert (tmp_path / "out" / content["rows"][name]).read_bytes() == own.read_bytes(), name
    assert {path.name for path in (tmp_path / "out" / "plots").iterdir()} == {"feature_matching_by_horizon.png"}
    models = [json.loads(line)["model"] for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(models)) == ["base", "sft", "ebft"]


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_named_and_the_others_evaluated(
    runs: tuple[TrainConfig, Path, Path], tmp_path: Path
) -> None:
    config, sft, _ = runs
    unfinished, stranger = tmp_path / "unfinished", tmp_path / "stranger"
    unfinished.mkdir()
    (unfinished / "config.yaml").touch()
    checkpoint.save(tmp_path, 3, {"model.weight": torch.zeros(3)}, {"averages": False}, keep=1).rename(stranger)
    failures = evaluate(
        evaluation_of(config, [str(unfinished), str(sft), str(stranger), "./nowhere"]), tmp_path / "out"
    )
    assert failures == {
        "unfinished": (
            f"{unfinished} is a run folder without a model or a checkpoint; let its run reach one, or leave it out."
        ),
        "stranger": f"{stranger} is a checkpoint of another model than model.path=tiny; name that one.",
        "nowhere": (
            "models=[./nowhere] does not exist; name a folder with a model or a hub id such as Qwen/Qwen2.5-0.5B."
        ),
    }
    content = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert (list(content["models"]), content["failures"]) == (["sft"], failures)
    assert "unfinished was left out: " in (tmp_path / "out" / "eval.md").read_text()


@pytest.mark.slow
def test_an_answer_ends_where_any_of_the_models_ends_it(runs: tuple[TrainConfig, Path, Path], tmp_path: Path) -> None:
    """As an instruction-tuned model beside its base, which knows no end of turn."""
    config, sft, _ = runs
    tuned = shutil.copytree(sft / "model", tmp_path / "tuned")
    tokenizer = AutoTokenizer.from_pretrained(tuned)
    GenerationConfig(eos_token_id=[tokenizer.eos_token_id, 7, 10**6]).save_pretrained(tuned)
    assert evaluate(evaluation_of(config, ["base", str(tuned)]), tmp_path / "out") == {}
    told = (tmp_path / "out" / "evaluate.log").read_text()
    end, other = tokenizer.convert_ids_to_tokens([tokenizer.eos_token_id, 7])
    assert f"tokens: no BOS, {end} ends what is trained, {other} also ends an answer" in told


@pytest.mark.slow
def test_models_that_begin_texts_differently_are_not_asked_about_the_same_rows(
    runs: tuple[TrainConfig, Path, Path], tmp_path: Path
) -> None:
    config, sft, _ = runs
    beginning = shutil.copytree(sft / "model", tmp_path / "beginning")
    tokenizer = AutoTokenizer.from_pretrained(beginning)
    tokenizer.bos_token, tokenizer.add_bos_token = tokenizer.eos_token, True
    tokenizer.save_pretrained(beginning)
    assert evaluate(evaluation_of(config, ["base", str(beginning)]), tmp_path / "out") == {
        "beginning": f"{beginning} begins texts with a BOS and tiny does not, but all are asked about the same rows; "
        "evaluate each on its own, or set data.bos=true or false."
    }


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_adapters_are_evaluated_merged_from_a_checkpoint_and_over_their_base(
    runs: tuple[TrainConfig, Path, Path], tmp_path: Path
) -> None:
    """Bit for bit from the checkpoint, and where they are loaded over the base; merged, but for rounding."""
    _, sft, _ = runs
    config = miniature(
        tmp_path,
        "method=ebft",
        "model/adapter=lora",
        "model.adapter.rank=3",
        "trainer.max_steps=4",
        "optimizer.ema_decay=0.5",
    )
    run = tmp_path / "lora"
    train(config, run)
    models = ["base", str(run), str(run / "checkpoints" / "step_000004"), str(run / "adapter")]
    assert evaluate(evaluation_of(config, models), tmp_path / "out") == {}
    base, merged, saved, adapter = json.loads((tmp_path / "out" / "eval.json").read_text())["models"].values()
    assert base == summary(run)["base"] == summary(sft)["base"]
    assert saved == adapter == summary(run)["final"] != base
    assert merged == pytest.approx(saved, rel=1e-3, abs=1e-4)
    assert (
        evaluate(evaluation_of(config, [str(sft / "checkpoints" / "step_000004")]), tmp_path / "other") == {}
    )  # which has none
    assert json.loads((tmp_path / "other" / "eval.json").read_text())["models"] == {
        "step_000004": summary(sft)["final"]
    }


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_adapters_over_another_base_are_named(runs: tuple[TrainConfig, Path, Path], tmp_path: Path) -> None:
    config, sft, _ = runs
    train(miniature(tmp_path, "method=sft", "model/adapter=lora", "trainer.max_steps=1", "seed=1"), tmp_path / "lora")
    adapter, saved = tmp_path / "lora" / "adapter", tmp_path / "lora" / "checkpoints" / "step_000001"
    failures = evaluate(evaluation_of(config, [str(sft), str(adapter), str(saved)]), tmp_path / "out")
    assert failures == {
        "adapter": (
            f"{adapter} holds adapters of tiny, and model.path=tiny is another base; set model.path as it was there."
        ),
        "step_000001": f"{saved} is a checkpoint of another model than model.path=tiny; name that one.",
    }
    with pytest.raises(
        UserError,
        match=r"adapter holds adapters, not a model; name one that has them merged, such as model/ in a run folder\.$",
    ):
        train(replace(config, model=replace(config.model, path=str(adapter))), tmp_path / "new")


def test_bad_material_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = evaluation_of(
        miniature(tmp_path, "method=sft", f"data.validation_path={tmp_path / 'nothing.jsonl'}"), ["base"]
    )
    with pytest.raises(UserError, match=r"nothing\.jsonl is not a file"):
        evaluate(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_models_are_called_by_the_last_part_of_their_path_where_that_tells_them_apart() -> None:
    assert labels(["base", "outputs/a", "outputs/b/"]) == {"base": "base", "a": "outputs/a", "b": "outputs/b/"}
    assert list(labels(["one/model", "two/model", "base"])) == ["one/model", "two/model", "base"]


# Folders that are another's


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints", "thesis.tex", "config.yaml", "summary.json"])
def test_an_evaluation_overwrites_nothing_of_another_s(tmp_path: Path, name: str) -> None:
    """It once replaced the config.yaml of the run whose folder it was given, which could then never be continued."""
    config = evaluation_of(miniature(tmp_path), ["base"])
    folder = tmp_path / "out"
    check_evaluation(folder, config)
    folder.mkdir()
    (folder / ".hidden").touch()
    check_evaluation(folder, config)
    (folder / name).touch()
    sentence = rf"^{folder} holds {name}, which is no evaluation's; choose an empty or a new hydra\.run\.dir\.$"
    with pytest.raises(UserError, match=sentence):
        evaluate(config, folder)
    assert (folder / name).read_bytes() == b""


def test_what_another_process_has_left_while_this_one_waited_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()

    @contextmanager
    def waiting(directory: Path) -> Iterator[None]:
        (directory / "model").touch()
        yield

    monkeypatch.setattr(files, "alone", waiting)
    with pytest.raises(UserError, match=rf"^{folder} holds model, which is no evaluation's;"):
        evaluate(evaluation_of(miniature(tmp_path), ["base"]), folder)


@pytest.mark.slow
def test_an_evaluation_takes_the_place_of_the_same_one_alone(
    runs: tuple[TrainConfig, Path, Path], tmp_path: Path
) -> None:
    config, sft, _ = runs
    evaluate(evaluation_of(config, [str(sft)]), tmp_path / "out")
    before = (tmp_path / "out" / "eval.json").read_text()
    evaluate(evaluation_of(config, [str(sft)]), tmp_path / "out")
    assert (tmp_path / "out" / "eval.json").read_text() == before
    with pytest.raises(UserError, match=r"holds another evaluation, of another models; choose another hydra\.run\.dir"):
        evaluate(evaluation_of(config, ["base"]), tmp_path / "out")


def test_a_folder_in_which_another_process_is_at_work_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two trainings in one folder once interleaved: steps twice in metrics.jsonl, and a run called completed for
    good."""
    config = miniature(tmp_path, "method=sft")
    (tmp_path / "run").mkdir()
    sentence = r"/run is another process's, which has not left it within 0\.1 s; wait for it, or choose another folder"
    monkeypatch.setattr(loop, "alone", partial(alone, seconds=0.1))
    monkeypatch.setattr(evaluate_models.files, "alone", partial(alone, seconds=0.1))
    with alone(tmp_path / "run"):
        with pytest.raises(UserError, match=sentence):
            train(config, tmp_path / "run")
        with pytest.raises(UserError, match=sentence):
            evaluate(evaluation_of(config, ["base"]), tmp_path / "run")


@pytest.mark.slow
def test_rows_that_changed_since_the_run_are_told(tmp_path: Path) -> None:
    """By the digests of its checkpoint; of other data than the run's there is nothing to tell."""
    config = miniature(tmp_path, "method=sft", "trainer.max_steps=1", "trainer.checkpoint_every_steps=1")
    with without_report():
        train(config, tmp_path / "run")

    def told(name: str, **data: Any) -> str:
        other = replace(config, data=replace(config.data, **data))
        evaluate(evaluation_of(other, [str(tmp_path / "run")]), tmp_path / name)
        return (tmp_path / name / "evaluate.log").read_text()

    assert "rows are not those of" not in told("same")
    write_rows(tmp_path / "train.jsonl", 6, first=50)
    assert f"The training rows are not those of {tmp_path / 'run'}: data.source=jsonl has changed since" in told("new")
    assert "rows are not those of" not in told("shorter", sequence_length=21)
