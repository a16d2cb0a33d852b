"""Signal figures by hand (method.md section 6)."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from ebft.methods.metrics import signal
from ebft.types import Blocks, Rollout
from tests.helpers import figures


@dataclass
class Part:
    rollout: Rollout
    alignment: Tensor
    diversity: Tensor
    reward: Tensor
    advantages: Tensor
    whitening_sign: Tensor | None
    reused: Tensor


def part_of(contexts: list[dict[str, list]], num_samples: int = 3) -> Part:
    """One row with a block per context, and one more block that does not exist and holds nonsense."""

    def figure(name: str) -> Tensor:
        columns = [context[name] for context in contexts] + [[1e6] * num_samples]
        return torch.tensor(columns, dtype=torch.float32).T[None]

    tokens = torch.tensor([context["tokens"] for context in contexts] + [[[0, 0]] * num_samples]).transpose(0, 1)[None]
    exists = torch.tensor([[True] * len(contexts) + [False]])
    blocks = Blocks(torch.ones_like(exists, dtype=torch.long), exists, (1,) * (len(contexts) + 1))
    names = ("alignment", "diversity", "reward", "advantages", "whitening_sign", "reused")
    valid = exists[:, None, :, None].expand(tokens.shape)
    return Part(Rollout(blocks, tokens, torch.zeros(tokens.shape), valid), *map(figure, names))


FIRST = {  # all alike
    "tokens": [[4, 5], [4, 5], [4, 5]],
    "alignment": [1, 1, 1],
    "diversity": [2, 2, 2],
    "reward": [-1, -1, -1],
    "advantages": [0, 0, 0],
    "whitening_sign": [1, 1, 1],
    "reused": [1, 1, 1],
}
SECOND = {  # two of three share their tokens; one begins with the stop token
    "tokens": [[7, 0], [5, 4], [7, 0]],
    "alignment": [4, 0, 4],
    "diversity": [1, 0, 1],
    "reward": [3, 0, 3],
    "advantages": [1.5, -3, 1.5],
    "whitening_sign": [1, -1, 1],
    "reused": [0, 2, 0],
}
THIRD = {  # the same first token is no duplicate
    "tokens": [[1, 2], [1, 3], [2, 2]],
    "alignment": [0, 1, 2],
    "diversity": [0, 0, 0],
    "reward": [0, 1, 2],
    "advantages": [-1.5, 0, 1.5],
    "whitening_sign": [-1, -1, 1],
    "reused": [0, 0, 0],
}


@pytest.mark.parametrize(
    "parts", [[[FIRST, SECOND, THIRD]], [[FIRST], [SECOND, THIRD]]], ids=["one", "two micro-batches"]
)
def test_figures_by_hand(parts: list[list[dict[str, list]]]) -> None:
    assert figures(signal([part_of(contexts) for contexts in parts], stop_tokens=(7,))) == pytest.approx(
        {
            "reward": (-3 + 6 + 3) / 9,
            "alignment": (3 + 8 + 3) / 9,
            "diversity": (6 + 2 + 0) / 9,
            "advantage_std": ((2.25 + 9 + 2.25 + 2.25 + 2.25) / 9) ** 0.5,  # of mean 0
            "zero_advantage_share": 1 / 3,
            "duplicate_share": 5 / 9,
            "negative_whitening_share": 3 / 9,
            "starts_with_eos_share": 2 / 9,
            "reused_share": 5 / 18,
        },
        rel=1e-6,
    )


def test_without_the_authors_whitening_there_is_no_sign_of_it() -> None:
    part = replace(part_of([FIRST]), whitening_sign=None)
    assert "negative_whitening_share" not in signal([part], stop_tokens=())


def test_without_a_stop_token_there_is_no_share_of_it() -> None:
    assert "starts_with_eos_share" not in signal([part_of([FIRST])], stop_tokens=())


def test_rounding_is_no_advantage() -> None:
    nearly = FIRST | {"reward": [-1, -1 + 1e-7, -1], "advantages": [1e-7, -2e-7, 1e-7]}
    assert figures(signal([part_of([nearly, SECOND])], ()))["zero_advantage_share"] == 0.5
