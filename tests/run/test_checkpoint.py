import errno
import hashlib
import os
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy
import pytest
import torch
from tokenizers import Tokenizer, models
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from ebft.config.schema import RunFailure, UserError
from ebft.data.tokenization import Tokenization
from ebft.run import checked, checkpoint, tensors
from tests.debug_run import same
from tests.helpers import plain_model


def state(step: int = 0) -> dict[str, Any]:
    return {"step": step, "betas": (0.9, 0.95), "run_id": None, "rows": [{"name": "x"}]}


TENSORS = {"model.a": torch.arange(7.0), "optimizer.a.step": torch.tensor(3.0), "model.b": torch.arange(6).view(2, 3)}


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def full_disk(*_: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_state_comes_back(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 40, TENSORS, state(40), keep=1)
    assert path == tmp_path / "checkpoints" / "step_000040" == checkpoint.latest(tmp_path)
    loaded = checkpoint.load(path)
    folder = loaded.pop("tensors")
    assert same(tensors.read(folder), TENSORS)
    assert tensors.read(folder, "model.b")[""].dtype == torch.int64
    assert tensors.shapes(folder) == {name: value.shape for name, value in TENSORS.items()}
    assert loaded == {"step": 40, "betas": (0.9, 0.95), "run_id": None, "rows": [{"name": "x"}]}


def test_newest_are_kept_by_step_and_not_by_name(tmp_path: Path) -> None:
    for step in (999_983, 1_000_003, 1_000_033):
        checkpoint.save(tmp_path, step, TENSORS, state(step), keep=2)
    assert names(tmp_path) == ["step_1000003", "step_1000033"]
    assert checkpoint.latest(tmp_path) == tmp_path / "checkpoints" / "step_1000033"


def test_no_run_has_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "nowhere") is None


@pytest.mark.parametrize(("broken", "file"), [("fsync", "tensors"), ("replace", "state.pt")])
def test_full_disk_leaves_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, file: str
) -> None:
    older = checkpoint.save(tmp_path, 3, TENSORS, state(3), keep=1)
    monkeypatch.setattr(os, broken, full_disk)
    with pytest.raises(RunFailure, match=rf"disk is full: .*step_000005/{file}"):
        checkpoint.save(tmp_path, 5, TENSORS, state(5), keep=1)
    assert checkpoint.latest(tmp_path) == older
    assert checkpoint.load(older)["step"] == 3


