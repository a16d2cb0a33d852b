"""What a step costs, against numbers worked out by hand, and against what the methods count."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ebft.config.schema import MethodConfig, Needs, TrainConfig
from ebft.cost import tokens as cost
from ebft.train.optimization import Optimization
from ebft.train.setup import prepare
from tests.debug_run import COMPOSER, miniature, pairs

# K = (101 - 5 - 11) // 7 + 1 = 13 anchors of 3 rollouts: 39 branches of 4 tokens that are read again, 5 that phi reads.
GEOMETRY = (
    "data=stdlib data.sequence_length=101 sampler.context_length=11 sampler.stride=7 sampler.generate_length=5 "
    "sampler.n_samples=3"
)
COMPLETIONS = "method=rlvr data=code_qa data.sequence_length=101 sampler.n_samples=3 method.max_new_tokens=13"


def config(*lines: str) -> TrainConfig:
    return COMPOSER.config([override for line in lines for override in line.split()])


def measured(config: TrainConfig) -> float:
    """What the method counts in one step of three rows."""
    setup = prepare(config)
    before = setup.method.tokens_forwarded
    trainer = config.trainer
    optimization = Optimization(config.optimizer, setup.policy, 10)
    optimization.step(
        setup.method, setup.batch([0, 1, 2]), 0, trainer.micro_batch_size, trainer.max_tokens_per_microbatch
    )
    return setup.method.tokens_forwarded - before


BLOCKS = Needs("blocks", 5, feature_network=True)
COMPLETED = Needs("completions", 7)


def test_a_supervised_token_is_a_forward_and_a_backward_of_two() -> None:
    assert cost.supervised(23) == 69


def test_phases_of_block_rollouts() -> None:
    """6 branches: 23 + 6 * 4 = 47 tokens sampled and trained on, (23 + 6 * 5) / 2 through half of the layers. A kept
    row is trained on alone."""
    apart = {"sampling": 47, "features": 26.5, "update": 141}
    assert cost.of_row(BLOCKS, 2, 23, 3, 0.5) == apart
    assert cost.of_row(BLOCKS, 2, 23, 3, 0.5, row_is_kept=True) == apart | {"sampling": 24}


def test_a_mean_number_of_blocks_is_no_whole_number() -> None:
    """2.5 blocks of two rollouts: 5 branches."""
    assert cost.of_row(BLOCKS, 2, 23, 2.5) == {"sampling": 43, "features": 48, "update": 129}


@pytest.mark.parametrize(
    ("needs", "phases"),
    [
        (COMPLETED, {"sampling": 47, "update": 141}),
        (replace(COMPLETED, reference_policy=True), {"sampling": 47, "update": 141, "reference": 47}),
        (replace(COMPLETED, updated_rollouts=1), {"sampling": 47, "update": 105}),  # 3 * (29 + 6)
        (replace(COMPLETED, updated_rollouts=5), {"sampling": 47, "update": 141}),  # there are only 3
        (replace(COMPLETED, feature_network=True), {"sampling": 47, "features": 50, "update": 141}),  # 29 + 3 * 7
    ],
)
def test_phases_of_completions(needs: Needs, phases: dict[str, float]) -> None:
    """29 + 3 * 6 = 47: the last token of a completion is never read."""
    assert cost.of_row(needs, 3, 29, 11.0) == phases


def test_a_method_that_does_not_say_what_it_needs_is_not_taken_for_another() -> None:
    run = config(GEOMETRY)
    with pytest.raises(NotImplementedError, match="MethodConfig does not say what it needs"):
        cost.line(replace(run, method=MethodConfig("unknown")))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lines", "phases"),
    [
        ((GEOMETRY, "method=sft"), {"update": 303}),
        (
            (GEOMETRY, "method=ebft"),
            {"sampling": 156, "features": 222, "update": 771},
        ),  # phi is cut at three quarters of the depth
        (
            (GEOMETRY, "method=ebft features.feature_layers=[0.5,0.25]"),
            {"sampling": 156, "features": 148, "update": 771},
        ),
        (
            (GEOMETRY, "method=ebft features.feature_layers=[0.25,1]"),
            {"sampling": 156, "features": 296, "update": 771},
        ),  # 1 may be the last layer
        ((GEOMETRY, "method=ebft trainer.micro_batch_size=5"), {"sampling": 257, "features": 222, "update": 771}),
        ((COMPLETIONS,), {"sampling": 36, "update": 411}),
        ((COMPLETIONS, "method.kl_coef=0.1"), {"sampling": 36, "update": 411, "reference": 137}),
        ((COMPLETIONS, "trainer.micro_batch_size=1"), {"sampling": 137, "update": 411}),
    ],
)
def test_what_is_planned_by_hand(lines: tuple[str, ...], phases: dict[str, float]) -> None:
    assert cost.planned(config(*lines)) == phases


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ((GEOMETRY, "method=sft"), "none"),
        ((GEOMETRY, "method=ebft"), "3 of 5 tokens at each of 2.5 anchors a row"),
        ((COMPLETIONS,), "3 completions a prompt, of at most 13 tokens"),
    ],
)
def test_what_is_sampled(lines: tuple[str, ...], text: str) -> None:
    assert cost.rollouts(config(*lines), 2.5) == text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("method=sft", "606 tokens a step, 1.0 times supervised fine-tuning"),
        ("method=ebft", "at most 2,500 tokens a step, 4.1 times supervised fine-tuning"),
        (
            "method=ebft sampler.reuse=false",
            "2,500 tokens a step, 4.1 times supervised fine-tuning",
        ),  # 257 + 222 + 771 = 1250 a row, and 1250 / 303 = 4.13
        ("method=ebft features.feature_layers=[1]", "at most 2,648 tokens a step, 4.4 times supervised fine-tuning"),
        (
            "method=ebft trainer.micro_batch_size=2",
            "at most 2,298 tokens a step, 3.8 times supervised fine-tuning",
        ),  # 101 less a row
        (
            "method=ebft sampler.reuse=false trainer.micro_batch_size=2",
            "2,298 tokens a step, 3.8 times supervised fine-tuning",
        ),
        (
            "method=ebft sampler.reuse=false trainer.micro_batch_size=2 trainer.max_tokens_per_microbatch=700",
            "at most 2,500 tokens a step, 4.1 times supervised fine-tuning",
        ),
        (
            "method=ebft features.network=checkpoint features.path=x",
            "about 2,500 tokens a step, 4.1 times supervised fine-tuning",
        ),
        (
            "method=sft features.network=checkpoint features.path=x",
            "606 tokens a step, 1.0 times supervised fine-tuning",
        ),
    ],
)
def test_the_line_of_a_plan(line: str, text: str) -> None:
    assert cost.line(config(GEOMETRY, "trainer.batch_size=2 trainer.micro_batch_size=1", line)) == text


@pytest.mark.parametrize(
    ("documents", "options", "kept"),
    [
        (3, "", True),
        (5, "", False),
        (3, "trainer.max_tokens_per_microbatch=1009", False),  # they may be
        (1, "trainer.max_tokens_per_microbatch=1009", True),
        (1, "trainer.gradient_checkpointing=true", False),
    ],
)
def test_rows_are_kept_where_they_are_sure_to_be_one_micro_batch(documents: int, options: str, kept: bool) -> None:
    assert cost.keeps_rows(config("method=ebft trainer.micro_batch_size=3", options), documents) == kept


def test_processes_share_a_step_s_rows() -> None:
    """8 rows are four in each of two."""
    two = "method=ebft trainer.micro_batch_size=4 trainer.processes=2 trainer.parallel=ddp"
    assert cost.planned(config(GEOMETRY, two))["sampling"] == 156


@pytest.mark.slow
@pytest.mark.parametrize(("method", "size"), [("sft", 2), ("ebft", 2), ("ebft", 3)])
def test_what_is_planned_is_what_the_methods_count(tmp_path: Path, method: str, size: int) -> None:
    """phi is one of two layers deep, every row full."""
    run = miniature(
        tmp_path,
        f"method={method}",
        "features.feature_layers=[0.5]",
        "sampler.reuse=false",
        f"trainer.micro_batch_size={size}",
    )
    assert not cost.is_bound(run)
    assert measured(run) == 3 * sum(cost.planned(run).values())


def short_documents(folder: Path) -> list[str]:
    """Of 17 tokens with their end, so that each row of 23 lacks some of its 14 anchors."""
    path = folder / "short.jsonl"
    path.write_text("".join(json.dumps({"text": "x = y\n" * 3 + f"x = {letter}\n"}) + "\n" for letter in "abcdefg"))
    return ["sampler.stride=1", "features.feature_layers=[1.0]", f"data.path={path}", f"data.validation_path={path}"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "overrides"),
    [
        (None, ["method=ebft", "features.feature_layers=[1]", "sampler.reuse=false"]),
        (short_documents, ["method=ebft", "data.document_masking=true", "sampler.reuse=false"]),
        (short_documents, ["method=ebft", "data.layout=padded", "sampler.reuse=false"]),
        (pairs, ["method=ebft", "sampler.reuse=false"]),
        (
            None,
            ["method=ebft", "features.feature_layers=[0.5]", "sampler.temperature=0.01"],
        ),  # rollouts of one context are equal
        (pairs, ["method=rlvr", "method.max_new_tokens=11"]),
    ],
    ids=["index", "documents", "padded", "pairs", "reuse", "completions"],
)
def test_a_bound_is_one(tmp_path: Path, made: Callable[[Path], list[str]] | None, overrides: list[str]) -> None:
    run = miniature(tmp_path, *([] if made is None else made(tmp_path)), *overrides)
    assert cost.is_bound(run)
    assert 0 < measured(run) < 3 * sum(cost.planned(run).values())


@pytest.mark.parametrize(
    "line",
    [
        "method=sft data=code_qa",
        "method=sft data.layout=padded data=stdlib",
        "method=ebft data=stdlib sampler.reuse=false",
        "method=sft features.feature_layers=[1]",
    ],
)
def test_what_is_no_bound(line: str) -> None:
    assert not cost.is_bound(config(line))


LIGHT = """
import sys
import ebft.cost.tokens
from ebft.cli.sweep import sweep
code = sweep(["method=sft,rlvr,ebft", "seed=0,1", "mode=plan", "sweep.dir=out"])
print(code, "heavy:", sorted({"torch", "transformers", "datasets", "wandb"} & set(sys.modules)))
"""


@pytest.mark.slow
def test_a_plan_loads_no_torch(tmp_path: Path) -> None:
    """In a process of its own, since this one has torch."""
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.endswith("0 heavy: []\n"), done.stderr
    assert list(tmp_path.iterdir()) == []
