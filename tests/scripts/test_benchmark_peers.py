"""What stands beside TRL takes the step that it says."""

from importlib.util import find_spec
from pathlib import Path

import benchmark_peers as peers
import pytest
from benchmark_models import build


def test_numbers_are_their_own_tokens() -> None:
    tokenizer = peers.number_tokenizer(31)
    assert tokenizer("7 0 30")["input_ids"] == [7, 0, 30]
    assert tokenizer.decode([7, 0, 30]) == "7 0 30"
    assert tokenizer.eos_token_id == 31


def test_our_step_moves_the_policy_by_a_reward_that_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "NEW_TOKENS", 11)
    model = build("toy", 23, peers.TEMPERATURE)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    peers.our_rlvr(model, peers.random_rows(3, 7, model.config.vocab_size))(0)
    assert any((parameter != before[name]).any() for name, parameter in model.named_parameters())


@pytest.mark.slow
@pytest.mark.skipif(find_spec("trl") is None, reason="needs TRL: pip install 'ebft[peers]'")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # TRL's own
@pytest.mark.parametrize("sides", [(peers.our_rlvr, peers.trl_grpo), (peers.our_sft, peers.trl_sft)])
def test_both_sides_are_timed(sides: tuple[object, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peers, "NEW_TOKENS", 5)
    monkeypatch.setattr(peers, "build", lambda _, *rest: build("toy", *rest))
    figures = peers.race(*sides, peers.random_rows(2, 7, 64), 1)
    assert min(*figures["cpu_seconds"].values(), figures["trl_over_ours_cpu_seconds"]) > 0
