"""A user's method with rollouts of its own, from its plan to its weights."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ebft.cli import train as cli
from ebft.cli.compose import compose
from ebft.cli.sweep import sweep
from ebft.config.schema import TrainConfig
from ebft.cost import tokens
from ebft.geometry.blocks import completion_blocks
from ebft.methods.base import Ingredients
from ebft.tasks.base import Question, Verdict
from ebft.tasks.grader import Grader
from ebft.train.setup import prepare
from tests.debug_run import MINIATURE, final_state, pairs, same, summary
from tests.helpers import T, optimiser_step, phi_of, plain_model, policy_of, random_batch
from tests.own.best_of_n import BestOfN, Chosen

pytestmark = pytest.mark.usefixtures("no_report")

ROOT = Path(__file__).parents[2]
CONF = f"--config-dir={ROOT / 'tests' / 'own' / 'conf'}"
TASK = "def evens(prompt, completion, row):\n    return sum(ord(c) % 2 == 0 for c in completion) / 200\n"
DROPPED = [
    "trainer.max_steps",
    "trainer.checkpoint_every_steps",
    "eval.every_steps",
    "eval.horizons",
    "data.sequence_length",
]

EVALUATION = ["eval.num_questions=2", "eval.horizons=[1]"]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Overrides of a miniature run on six questions, without method and steps."""
    monkeypatch.chdir(ROOT)
    (tmp_path / "task.py").write_text(TASK)
    asked = pairs(tmp_path, task=f"{tmp_path / 'task.py'}:evens")
    dropped = [line.partition("=")[0] for line in [*asked, *DROPPED]]
    asked = [line for line in asked if not line.startswith("eval.num_questions")]
    kept = [line for line in MINIATURE if line.partition("=")[0] not in dropped]
    return [*kept, *asked, "data.sequence_length=17", "trainer.checkpoint_every_steps=2", *EVALUATION]


OWN = [CONF, "method=best_of_n", "method.max_new_tokens=5"]


def config_of(files: list[str], *more: str) -> TrainConfig:
    return compose([*OWN, *files, "trainer.max_steps=4", *more])


@pytest.mark.slow
def test_the_plan_by_hand(files: list[str]) -> None:
    """T = 17, N = 2, G = 5: sampling 17 + 2 * 4, update 3 * (17 + 1 * 4), three rows a step; SFT takes 3 * 17."""
    config = config_of(files)
    assert tokens.by_phase(config, 1.0, 1.0, rows_are_kept=False) == {"sampling": 25, "update": 63}
    assert tokens.planned(config) == {"sampling": 25, "update": 63}
    assert tokens.line(config) == "at most 264 tokens a step, 1.7 times supervised fine-tuning"


@pytest.mark.slow
def test_what_is_forwarded_is_what_was_planned(files: list[str]) -> None:
    """Exactly where every completion runs on to its limit, and no more where one ends."""
    setup = prepare(config_of(files))
    guarded: Any = setup.method
    method = guarded.own
    planned = sum(tokens.planned(setup.material.config).values())

    def step(stop_tokens: tuple[int, ...], rows: int) -> tuple[Chosen, float]:
        method.grader = replace(method.grader, stop_tokens=stop_tokens)
        before = method.tokens_forwarded
        (chosen,), _, _ = optimiser_step(method, setup.batch(range(rows)), rows)
        return chosen, method.tokens_forwarded - before

    whole, forwarded = step(stop_tokens=(-1,), rows=6)
    assert whole.best.valid.all()
    assert forwarded == 6 * planned
    _, forwarded = step(stop_tokens=(int(whole.best.tokens[0, 0, 0, 0]),), rows=1)  # with which one of two begins
    assert forwarded < planned


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def start(*arguments: str, folder: str) -> Path:
        run = tmp_path / folder
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr(sys, "argv", ["ebft-train", *arguments, f"hydra.run.dir={run}"])
        cli.main()
        return run

    return start


@pytest.mark.slow
def test_four_steps_are_two_and_two(files: list[str], started: Any) -> None:
    settings = [*OWN, *files, "eval.every_steps=4", "optimizer.schedule=constant"]
    straight = started(*settings, "trainer.max_steps=4", folder="straight")
    for steps in (2, 4):
        halves = started(*settings, f"trainer.max_steps={steps}", folder="halves")
        assert (summary(halves)["status"], summary(halves)["steps"]) == ("completed", steps)
    mine, theirs = final_state(halves, 4), final_state(straight, 4)
    for name in ("model", "optimizer", "tokens_forwarded"):
        assert same(mine[name], theirs[name]), name
    assert not same(final_state(straight, 2)["model"], theirs["model"])


LENGTHS = [(3, 9), (5, 7), (2, 13), (11, 8)]  # prompt and answer of four rows
FOUR = random_batch(
    [[0] * (prompt + answer) + [-1] * (T - prompt - answer) for prompt, answer in LENGTHS],
    [[prompt <= t < prompt + answer for t in range(T)] for prompt, answer in LENGTHS],
)
STOP = 1


