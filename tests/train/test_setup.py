"""From a config to everything that a run needs, and what is refused before a run folder is opened."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ebft.config.schema import TrainConfig, UserError
from ebft.data import Rows
from ebft.methods.ebft import EBFT
from ebft.methods.sft import SFT
from ebft.train.setup import choose_device, evaluation_batches, prepare, usable_rows
from ebft.types import Batch
from tests.debug_run import COMPOSER, miniature, pairs

SIZES = [
    "data.sequence_length=23",
    "sampler.context_length=3",
    "sampler.stride=5",
    "sampler.generate_length=4",
    "eval.context_length=7",
    "eval.stride=11",
    "eval.horizons=[1,2,64]",
    "eval.num_documents=5",
    "eval.micro_batch_size=3",
    "trainer.batch_size=2",
    "trainer.micro_batch_size=2",
    "trainer.device=cpu",
]
Composed = Callable[..., TrainConfig]


@pytest.fixture
def composed(tmp_path: Path) -> Composed:
    """A run on a few lines of text, which the tiny tokenizer cuts into more than one row each side."""
    for side, numbers in (("train", range(7)), ("validation", range(7, 12))):
        lines = [
            json.dumps({"text": f"def f{number}(x):\n    return x ** {number} + {number}\n" * 3}) for number in numbers
        ]
        (tmp_path / f"{side}.jsonl").write_text("\n".join(lines) + "\n")
    paths = [f"data.path={tmp_path}/train.jsonl", f"data.validation_path={tmp_path}/validation.jsonl"]
    return lambda *overrides: COMPOSER.config(["model=debug", "data=jsonl", *paths, *SIZES, *overrides])


def rows_of(lengths: list[int], length: int = 23) -> Rows:
    """Padded rows with so many real tokens."""
    ids = torch.where(torch.arange(length) < torch.tensor(lengths)[:, None], 0, -1)
    return Rows(torch.zeros_like(ids), ids, ids == 0, ids == 0, masked=False, num_documents=len(lengths), documents=())


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def test_a_setup_has_what_its_config_says(composed: Composed) -> None:
    config = composed("trainer.max_steps=7", "seed=3")
    setup = prepare(config)
    assert isinstance(setup.method, EBFT)
    assert (setup.device, setup.max_steps, setup.method.seed) == ("cpu", 7, 3)
    assert setup.evaluator.horizons == [1, 2, 4]  # the sampler's own joins, 64 does not fit behind 7 of 23 tokens
    assert [len(batch) for batch in setup.evaluator.batches] == [3, 2]
    assert isinstance(setup.batch([1, 0]), Batch)
    assert setup.batch([1, 0]).row_ids.tolist() == [setup.usable[1], setup.usable[0]]
    assert len(setup.policy.decoder.module.layers) == 4
    assert len(setup.method.phi.decoder.module.layers) == 3  # up to three quarters of the depth


@pytest.mark.slow
def test_supervised_fine_tuning_is_evaluated_with_the_same_feature_network_and_rows(composed: Composed) -> None:
    one, other = prepare(composed()), prepare(composed("method=sft"))
    assert isinstance(other.method, SFT)
    assert other.usable == one.usable
    assert other.evaluator.horizons == one.evaluator.horizons
    for a, b in zip(
        one.evaluator.phi.decoder.module.parameters(), other.evaluator.phi.decoder.module.parameters(), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("layout", "stops"), [("packed", False), ("padded", True)])
def test_only_padded_rows_stop_at_the_end_of_sequence(composed: Composed, layout: str, stops: bool) -> None:
    setup = prepare(composed(f"data.layout={layout}"))
    expected = (setup.tokenizer.eos_token_id,) if stops else ()
    assert setup.method.stop_tokens == expected
    assert setup.evaluator.stop_tokens == expected


@pytest.mark.slow
def test_epochs_become_steps_rounded_up(composed: Composed) -> None:
    setup = prepare(composed("trainer.max_steps=null", "trainer.max_epochs=1.5", "trainer.batch_size=4"))
    assert setup.max_steps == math.ceil(1.5 * (len(setup.usable) // 4))  # an epoch is so many whole batches


def test_rows_without_a_block_are_left_out(composed: Composed) -> None:
    """A block needs 3 + 4 tokens, each further one 5 more: 1, 0, 4 and 2 blocks."""
    usable, num_blocks = usable_rows(rows_of([7, 6, 23, 13]), composed())
    assert usable == [0, 2, 3]
    assert num_blocks == pytest.approx(7 / 3)


def test_too_few_usable_rows_are_refused(composed: Composed) -> None:
    assert refusal(lambda: usable_rows(rows_of([6, 23, 1]), composed())) == (
        "Only 1 of 3 training rows hold a block of sampler.context_length=3 plus sampler.generate_length=4 tokens, "
        "fewer than trainer.batch_size=2; "
        "shorten the blocks, lower the batch size, or add data."
    )


def test_evaluation_rows_are_spread_over_the_held_out_ones(composed: Composed) -> None:
    """Neighbouring rows are often of one document: 5 of 13 rows, not the first 5."""
    batches = evaluation_batches(rows_of([23] * 13), composed(), 5)
    assert [batch.row_ids.tolist() for batch in batches] == [[0, 2, 5], [7, 10]]


def test_evaluation_needs_two_rows_and_room_for_a_rollout(composed: Composed) -> None:
    config = composed()
    assert [len(batch) for batch in evaluation_batches(rows_of([10, 11, 23, 4]), config, 5)] == [3, 1]
    assert refusal(lambda: evaluation_batches(rows_of([23]), config, 5)) == (
        "The validation data has 1 row; standard errors need at least 2, so raise data.validation_fraction or add data."
    )
    assert refusal(lambda: evaluation_batches(rows_of([10, 10]), config, 5)) == (
        "No validation row has room for eval.context_length=7 plus sampler.generate_length=4 tokens; shorten them or "
        "add data."
    )


def test_a_token_that_the_model_does_not_embed_is_refused(composed: Composed) -> None:
    message = refusal(lambda: prepare(composed("+model.config_overrides.vocab_size=100")))
    assert message.startswith("The tokenizer of model.path=tiny gives token ")
    assert message.endswith(", but the model embeds 100; use its own.")


def test_a_device_that_the_machine_lacks_is_refused(composed: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed("trainer.dtype=bf16")
    auto, cuda = (replace(config, trainer=replace(config.trainer, device=device)) for device in ("auto", "cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(auto) == "cpu"
    assert (
        refusal(lambda: choose_device(cuda))
        == "trainer.device=cuda, but torch finds no CUDA device here; use trainer.device=cpu or auto."
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert (
        refusal(lambda: choose_device(auto))
        == "trainer.dtype=bf16, but this CUDA device has no bfloat16; use trainer.dtype=fp32."
    )
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert choose_device(auto) == "cuda"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
def test_gradient_checkpointing_is_of_the_policy_only(composed: Composed) -> None:
    setup = prepare(composed("trainer.gradient_checkpointing=true"))
    assert setup.policy.decoder.module.layers[0].gradient_checkpointing
    assert not setup.evaluator.phi.decoder.module.layers[0].gradient_checkpointing


@pytest.mark.slow
def test_seeds_give_different_random_models(composed: Composed) -> None:
    weights = [prepare(composed(f"seed={seed}")).policy.head.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_completions_behind_the_original_length_of_longrope_are_refused(tmp_path: Path) -> None:
    """Rows of 23 tokens with rollouts of 3 stay in front of it."""
    rope = "{rope_type:longrope,rope_theta:100.0,original_max_position_embeddings:31,short_factor:[1],long_factor:[2]}"
    overrides = ["method=sft", *pairs(tmp_path), f"+model.config_overrides.rope_parameters={rope}"]
    message = refusal(lambda: prepare(miniature(tmp_path, *overrides, "eval.max_new_tokens=29")))
    assert message.endswith(
        "which with 29 new ones is over the 31 original positions (of rope_type=longrope) of model.path=tiny; lower "
        "max_new_tokens of method and eval, or shorten the prompt."
    )
