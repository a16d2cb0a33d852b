import errno
import os
import pickle
import random
import re
from pathlib import Path
from typing import Any, NoReturn

import numpy
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from ebft import checkpoint
from ebft.config import RunFailure, UserError
from tests.helpers import plain_model


def state(step: int = 0) -> dict[str, Any]:
    return {"step": step, "weights": torch.arange(7.0), "betas": (0.9, 0.95), "run_id": None, "rows": [{"name": "x"}]}


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def full_disk(*_: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_state_comes_back(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 40, state(40), keep=1)
    assert path == tmp_path / "checkpoints" / "step_000040" == checkpoint.latest(tmp_path)
    loaded = checkpoint.load(path)
    assert loaded.pop("weights").tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert loaded == {"step": 40, "betas": (0.9, 0.95), "run_id": None, "rows": [{"name": "x"}]}


def test_newest_are_kept_by_step_and_not_by_name(tmp_path: Path) -> None:
    for step in (999_983, 1_000_003, 1_000_033):
        checkpoint.save(tmp_path, step, state(step), keep=2)
    assert names(tmp_path) == ["step_1000003", "step_1000033"]
    assert checkpoint.latest(tmp_path) == tmp_path / "checkpoints" / "step_1000033"


def test_no_run_has_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "nowhere") is None


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_full_disk_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    older = checkpoint.save(tmp_path, 3, state(3), keep=1)
    monkeypatch.setattr(os, broken, full_disk)
    with pytest.raises(RunFailure, match=r"disk is full: .*step_000005/state.pt"):
        checkpoint.save(tmp_path, 5, state(5), keep=1)
    assert checkpoint.latest(tmp_path) == older
    assert checkpoint.load(older)["step"] == 3


def test_full_disk_while_torch_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full takes the place of the unfinished file: torch then fails in its own way."""
    monkeypatch.setattr("ebft.files.partial_name", lambda path: path.with_name(".full"))
    folder = tmp_path / "checkpoints" / "step_000005"
    folder.mkdir(parents=True)
    (folder / ".full").symlink_to("/dev/full")
    with pytest.raises(RunFailure, match="disk is full"):
        checkpoint.save(tmp_path, 5, {"weights": torch.zeros(1_000_003)}, keep=1)
    assert checkpoint.latest(tmp_path) is None


def test_what_a_kill_leaves_is_never_latest_and_goes_with_the_next_save(tmp_path: Path) -> None:
    older = checkpoint.save(tmp_path, 3, state(3), keep=5)
    killed = tmp_path / "checkpoints" / "step_000005"
    killed.mkdir()
    (killed / ".state.pt.partial").write_bytes(b"half")
    (older / ".state.pt.partial").write_bytes(b"half")
    assert checkpoint.latest(tmp_path) == older
    checkpoint.save(tmp_path, 7, state(7), keep=5)
    assert names(tmp_path) == ["step_000003", "step_000007"]
    assert [path.name for path in older.iterdir()] == ["state.pt"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 3, {"step": 3, "try": 1}, keep=1)
    assert checkpoint.load(checkpoint.save(tmp_path, 3, {"step": 3, "try": 2}, keep=1))["try"] == 2


def test_resuming_earlier_abandons_later_checkpoints(tmp_path: Path) -> None:
    """Otherwise the first save after the resume would be rotated away, and resume=auto would jump back to the abandoned course."""
    for step in (3, 5, 7):
        checkpoint.save(tmp_path, step, state(step), keep=3)
    checkpoint.discard_after(tmp_path, 5)
    assert names(tmp_path) == ["step_000003", "step_000005"]


def test_resolve(tmp_path: Path) -> None:
    assert checkpoint.resolve("auto", tmp_path) is None
    newest = [checkpoint.save(tmp_path, step, state(step), keep=2) for step in (3, 5)][-1]
    older = tmp_path / "checkpoints" / "step_000003"
    assert checkpoint.resolve("auto", tmp_path) == newest
    assert checkpoint.resolve("never", tmp_path) is None
    assert checkpoint.resolve(str(older), tmp_path / "elsewhere") == older
    assert checkpoint.resolve(str(tmp_path), tmp_path / "elsewhere") == newest


def test_resolve_refuses_a_folder_without_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^resume={tmp_path} holds no checkpoint; name a checkpoint folder"):
        checkpoint.resolve(str(tmp_path), tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps(re.compile("x"), protocol=2)], ids=["empty", "text", "pickle"])
def test_load_refuses_what_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(UserError, match=rf"^{tmp_path} is not a checkpoint that can be read; remove it, or name another with resume=PATH\.$"):
        checkpoint.load(tmp_path)


def test_load_refuses_a_truncated_checkpoint(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 3, state(3), keep=1) / "state.pt"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="is not a checkpoint that can be read"):
        checkpoint.load(path.parent)


def test_load_refuses_another_program_s_file(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "state.pt")
    with pytest.raises(UserError, match="is not a checkpoint of ebft"):
        checkpoint.load(tmp_path)


def draws() -> list[float]:
    return [random.random(), random.gauss(0, 1), float(numpy.random.rand()), float(numpy.random.randn()), float(torch.rand(()))]


def test_random_states_continue_through_a_file(tmp_path: Path) -> None:
    before = checkpoint.random_state()
    draws()  # a Gaussian draw leaves the second of its pair in the state
    saved = checkpoint.random_state()
    expected = draws()
    path = checkpoint.save(tmp_path, 1, saved, keep=1)
    assert draws() != expected
    checkpoint.restore_random_state(checkpoint.load(path))
    assert draws() == expected
    checkpoint.restore_random_state(before)


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {f"w{i}": i for i in range(31)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="w0")))


def test_export_loads_in_plain_transformers(tmp_path: Path) -> None:
    model, tokens = plain_model(), torch.tensor([[3, 5, 7, 11]])
    for card in ("old card", "new card\n"):
        checkpoint.export(model, tokenizer(), tmp_path / "model", card)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", attn_implementation="eager")
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "model").get_vocab()["w13"] == 13
    assert (tmp_path / "model" / "README.md").read_text() == "new card\n"
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