class Verifier:
    """Scores a text by its odd numbers, of which it wants two; questions 0 and 1 score nothing and are not judged."""

    def verify(self, text: str, question: Question) -> Verdict:
        score = min(2, sum(int(word) % 2 for word in text.split())) / 2
        return Verdict({"0": 0.0, "1": None}.get(question.key, score), passed=False, kind="odd")

    def verify_all(self, texts: list[str], questions: list[Question]) -> list[Verdict]:
        return [self.verify(text, question) for text, question in zip(texts, questions, strict=True)]

    def metrics(self, texts: list[str], questions: list[Question]) -> dict[str, float]:
        return {}


def method_of(files: list[str]) -> BestOfN:
    questions = [Question(str(row), "", "", "") for row in range(4)]
    grader = Grader(Verifier(), questions, lambda _, said: [" ".join(map(str, tokens)) for tokens in said], (STOP,))
    config = config_of(files, "sampler.n_samples=4", "method.max_new_tokens=7", "sampler.temperature=0.7")
    return BestOfN.of(Ingredients(config, policy_of(), phi_of(), (STOP,), grader))


def said(tokens: Tensor) -> list[int]:
    words: list[int] = tokens.tolist()
    return words[: words.index(STOP) + 1] if STOP in words else words


@pytest.mark.slow
def test_the_loss_by_hand_and_micro_batches(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every completion of every prompt alone, through plain transformers."""
    seen: list[Tensor] = []
    kept = Grader.__call__
    monkeypatch.setattr(Grader, "__call__", lambda *given: (seen.append(given[1].tokens), kept(*given))[1])
    found: dict[tuple[int, int | None], tuple[list[Chosen], dict[str, Tensor], dict[str, Tensor]]] = {}
    for size, limit in ((4, None), (1, None), (4, 4 * (T + 6))):
        found[size, limit] = optimiser_step(method_of(files), FOUR, size, limit)
    (experience,), values, gradients = found[4, None]
    assert experience.learned.tolist() == [False, False, True, True]
    model, loss, count, ties = plain_model(), torch.zeros(()), 0, 0
    for row in (2, 3):
        best: list[int] = []
        highest = 0.0
        for rollout in seen[0][row, :, 0]:
            words = said(rollout)
            score = min(2, sum(word % 2 for word in words if word != STOP)) / 2
            ties += score == highest > 0
            if score > highest:
                best, highest = words, score
        assert best == said(experience.best.tokens[row, 0, 0])
        prompt = FOUR.tokens[row, : LENGTHS[row][0]]
        logits = model(input_ids=torch.cat([prompt, torch.tensor(best)])[None]).logits[0, len(prompt) - 1 : -1]
        loss = loss - logits.log_softmax(-1).gather(1, torch.tensor(best)[:, None]).sum()
        count += len(best)
    assert ties
    (loss / count).backward()
    assert values["loss"].item() == pytest.approx((loss / count).item(), rel=1e-4)
    for name, parameter in model.named_parameters():
        close = {"rtol": 1e-3, "atol": 1e-4 * float(parameter.grad.abs().max()), "msg": name}  # type: ignore
        for _, values_of, gradients_of in found.values():
            assert values_of["loss"].item() == pytest.approx(values["loss"].item(), rel=1e-5)
            torch.testing.assert_close(gradients_of[name], parameter.grad, **close)
            torch.testing.assert_close(gradients_of[name], gradients[name], **close)


@pytest.mark.slow
def test_nothing_to_learn_is_a_loss_of_0(files: list[str]) -> None:
    _, values, gradients = optimiser_step(method_of(files), FOUR.rows(0, 2), 2)
    assert values["loss"].item() == 0
    assert all(float(gradient.abs().max()) == 0 for gradient in gradients.values())


@pytest.mark.slow
def test_a_sweep_with_supervised_fine_tuning(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    arguments = [
        CONF,
        "method=sft,best_of_n",
        "seed=0",
        *files,
        "trainer.max_steps=2",
        "eval.every_steps=2",
        f"sweep.dir={out}",
        "launcher.threads=1",
        "sweep.metrics=[eval/cross_entropy]",
    ]
    assert sweep([*arguments, "mode=plan"]) == 0
    assert "best_of_n" in capsys.readouterr().out
    assert sweep(arguments) == 0
    cells = {cell for line in (out / "comparison.csv").read_text().splitlines()[1:] for cell in line.split(",")[:3]}
    assert {"sft", "best_of_n", "base"} <= cells
    done = [json.loads(path.read_text()) for path in out.glob("runs/*/summary.json")]
    assert [run["status"] for run in done] == ["completed"] * 2


@pytest.mark.slow
def test_blocks_are_at_the_prompts_ends() -> None:
    assert completion_blocks(FOUR).anchors[:, 0].tolist() == [prompt for prompt, _ in LENGTHS]