def test_full_disk_while_torch_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full takes the place of the unfinished file: torch then fails in its own way."""
    monkeypatch.setattr("ebft.output.files.descriptor", lambda path, flags: os.open("/dev/full", os.O_WRONLY))
    with pytest.raises(RunFailure, match="disk is full"):
        checkpoint.save(tmp_path, 5, TENSORS, {"large": torch.zeros(1_000_003)}, keep=1)
    assert checkpoint.latest(tmp_path) is None


def test_what_a_kill_leaves_is_never_latest_and_goes_with_the_next_save(tmp_path: Path) -> None:
    older = checkpoint.save(tmp_path, 3, TENSORS, state(3), keep=5)
    killed = tmp_path / "checkpoints" / "step_000005"
    killed.mkdir()
    (killed / ".state.pt.partial").write_bytes(b"half")
    (older / ".state.pt.partial").write_bytes(b"half")
    assert checkpoint.latest(tmp_path) == older
    checkpoint.save(tmp_path, 7, TENSORS, state(7), keep=5)
    assert names(tmp_path) == ["step_000003", "step_000007"]
    assert sorted(path.name for path in older.iterdir()) == ["state.pt", "tensors"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    for attempt in (1, 2, 3):
        path = checkpoint.save(tmp_path, 3, {"model.a": torch.tensor(attempt)}, {"step": 3, "try": attempt}, keep=1)
        state = checkpoint.load(path)
        assert (state["try"], tensors.read(state["tensors"])) == (attempt, {"model.a": torch.tensor(attempt)})
        assert len([*path.iterdir()]) == 2


def test_full_disk_while_tensors_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = checkpoint.save(tmp_path, 3, TENSORS, state(3), keep=1)
    monkeypatch.setattr(HuggingFaceStorageWriter, "write_data", full_disk)
    with pytest.raises(RunFailure, match=r"disk is full: .*step_000003/tensors_1"):
        checkpoint.save(tmp_path, 3, TENSORS, state(4), keep=1)
    assert checkpoint.load(older)["step"] == 3
    assert same(tensors.read(checkpoint.load(older)["tensors"]), TENSORS)


def test_tensors_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 3, TENSORS, state(3), keep=1)
    (shard,) = (path / "tensors").iterdir()
    shard.write_bytes(b"something else")
    with pytest.raises(
        UserError, match=r"step_000003/tensors does not hold a checkpoint's tensors; remove it, or name another"
    ):
        tensors.shapes(path / "tensors")
    with pytest.raises(UserError, match="does not hold a checkpoint's tensors"):
        tensors.shapes(path / "nowhere")


@pytest.mark.parametrize("where", ["..", "/etc", "tensors/../../step_000003/tensors", "state.pt", 3])
def test_tensors_lie_in_the_checkpoint_itself(tmp_path: Path, where: Any) -> None:
    path = checkpoint.save(tmp_path, 3, TENSORS, state(3), keep=1)
    checked.write(path / "state.pt", {**torch.load(path / "state.pt", weights_only=True), "tensors": where})
    with pytest.raises(UserError, match="is not a checkpoint of ebft"):
        checkpoint.load(path)


def test_checkpoints_are_neither_taken_nor_removed_through_links(tmp_path: Path) -> None:
    """A link among a stranger's checkpoints once led to files of the user's that went with the next save."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    elsewhere = checkpoint.save(tmp_path / "elsewhere", 9, TENSORS, state(9), keep=1)
    (elsewhere / ".mine.partial").touch()
    checkpoint.save(tmp_path / "run", 3, TENSORS, state(3), keep=1)
    link = tmp_path / "run" / "checkpoints" / "step_000009"
    link.symlink_to(elsewhere)
    assert checkpoint.latest(tmp_path / "run") == link.with_name("step_000003")
    with pytest.raises(UserError, match=r"step_000009 is a link, and nothing is written through it"):
        checkpoint.save(tmp_path / "run", 9, TENSORS, state(9), keep=1)
    checkpoint.save(tmp_path / "run", 5, TENSORS, state(5), keep=1)
    assert names(tmp_path / "run") == ["step_000005"]
    assert sorted(path.name for path in elsewhere.iterdir()) == [".mine.partial", "state.pt", "tensors"]
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "checkpoints").symlink_to(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match=r"linked/checkpoints is a link, and nothing is written through it"):
        checkpoint.save(tmp_path / "linked", 5, TENSORS, state(5), keep=1)


def test_resuming_earlier_abandons_later_checkpoints(tmp_path: Path) -> None:
    """Otherwise the first save after the resume would be rotated away, and resume=auto would jump back to the abandoned
    course."""
    for step in (3, 5, 7):
        checkpoint.save(tmp_path, step, TENSORS, state(step), keep=3)
    checkpoint.discard_after(tmp_path, 5)
    assert names(tmp_path) == ["step_000003", "step_000005"]


def test_resolve(tmp_path: Path) -> None:
    assert checkpoint.resolve("auto", tmp_path) is None
    newest = [checkpoint.save(tmp_path, step, TENSORS, state(step), keep=2) for step in (3, 5)][-1]
    older = tmp_path / "checkpoints" / "step_000003"
    assert checkpoint.resolve("auto", tmp_path) == newest
    assert checkpoint.resolve("never", tmp_path) is None
    assert checkpoint.resolve(str(older), tmp_path / "elsewhere") == older
    assert checkpoint.resolve(str(tmp_path), tmp_path / "elsewhere") == newest


def test_resolve_refuses_a_folder_without_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^resume={tmp_path} holds no checkpoint; name a checkpoint folder"):
        checkpoint.resolve(str(tmp_path), tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint", pickle.dumps(re.compile("x"), protocol=2)], ids=["empty", "text", "pickle"]
)
def test_load_refuses_what_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(
        UserError,
        match=rf"^{tmp_path}/state.pt does not end with its checksum: it is damaged, of an older version, or no "
        r"checkpoint of ebft; remove that checkpoint, so that the one before it counts, or name another with "
        r"resume=PATH\.$",
    ):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_load_refuses_what_is_no_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "state.pt")
    with pytest.raises(UserError, match="is not a checkpoint that can be read"):
        checkpoint.load(tmp_path)


def test_load_refuses_a_pickle_that_has_its_checksum(tmp_path: Path) -> None:
    content = pickle.dumps(re.compile("x"), protocol=2)
    (tmp_path / "state.pt").write_bytes(content + hashlib.sha256(content).digest())
    with pytest.raises(
        UserError,
        match=rf"^{tmp_path} is not a checkpoint that can be read; remove it, or name another with resume=PATH\.$",
    ):
        checkpoint.load(tmp_path)


