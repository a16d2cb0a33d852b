"""What of held-out rows is in the training data, on rows worked out by hand."""

import pytest
import torch

from ebft.data import Rows
from ebft.train.contamination import LENGTH, Contamination, contamination

T, PROMPT = 20, 4


def rows(*starts: int, length: int = T, prompt: int | None = None) -> Rows:
    """Rows of consecutive numbers from each start, or whose first four tokens begin at `prompt` instead."""
    tokens = torch.tensor([[start + place for place in range(T)] for start in starts])
    if prompt is not None:
        tokens[:, :PROMPT] = torch.arange(prompt, prompt + PROMPT)
    ids = torch.where(torch.arange(T) < length, 0, -1).expand(len(starts), T)
    completion = (torch.arange(T) >= PROMPT) & (ids == 0)
    return Rows(tokens, ids, completion, completion, masked=False, num_documents=len(starts), documents=())


def shares(train: Rows, held_out: Rows, has_pairs: bool = True) -> tuple[float | None, ...]:
    found = contamination(train, [held_out.batch([row]) for row in range(len(held_out))], has_pairs)
    return found.prompts, found.completions, found.windows


def test_shares_of_prompts_completions_and_windows_by_hand() -> None:
    """The training row; its completion behind another prompt, and so 16 tokens of it; 12 tokens of it, one too few; 13;
    and the row among three others."""
    train = rows(100)
    assert shares(train, rows(100)) == (1, 1, 1)
    assert shares(train, rows(100, prompt=500)) == (0, 1, 1)
    assert shares(train, rows(100 + T - LENGTH + 1)) == (0, 0, 0)
    assert shares(train, rows(100 + T - LENGTH)) == (0, 0, 1)
    assert shares(train, rows(100, 300, 300, 300)) == (0.25, 0.25, 0.25)


def test_padding_is_no_text() -> None:
    """Rows of 12 real tokens, which hold no 13, and rows whose equal tokens are padding."""
    assert shares(rows(100), rows(100, length=LENGTH - 1)) == (1, 0, 0)
    assert shares(rows(100, length=LENGTH - 1), rows(100)) == (1, 0, 0)


def test_text_has_no_prompt_of_its_own() -> None:
    assert shares(rows(100), rows(100), has_pairs=False) == (None, None, 1)
    assert str(Contamination(192, None, None, 0.25)) == "13 tokens in a row 25.0 % of 192 rows"
    assert str(Contamination(8, 0.5, 0.25, 1.0)).startswith(
        "prompts 50.0 %, completions 25.0 %, 13 tokens in a row 100.0 %"
    )


@pytest.mark.parametrize("number", [3, 5000])
def test_many_training_rows_are_gone_through_in_parts(number: int) -> None:
    train = rows(*(1000 * place for place in range(number)))
    assert shares(train, rows(1000 * (number - 1), 500)) == (0.5, 0.5, 0.5)
