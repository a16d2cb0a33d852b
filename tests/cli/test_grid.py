"""Grids in Hydra's grammar, and the shortcut past Hydra's composition against Hydra's own."""

import pytest

from ebft.cli.compose import compose
from ebft.cli.grid import Composer, axes, cells, merged
from ebft.config.schema import UserError


def test_a_grid_is_the_product_of_its_axes_the_last_one_fastest() -> None:
    assert cells(["a=1,2", "b=x", "c=choice(3,4)"]) == [
        ["a=1", "b=x", "c=3"],
        ["a=1", "b=x", "c=4"],
        ["a=2", "b=x", "c=3"],
        ["a=2", "b=x", "c=4"],
    ]
    assert cells([]) == [[]]


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("seed=range(3)", ["seed=0", "seed=1", "seed=2"]),
        ("optimizer.lr=1e-4,3e-4", ["optimizer.lr=0.0001", "optimizer.lr=0.0003"]),
        ("eval.horizons=[1,2],[4]", ["eval.horizons=[1,2]", "eval.horizons=[4]"]),
        ("+experiment=smoke", ["+experiment=smoke"]),
        ('data.path="a,b"', ['data.path="a,b"']),
    ],
)
def test_values_keep_hydra_s_spelling(override: str, values: list[str]) -> None:
    (found,) = axes([override]).values()
    assert found == values


def test_later_overrides_replace_earlier_ones_of_their_key() -> None:
    assert merged(["a=1", "b=2"], ["+c=3"], ["a=4,5"]) == ["a=4,5", "b=2", "+c=3"]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("seed=range(0,4,0)", "seed=range(0,4,0) never moves on from its start; give range a step other than 0."),
        ("seed=range(4,0)", "seed=range(4,0) holds no value; a range ends before its stop."),
        ("method=glob(*)", "method=glob(*) matches names, which a grid does not; list the options of the group."),
    ],
)
def test_what_holds_no_values_is_refused(override: str, sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        axes([override])
    assert str(refused.value) == sentence


def test_an_interval_is_for_a_search() -> None:
    with pytest.raises(
        UserError, match=r"optimizer\.lr=interval\(0,1\) has no list of values; list some, or .* sweep\.search=optuna\."
    ):
        axes(["optimizer.lr=interval(0,1)"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["method=sft", "optimizer.lr=1e-4", "seed=3"],
        ["+experiment=smoke", "method=rlvr", "trainer.max_steps=7"],
        ["data=translation", "sampler=paper_translation", "features.feature_layers=[0.5,2,1.0]"],
        ["model=debug", "model.config_overrides.num_hidden_layers=2", "+model.config_overrides.new=1"],
    ],
)
def test_many_configurations_are_those_of_hydra(overrides: list[str]) -> None:
    """Twice, since the second time the choice of groups is known."""
    composer = Composer()
    assert composer.config(overrides) == composer.config(overrides) == compose(overrides)


@pytest.mark.slow
def test_a_configuration_does_not_leak_into_the_next() -> None:
    composer = Composer()
    composer.config(["optimizer.lr=0.5", "features.feature_layers=[3]"])
    assert composer.config([]) == compose([])
