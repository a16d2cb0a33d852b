"""Update, clipping, schedule and average against numbers worked out by hand, and the cuts of a batch that must not
change a step."""

import math
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ebft.config.schema import OptimizerConfig, TrainConfig
from ebft.methods import Loss, differentiate
from ebft.methods.base import Tally
from ebft.models.policy import LanguageModel
from ebft.train.optimization import NonFiniteError, Optimization, micro_batches, rate_factor
from ebft.train.setup import Setup, prepare
from ebft.types import Batch
from tests.debug_run import miniature

CONFIG = OptimizerConfig(
    lr=0.1,
    betas=[0.9, 0.95],
    eps=1e-12,
    weight_decay=0.0,
    max_grad_norm=100.0,
    schedule="constant",
    warmup_fraction=0.0,
    ema_decay=None,
)


class Weights(nn.Module):
    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(values))


class Linear:
    """A method whose loss is weight . tokens, so that its gradient is the tokens themselves, summed over the batch's
    rows."""

    tokens_forwarded = 0.0

    def __init__(self, model: Weights) -> None:
        self.model = model

    def prepare(self, batch: Batch, step: int, is_only_microbatch: bool) -> Batch:
        return batch

    def counts(self, prepared: Batch) -> dict[str, Tensor]:
        return {"rows": torch.tensor(len(prepared))}

    def losses(self, prepared: Batch, totals: dict[str, Tensor], max_tokens: int | None) -> Iterator[Loss]:
        loss = (self.model.weight * prepared.tokens).sum()
        yield Loss(loss, {"rows": totals["rows"].float()})

    def row_tokens(self, batch: Batch) -> list[int]:
        return [batch.tokens.shape[1]] * len(batch)

    def metrics(self, prepared: list[Batch]) -> dict[str, Tally]:
        return {"parts": Tally.ratio(torch.tensor(len(prepared)), torch.tensor(1))}


def batch_of(*rows: list[int]) -> Batch:
    tokens = torch.tensor(rows)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    return Batch(tokens, torch.zeros_like(tokens), mask, mask, torch.arange(len(rows)), masked=False)


def toy(weights: list[float], max_steps: int = 10, **changes: Any) -> tuple[Optimization, Linear, nn.Parameter]:
    model, policy = Weights(weights), LanguageModel.__new__(LanguageModel)
    policy.model, policy.adapters = model, None
    return Optimization(replace(CONFIG, **changes), policy, max_steps), Linear(model), model.weight


def test_two_steps_of_adamw() -> None:
    """Gradients 3 and -1 from weight 2, rate 0.1, decay 0.5.

    m = 0.3, 0.17, corrected by 1 - 0.9^t to 3, 0.894737; v = 0.45, 0.4775, corrected by 1 - 0.95^t to 9, 4.897436.
    weight = 2 * 0.95 - 0.1 * 3 / 3 = 1.8, then 1.8 * 0.95 - 0.1 * 0.894737 / 2.213015 = 1.669569.
    """
    optimization, method, weight = toy([2.0], weight_decay=0.5)
    optimization.step(method, batch_of([3]), 0, 1, None)
    assert weight.item() == pytest.approx(1.8, abs=1e-6)
    optimization.step(method, batch_of([-1]), 1, 1, None)
    assert weight.item() == pytest.approx(1.669569, abs=1e-6)


def test_the_gradient_is_clipped_by_its_whole_norm() -> None:
    """(3, 4) has norm 5 and becomes (0.6, 0.8); the first moment is a tenth of it. The norm is reported as it was."""
    optimization, method, weight = toy([1.0, 1.0], max_grad_norm=1.0)
    values = optimization.step(method, batch_of([1, 1], [2, 3]), 0, 1, None)
    assert values["grad_norm"] == pytest.approx(5)
    assert optimization.optimizer.state[weight]["exp_avg"].tolist() == pytest.approx([0.06, 0.08], abs=1e-6)


