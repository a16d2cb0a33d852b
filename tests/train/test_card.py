"""What an exported model says of itself."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from ebft.train.card import model_card
from tests.debug_run import miniature


def test_the_model_card_names_base_data_method_and_figures_with_intervals(tmp_path: Path) -> None:
    figures = {
        "eval/cross_entropy": 1.23456,
        "eval/cross_entropy_stderr": 0.25,
        "eval/greedy": 0.5,
        "eval/entropy@1": 2,
    }
    card = model_card(miniature(tmp_path, "method=sft"), 7, {"eval/cross_entropy": 2.0}, figures, "transformers")
    header = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    assert header is not None
    assert header[1].splitlines() == ["library_name: transformers", "tags: [sft]"]  # the hub has no tiny
    assert (
        "(method `sft`) from `tiny` for 7 steps of 3 rows of\n23 tokens, data `jsonl`, learning rate 0.01, seed 0."
        in card
    )
    assert "| `eval/cross_entropy` ↓ | 2.0000 | 1.2346 | ± 0.4900 |\n| `eval/greedy` ↑ |  | 0.5000 |  |\n\n" in card
    assert f"`path={tmp_path / 'train.jsonl'}`" in card
    files = f"data.path={tmp_path / 'train.jsonl'} data.validation_path={tmp_path / 'validation.jsonl'}"
    assert f"\n    ebft-train config.yaml {files}  # or where these lie now\n" in card


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("Qwen/Qwen2.5-0.5B", "base_model: Qwen/Qwen2.5-0.5B\n"),
        ("smollm2", "base_model: HuggingFaceTB/SmolLM2-135M-Instruct\n"),
        ("tiny", ""),
        ("a/b/c", ""),
        ("outputs/sft", ""),
    ],
)
def test_a_base_is_linked_where_the_hub_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, line: str
) -> None:
    """The hub refuses a card whose base is a folder."""
    (tmp_path / "outputs" / "sft").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    config = miniature(tmp_path, "method=sft")
    moved = replace(config, model=replace(config.model, path=path))
    assert model_card(moved, 7, {}, {}, "transformers").startswith(f"---\n{line}library_name: ")
