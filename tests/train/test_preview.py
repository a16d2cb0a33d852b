"""plan_only=true: the plan of a run, and nothing of the run."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ebft.config.schema import UserError
from ebft.cost import scaling_table
from ebft.cost import tokens as cost
from ebft.cost.scaling import passes_of
from ebft.methods import differentiate
from ebft.models import loading
from ebft.models.decoder import FORWARD_TOKENS, Decoder
from ebft.train import budget, setup
from ebft.train.loop import train
from ebft.train.plan import plan
from ebft.train.preview import preview as show
from ebft.train.setup import prepare, survey
from tests.debug_run import miniature, pairs

METHODS = {"sft": [], "ebft": [], "rlvr": ["method.max_new_tokens=5", "method.kl_coef=0.1"]}


@pytest.fixture
def weightless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_load_model", lambda *_: pytest.fail("weights were loaded"))


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_plan_is_that_of_the_run(tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    questions = pairs(tmp_path) if method == "rlvr" else []
    config = miniature(tmp_path, f"method={method}", *questions, *METHODS[method])
    show(config, tmp_path / "run")
    printed = capsys.readouterr().out
    assert all(f"  {name}: {line}\n" in printed for name, line in plan(config, prepare(config)).items())
    assert "  several GPUs: nothing to gain: by formula a step takes one H100 " in printed


@pytest.mark.slow
def test_the_plan_of_adapters_is_that_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = miniature(tmp_path, "method=ebft", "model/adapter=lora")
    show(config, tmp_path / "run")
    printed = capsys.readouterr().out
    assert all(f"  {name}: {line}\n" in printed for name, line in plan(config, prepare(config)).items())
    assert "feature network" not in printed


def test_no_weights_are_loaded_and_nothing_is_written(
    tmp_path: Path, weightless: None, capsys: pytest.CaptureFixture[str]
) -> None:
    config = miniature(tmp_path, "tracker=wandb")
    before = files(tmp_path)
    show(config, tmp_path / "run")
    assert files(tmp_path) == before
    assert "A step of 3 documents" not in capsys.readouterr().out


def test_a_step_worth_sharing_is_laid_out_on_gpus(
    tmp_path: Path, weightless: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scaling_table, "WORTH_SHARING_SECONDS", 0)
    show(miniature(tmp_path), tmp_path / "run")
    printed = capsys.readouterr().out
    assert "A step of 3 documents on several GPUs under FSDP2, on paper\n" in printed
    assert "\n  512 " in printed
    assert "nothing to gain" not in printed


@pytest.mark.usefixtures("weightless")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.path=nowhere/at/all", "model.path=nowhere/at/all does not exist"),
        ("features.feature_layers=[7]", "features.feature_layers holds 7, but the feature network has 2 layers"),
        ("trainer.batch_size=1000", "Only 7 of 8 training rows hold a block"),
        ("resume=nowhere", "resume=nowhere holds no checkpoint"),
    ],
)
def test_what_a_run_refuses_is_refused(tmp_path: Path, override: str, message: str) -> None:
    config = miniature(tmp_path, override)
    with pytest.raises(UserError) as planned:
        show(config, tmp_path / "run")
    with pytest.raises(UserError) as started:
        train(config, tmp_path / "run")
    assert str(planned.value) == str(started.value)
    assert str(planned.value).startswith(message)


def test_a_folder_that_could_not_take_the_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds files but no run"):
        show(miniature(tmp_path), tmp_path)


@pytest.mark.parametrize(("message", "line"), [("A step needs more.", "A step needs more."), (None, "enough")])
def test_a_gpu_that_is_too_small_is_a_line_of_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], message: str | None, line: str
) -> None:
    monkeypatch.setattr(setup, "choose_device", lambda config: "cuda")
    monkeypatch.setattr(budget, "lack_of_room", lambda *_: message)
    show(miniature(tmp_path), tmp_path / "run")
    assert f"  room: {line}\n" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("limit", [None, 82, 56])
@pytest.mark.parametrize("documents", [2, 3])
def test_passes_are_those_of_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, limit: int | None, documents: int
) -> None:
    """Forwards of policy, feature network and reference in a micro-batch of two rows, which are all or not. 82 tokens
    hold two rows with their branches, 56 two rows and two branches of each; completions may be over earlier, and leave
    more room behind prompts."""
    questions = pairs(tmp_path) if method == "rlvr" else []
    config = miniature(tmp_path, f"method={method}", *questions, *METHODS[method], "sampler.reuse=false")
    work = replace(survey(config).workload, documents=documents, max_tokens=None if method == "sft" else limit)
    run = prepare(config)
    made, original = list[Decoder](), Decoder.run
    monkeypatch.setattr(Decoder, "run", lambda self, *arguments: made.append(self) or original(self, *arguments))
    prepared = run.method.prepare(run.batch([0, 1]), 0, is_only_microbatch=work.keeps_rows)
    assert work.keeps_rows == (method != "sft" and documents == 2 and limit != 56)
    sampled, phi = made.count(run.policy.decoder) - int(work.keeps_rows), run.evaluator.phi.decoder
    differentiate(run.method, prepared, run.method.counts(prepared), limit)
    others = [decoder for decoder in made if decoder not in (run.policy.decoder, phi)]
    phases = {
        "sampling": sampled,
        "features": made.count(phi),
        "reference": len(others),
        "update": made.count(run.policy.decoder) - sampled,
    }
    phases = {phase: number for phase, number in phases.items() if number}
    expected = {phase: passes_of(work, phase, FORWARD_TOKENS["cpu"]) for phase in phases}
    assert set(phases) == set(cost.by_phase(config, 1.0, 1.0, rows_are_kept=False))
    assert phases == expected or (
        method == "rlvr" and all(number <= expected[phase] for phase, number in phases.items())
    )


def test_the_planned_step_is_a_gpu_s_whatever_this_machine_has(tmp_path: Path) -> None:
    config = miniature(tmp_path, "method=ebft", "sampler.reuse=false")
    ground = survey(config)
    step = budget.planned_step(config, ground.material.architecture, ground.num_blocks)
    assert (step.work.chunk_tokens, step.work.steps_at_once, step.documents) == (0, True, 3)
    assert step.tokens == {"sampling": 35, "features": 20.5, "update": 105}  # 23 + 6 * 2; (23 + 6 * 3) / 2; 3 * 35
    assert not torch.cuda.is_initialized()