def test_micro_batches_add_up_and_know_the_whole_batch() -> None:
    """Losses 1, 2 and 4 of three rows in parts of two: 7 in all; every part divides by the three rows of the batch, not
    by its own."""
    optimization, method, weight = toy([1.0])
    values = optimization.step(method, batch_of([1], [2], [4]), 0, 2, None)
    assert values == {"loss": 7.0, "rows": 6.0, "grad_norm": 7.0, "lr": 0.1, "parts": 2.0}
    assert weight.grad is None


def test_a_micro_batch_knows_whether_it_is_the_whole_step() -> None:
    """By rows, by tokens, and because a row is not cut."""
    optimization, method, _ = toy([1.0, 1.0])
    seen: list[bool] = []
    method.prepare = lambda batch, step, is_only_microbatch: seen.append(is_only_microbatch) or batch  # type: ignore[method-assign]
    for rows, size, tokens in ((3, 3, None), (3, 2, None), (3, 3, 6), (3, 3, 5), (1, 3, 1)):
        optimization.step(method, batch_of(*[[1, 2]] * rows), 0, size, tokens)
    assert seen == [True, False, False, True, False, False, True]


def test_nothing_of_a_micro_batch_is_held_while_the_weights_change() -> None:
    """What is kept of a forward would lie beside AdamW's temporaries."""
    optimization, method, _ = toy([1.0])
    made, alive = list[weakref.ref[Batch]](), list[bool]()

    def prepare(batch: Batch, step: int, is_only_microbatch: bool) -> Batch:
        experience = replace(batch)
        made.append(weakref.ref(experience))
        return experience

    method.prepare = prepare  # type: ignore[method-assign]
    optimization.optimizer.register_step_pre_hook(
        lambda *_: alive.extend(reference() is not None for reference in made)
    )
    optimization.step(method, batch_of([1], [2]), 0, 1, None)
    assert alive == [False, False]


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [
        ("constant", lambda step: 1),
        ("constant_with_warmup", lambda step: min((step + 1) / 3, 1)),
        ("linear", lambda step: min((step + 1) / 3, (10 - step) / 8)),
        ("cosine", lambda step: (step + 1) / 3 if step < 2 else (1 + math.cos(math.pi * (step - 2) / 8)) / 2),
    ],
)
def test_schedules(schedule: str, factor: Any) -> None:
    """A quarter of ten steps is three steps of warm-up, of which the first once had rate 0; linear and cosine reach 0
    after the last step."""
    optimization, method, _ = toy([1.0], schedule=schedule, warmup_fraction=0.25)
    rates = [optimization.step(method, batch_of([1]), step, 1, None)["lr"] for step in range(10)]
    assert rates == pytest.approx([0.1 * factor(step) for step in range(10)])
    assert optimization.schedule.get_last_lr()[0] == pytest.approx(
        0.0 if schedule in ("linear", "cosine") else 0.1, abs=1e-12
    )


@pytest.mark.parametrize("schedule", ["constant", "constant_with_warmup", "linear", "cosine"])
@pytest.mark.parametrize("warmup_fraction", [0.0, 0.03, 0.5, 1.0])
def test_every_step_of_a_run_of_any_length_learns(schedule: str, warmup_fraction: float) -> None:
    """A run of one step once trained nothing, and every other one wasted its first."""
    for max_steps in (1, 2, 3, 10, 41):
        factor = rate_factor(replace(CONFIG, schedule=schedule, warmup_fraction=warmup_fraction), max_steps)
        factors = [factor(step) for step in range(max_steps)]
        assert min(factors) > 0
        assert max(factors) == pytest.approx(1)


