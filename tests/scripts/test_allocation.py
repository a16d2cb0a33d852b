"""Noise over signal per token: the estimators against loops, and thinned anchors against every way to thin them."""

from itertools import product

import pytest
import torch

from ebft.cli.compose import compose
from scripts import allocation
from scripts.allocation import Fold, Measured, figures, grid, inclusion, line, measure
from tests.helpers import policy_of

SMALL = [
    "model=debug", "data=translation", "data.max_train_documents=16", "data.max_validation_documents=8",
    "eval=quick", "trainer.batch_size=3", "trainer.micro_batch_size=3", "trainer.device=cpu",
]  # fmt: skip


def test_figures_are_those_of_their_definitions() -> None:
    """B = 3, R = 2, P = 5."""
    gradients = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(3))
    row = figures(Measured(gradients, tokens=7.0, cpu_seconds=0.5))
    mean = gradients.double().mean(1)
    pairs = [mean[a] @ mean[b] for a in range(3) for b in range(3) if a != b]
    signal = float(sum(pairs)) / 6
    squares = [float(g.double() @ g.double()) for batch in gradients for g in batch]
    sampling = sum(float((g.double() - mean[b]).square().sum()) for b in range(3) for g in gradients[b]) / 3
    assert row["signal"] == pytest.approx(signal, rel=1e-5)
    assert row["noise"] == pytest.approx(sum(squares) / 6 - signal, rel=1e-5)
    assert row["sampling_share"] == pytest.approx(sampling / row["noise"], rel=1e-5)
    without = [float(mean[a] @ mean[b]) for a, b in ((1, 2), (0, 2), (0, 1))]
    centre = sum(without) / 3
    assert row["signal_error"] == pytest.approx((2 / 3 * sum((x - centre) ** 2 for x in without)) ** 0.5, rel=1e-5)
    assert (row["tokens"], row["cpu_seconds"]) == (7.0, 0.5)


def test_no_ratio_is_given_where_the_signal_is_not_clear() -> None:
    row = {"signal": 1.0, "signal_error": 0.6, "noise": 6.0, "sampling_share": 0.5, "tokens": 10.0, "cpu_seconds": 2.0}
    assert line("a", row | {"noise_over_signal": 6.0}).endswith("| unclear | unclear | unclear |")
    assert line("a", row | {"noise_over_signal": 6.0, "signal_error": 0.4}).endswith("| 6.0 | 60 | 12.00 |")


def test_values_with_commas_make_a_grid() -> None:
    fixed, points = grid(["data=translation", "sampler.stride=1,2", "features.feature_layers=[1,2]", "seed=3,5"])
    assert fixed == ["data=translation", "features.feature_layers=[1,2]"]
    assert list(points) == [(f"sampler.stride={s}", f"seed={n}") for s in (1, 2) for n in (3, 5)]
    assert list(grid(["data=translation"])[1]) == [()]


def test_chances_to_be_kept_add_up_to_the_share_and_leave_sums_as_they_are() -> None:
    """Over all 2^5 subsets of the anchors that exist: the expected sum of what is kept, over its chance, is the sum."""
    scores = torch.tensor([[0.1, 9.0, 0.0, 1.0], [2.0, 0.5, 3.0, 7.0]])
    exists = torch.tensor([[True, True, True, False], [True, True, False, False]])
    chance = inclusion(scores, exists, 0.6)
    assert float(chance.sum()) == pytest.approx(0.6 * 5)
    assert float(chance.max()) == 1.0
    assert float(chance[exists].min()) > 0
    assert torch.equal(chance == 0, ~exists)
    values, q = torch.tensor([3.0, -5.0, 7.0, 11.0, -13.0]), chance[exists]
    expected = 0.0
    for kept in product([False, True], repeat=5):
        probability = torch.where(torch.tensor(kept), q, 1 - q).prod()
        expected += float(probability * torch.where(torch.tensor(kept), values / q, 0).sum())
    assert expected == pytest.approx(float(values.sum()), rel=1e-4)


def test_folded_gradients_keep_their_inner_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three gradients, to a fifth of a norm at 4,096 numbers; and whole ones where they fit."""
    policy = policy_of()
    whole, folded = [], []
    fold = Fold(policy)
    for seed in range(3):
        for place, parameter in enumerate(fold.parameters):
            draw = torch.Generator().manual_seed(100 * seed + place)
            parameter.grad = 1 + torch.randn(parameter.shape, generator=draw)
        whole.append(fold())
        monkeypatch.setattr(allocation, "MAX_WIDTH", 4096)
        folded.append(fold())
        monkeypatch.undo()
    assert len(whole[0]) == fold.size > 4096 == len(folded[0])
    exact, found = (torch.stack(x) @ torch.stack(x).T for x in (whole, folded))
    torch.testing.assert_close(found, exact, rtol=0, atol=0.2 * float(exact.diagonal().mean()))


CONFIG = [*SMALL, "method=ebft", "method.ce_coef=0", "sampler.stride=1", "sampler.n_samples=3"]


@pytest.fixture(scope="module")
def every() -> Measured:
    """At all anchors, by the method itself."""
    return measure(compose(CONFIG), 3, 2)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", allocation.SCHEMES)
def test_thinned_anchors_cost_less_and_all_of_them_are_the_step_itself(every: Measured, scheme: str) -> None:
    """The batch's baseline and denominators included, and no forward of scores counted."""
    all_kept, half = (measure(compose(CONFIG), 3, 2, (scheme, share)) for share in (1.0, 0.5))
    torch.testing.assert_close(all_kept.gradients, every.gradients, rtol=1e-4, atol=1e-7)
    assert all_kept.tokens == every.tokens > half.tokens / 0.9
