"""`auto` follows from the rows: pairs of prompt and completion, or plain text."""

import pytest

from ebft.cli.compose import compose
from ebft.config import defaults
from ebft.config.schema import UserError

FILE, HUB = ["data.path=x"], ["data=hub", "data.path=x"]
PAIR = ["data.text_column=null", "data.prompt_column=p", "data.completion_column=c"]
TEMPLATE = ["data.text_column=null", 'data.prompt_template="{p}"', "data.completion_column=c"]
PADDED, PACKED = ("padded", "completion", "completion"), ("packed", "all", "all")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data=jsonl", *FILE], PACKED),
        (["data=jsonl", *FILE, *PAIR], PADDED),
        (["data=jsonl", *FILE, *TEMPLATE], PADDED),
        (["data=parquet", *FILE, *PAIR], PADDED),
        ([*HUB, *PAIR], PADDED),
        (["data=rows", "data.function=examples/own/task.py:rows"], PADDED),
        (["data=code_qa"], PADDED),
        (["data=stdlib"], PACKED),
        (["data=mixture"], PACKED),
        (["data=mbpp"], PADDED),
        (["data=opencode_instruct"], PACKED),  # as its authors
        (["data=jsonl", *FILE, *PAIR, "data.layout=packed"], ("packed", "completion", "completion")),
        (["data=jsonl", *FILE, *PAIR, "data.loss_tokens=all"], ("padded", "all", "all")),
        (
            ["data=jsonl", *FILE, *PAIR, "data.loss_tokens=all", "sampler.anchors=completion"],
            ("padded", "all", "completion"),
        ),
        (["data=code_qa", "sampler=completion"], PADDED),
    ],
)
def test_pairs_are_padded_and_their_completions_trained_on(
    overrides: list[str], expected: tuple[str, str, str]
) -> None:
    """Pairs from a file were once packed, trained on prompts, and left two held-out rows of 200."""
    config = compose(overrides)
    assert (config.data.layout, config.data.loss_tokens, config.sampler.anchors) == expected


@pytest.mark.parametrize(("spec", "task"), [(object(), "chrf"), (None, "exact_match")])
def test_translations_are_judged_by_what_is_installed(monkeypatch: pytest.MonkeyPatch, spec: object, task: str) -> None:
    """A plain `pip install ebft` has no sacrebleu, and data=translation ended there for every method."""
    monkeypatch.setattr(defaults, "find_spec", lambda name: spec)
    config = compose(["data=translation", "+data@eval.sets.also=translation"])
    assert (config.data.task, config.eval.sets["also"].task) == (task, task)
    assert compose(["data=translation", "data.task=bleu"]).data.task == "bleu"
    with pytest.raises(UserError, match=r"^data\.task=auto is not one of"):
        compose(["data=code_qa", "data.task=auto"])