@pytest.mark.parametrize("schedule", ["constant", "constant_with_warmup", "linear", "cosine"])
@pytest.mark.parametrize("warmup_fraction", [0.0, 0.03, 0.5, 1.0])
def test_shares_are_those_of_transformers_one_step_ahead_of_its_warm_up(schedule: str, warmup_fraction: float) -> None:
    from transformers import get_scheduler

    for max_steps in (1, 2, 7, 41):
        warmup = math.ceil(warmup_fraction * max_steps)
        ahead = 1 if warmup else 0
        nobody = torch.optim.SGD([torch.zeros(1)])
        (theirs,) = get_scheduler(schedule, nobody, warmup, max_steps + ahead).lr_lambdas
        ours = rate_factor(replace(CONFIG, schedule=schedule, warmup_fraction=warmup_fraction), max_steps)
        steps = range(max_steps + 1)
        assert [ours(step) for step in steps] == pytest.approx([theirs(step + ahead) for step in steps], abs=1e-12)


def test_one_step_trains() -> None:
    optimization, method, weight = toy([1.0], max_steps=1, schedule="cosine", warmup_fraction=0.03)
    optimization.step(method, batch_of([1]), 0, 1, None)
    assert weight.item() == pytest.approx(0.9)


def test_average_of_the_weights() -> None:
    """The average begins with the weights after the first step: w1, then 0.75 average + 0.25 weights. Constant
    gradients move by 0.1 a step: weights 0.9, 0.8, 0.7 give averages 0.9, 0.875, 0.83125."""
    optimization, method, weight = toy([1.0], ema_decay=0.75)
    with optimization.averaged():
        assert weight.item() == 1.0
    averages = []
    for step in range(3):
        optimization.step(method, batch_of([5]), step, 1, None)
        with optimization.averaged():
            averages.append(weight.item())
    assert averages == pytest.approx([0.9, 0.875, 0.83125], abs=1e-6)


def test_own_weights_come_back_exactly_even_after_an_error() -> None:
    optimization, method, weight = toy([0.1, 1 / 3], ema_decay=0.75)
    for step in range(2):
        optimization.step(method, batch_of([5, 7]), step, 1, None)
    before, identity = weight.detach().clone(), weight.data_ptr()
    with pytest.raises(AssertionError, match="seen inside"), optimization.averaged():  # noqa: PT012
        assert not torch.equal(weight, before)
        raise AssertionError("seen inside")
    assert torch.equal(weight, before)
    assert weight.data_ptr() == identity


def test_without_an_average_the_weights_are_the_models_own() -> None:
    optimization, method, weight = toy([1.0])
    optimization.step(method, batch_of([5]), 0, 1, None)
    with optimization.averaged():
        assert weight.item() == pytest.approx(0.9)
    assert optimization.state()["averages"] is False


def test_what_is_not_finite_changes_nothing() -> None:
    """A gradient beyond float32 after one good step: weights, moments, schedule and average stay as they were."""
    optimization, method, weight = toy([1.0], ema_decay=0.75, schedule="linear")
    optimization.step(method, batch_of([5]), 0, 1, None)
    before = [
        value.clone() if isinstance(value, Tensor) else value
        for value in leaves([optimization.tensors(), optimization.state()])
    ]
    method.losses = lambda *_: iter([Loss((method.model.weight * 1e38 * 1e38).sum(), {})])  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match=r"^loss is inf, grad_norm is (inf|nan)$"):
        optimization.step(method, batch_of([5]), 1, 1, None)
    assert weight.item() == pytest.approx(0.9)
    assert leaves([optimization.tensors(), optimization.state()]) == before


def leaves(node: Any) -> list[Any]:
    """Of nested dictionaries and lists; here every tensor has one element, so that == compares them."""
    if isinstance(node, dict):
        return [leaf for value in node.values() for leaf in leaves(value)]
    return [leaf for value in node for leaf in leaves(value)] if isinstance(node, list) else [node]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def gradient(setup: Setup, step: int = 0) -> Tensor:
    """Of one row through the method's own loss."""
    setup.policy.model.train()
    prepared = setup.method.prepare(setup.batch([0, 1]), step, is_only_microbatch=True)
    differentiate(setup.method, prepared, setup.method.counts(prepared), None)
    return torch.cat(
        [parameter.grad.flatten() for parameter in setup.policy.model.parameters() if parameter.grad is not None]
    )