def test_load_refuses_another_program_s_file(tmp_path: Path) -> None:
    checked.write(tmp_path / "state.pt", [1, 2])
    with pytest.raises(UserError, match="is not a checkpoint of ebft"):
        checkpoint.load(tmp_path)


def test_one_flipped_bit_anywhere_is_refused(tmp_path: Path) -> None:
    """A run once went on with other weights."""
    path = checkpoint.save(tmp_path, 3, TENSORS, state(3), keep=1)
    (shard,) = (path / "tensors").iterdir()
    for file in (path / "state.pt", shard):
        content = file.read_bytes()
        for place in range(0, len(content), 1 + len(content) // 23):
            file.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
            with pytest.raises(UserError, match=rf"^{file} (does not end with its checksum|is not what the)"):
                checkpoint.load(path)
        file.write_bytes(content)
    assert checkpoint.load(path)["step"] == 3


def test_tensors_of_another_step_are_refused(tmp_path: Path) -> None:
    three, five = (checkpoint.save(tmp_path, step, {"a": torch.tensor(step)}, state(step), 2) for step in (3, 5))
    (shard,) = (three / "tensors").iterdir()
    shard.rename(five / "tensors" / shard.name)
    with pytest.raises(
        UserError,
        match=rf"^{five}/tensors/{shard.name} is not what the checkpoint's state.pt was written with, so it is damaged "
        "or of another one; remove that checkpoint",
    ):
        checkpoint.load(five)
    with pytest.raises(UserError, match=rf"^{three}/tensors/{shard.name} is not what"):
        checkpoint.load(three)


def draws() -> list[float]:
    return [
        random.random(),
        random.gauss(0, 1),
        float(numpy.random.rand()),
        float(numpy.random.randn()),
        float(torch.rand(())),
    ]


def test_random_states_continue_through_a_file(tmp_path: Path) -> None:
    before = checkpoint.random_state()
    draws()  # a Gaussian draw leaves the second of its pair in the state
    saved = checkpoint.random_state()
    expected = draws()
    path = checkpoint.save(tmp_path, 1, TENSORS, saved, keep=1)
    assert draws() != expected
    checkpoint.restore_random_state(checkpoint.load(path))
    assert draws() == expected
    checkpoint.restore_random_state(before)


def tokenizer(bos: int | None = None, stop_tokens: tuple[int, ...] = (5,)) -> Tokenization:
    words = Tokenizer(models.WordLevel({"a": 30} | {f"w{i}": i for i in range(30)}, unk_token="w0"))
    return Tokenization(PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w7"), bos, stop_tokens)


def test_an_export_says_what_was_trained(tmp_path: Path) -> None:
    """`generate` of the export ends where training did, and its tokenizer begins a text as rows began."""
    model = plain_model()
    checkpoint.export(model, tokenizer(7, (11, 5)), tmp_path / "model", "card", 7)
    assert AutoConfig.from_pretrained(tmp_path / "model").eos_token_id == [11, 5]
    assert GenerationConfig.from_pretrained(tmp_path / "model").eos_token_id == [11, 5]
    assert AutoTokenizer.from_pretrained(tmp_path / "model")("w3").input_ids == [7, 3]
    checkpoint.export(model, tokenizer(), tmp_path / "model", "card", 7)
    assert AutoConfig.from_pretrained(tmp_path / "model").eos_token_id == 5
    assert AutoTokenizer.from_pretrained(tmp_path / "model")("w3").input_ids == [3]


def test_export_loads_in_plain_transformers(tmp_path: Path) -> None:
    model, tokens = plain_model(), torch.tensor([[3, 5, 7, 11]])
    for card in ("old card", "new card\n"):
        checkpoint.export(model, tokenizer(), tmp_path / "model", card, 7)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", attn_implementation="eager")
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "model").get_vocab()["w13"] == 13
    assert (tmp_path / "model" / "README.md").read_text() == "new card\n"
    assert checkpoint.exported_step(tmp_path / "model") == 7
    assert checkpoint.exported_step(tmp_path) is None
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_weights_may_be_read_by_whoever_may_read_the_folder(tmp_path: Path) -> None:
    """safetensors gives them to their user alone, and a colleague could read all of a run but its model."""
    before = os.umask(0o027)
    try:
        checkpoint.export(plain_model(), tokenizer(), tmp_path / "model", "card", 7)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()} == {0o640}
