"""What an exported model says of itself."""

import re
from pathlib import Path

from ebft.train.card import model_card
from tests.debug_run import miniature


def test_the_model_card_names_base_data_method_and_figures_with_intervals(tmp_path: Path) -> None:
    figures = {"eval/cross_entropy": 1.23456, "eval/cross_entropy_stderr": 0.25, "eval/greedy": 0.5}
    card = model_card(miniature(tmp_path, "method=sft"), 7, {"eval/cross_entropy": 2.0}, figures, "transformers")
    header = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    assert header is not None
    assert header[1].splitlines() == ["base_model: tiny", "library_name: transformers", "tags: [sft]"]
    assert (
        "(method `sft`) from `tiny` for 7 steps of 3 rows of\n23 tokens, data `jsonl`, learning rate 0.01, seed 0."
        in card
    )
    assert "| `eval/cross_entropy` | 2.0000 | 1.2346 | ± 0.4900 |\n| `eval/greedy` |  | 0.5000 |  |" in card
    assert f"`path={tmp_path / 'train.jsonl'}`" in card
    assert "\n    ebft-train config.yaml\n" in card