@pytest.mark.slow
@pytest.mark.parametrize(("method", "passes"), [("sft", 1), ("ebft", 2)])  # a row, and a row and its branches
def test_gradient_checkpointing_recomputes_and_changes_nothing(tmp_path: Path, method: str, passes: int) -> None:
    gradients, forwards = [], []
    for checkpointing in ("false", "true"):
        setup = prepare(miniature(tmp_path, f"method={method}", f"trainer.gradient_checkpointing={checkpointing}"))
        calls: list[None] = []
        projection = setup.policy.model.model.layers[0].self_attn.o_proj
        projection.register_forward_hook(
            lambda *_, calls=calls: calls.append(None) if torch.is_grad_enabled() else None
        )
        gradients.append(gradient(setup))
        forwards.append(len(calls))
    assert forwards == [passes, 2 * passes]
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)


def moments(config: TrainConfig, num_rows: int) -> tuple[Tensor, dict[str, float]]:
    """First moments after a step, which are its gradient, clipped, over ten; and the step's figures."""
    setup = prepare(config)
    optimization = Optimization(config.optimizer, setup.policy, 10)
    batch, trainer = setup.batch(list(range(num_rows))), config.trainer
    values = optimization.step(setup.method, batch, 3, trainer.micro_batch_size, trainer.max_tokens_per_microbatch)
    return torch.cat([state["exp_avg"].flatten() for state in optimization.optimizer.state.values()]), values


@pytest.mark.parametrize(
    ("rows", "tokens", "cuts"),
    [
        (3, None, [(0, 3), (3, 5)]),
        (5, 14, [(0, 2), (2, 3), (3, 5)]),  # 2 x 7 is as much as may be, 3 x 7 and 2 x 11 are more
        (2, 33, [(0, 2), (2, 4), (4, 5)]),
        (5, 5, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]),
    ],
)
def test_cuts_by_hand(rows: int, tokens: int | None, cuts: list[tuple[int, int]]) -> None:
    assert micro_batches([5, 7, 11, 3, 2], rows, tokens) == cuts


@pytest.mark.slow
@pytest.mark.parametrize("layout", [[], ["data.layout=padded"]], ids=["packed", "padded"])
@pytest.mark.parametrize("method", ["sft", "ebft"])
def test_the_micro_batch_never_changes_the_step(tmp_path: Path, method: str, layout: list[str]) -> None:
    """1 x 8, 3 + 3 + 2, 8 x 1, several rows by tokens, and rows one by one whose rollouts do not fit at once; the
    padded rows with different numbers of blocks and of targets."""
    options, limits = (
        [f"method={method}", *layout, "trainer.batch_size=8", "data.sequence_length=19"],
        [(8, "null"), (3, "null"), (1, "null")],
    )
    cuts = [
        f"trainer.micro_batch_size={size} trainer.max_tokens_per_microbatch={tokens}".split()
        for size, tokens in [*limits, (8, 90), (8, 23)]
    ]
    (whole, figures), *others = [moments(miniature(tmp_path, *options, *cut), 8) for cut in cuts]
    assert whole.abs().max() > 1e-3
    for cut, values in others:
        torch.testing.assert_close(cut, whole, rtol=1e-4, atol=1e-6)
        assert values == pytest.approx(figures, rel=1e-4, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "ebft"])
def test_a_bf16_step_is_finite_and_near_the_fp32_step(tmp_path: Path, method: str) -> None:
    """The draws are the same and the model is near uniform, so most rollouts are too; weights stay in float32."""
    (single, _), (half, values) = (
        moments(miniature(tmp_path, f"method={method}", f"trainer.dtype={dtype}"), 3) for dtype in ("fp32", "bf16")
    )
    assert all(map(math.isfinite, values.values()))
    assert half.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(half, single, dim=0) > 0.9
