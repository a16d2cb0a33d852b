"""What is prepared for a GPU, rehearsed on the CPU: every stage in a toy shape, what becomes of stages that fail or
hang, and the tables."""

import gzip
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import gpu_bundle
import gpu_check
import gpu_parity
import gpu_record
import gpu_stages
import pytest
from gpu_tables import SECTIONS, tables

from ebft.models.decoder import Decoder
from tests.gguf_file import write_gguf

H200 = Path(__file__).parents[2] / "docs" / "benchmarks" / "gpu" / "h200"
PAGE = H200.parents[1] / "gpu.md"
REHEARSAL = gpu_record.Place("cpu", small=True)


def rehearsed(folder: Path, stage: str) -> dict:
    gpu_stages.STAGES[stage](gpu_record.Record(folder / f"{stage}.json"), REHEARSAL)
    return json.loads((folder / f"{stage}.json").read_text())


def test_every_stage_has_a_limit_a_function_and_a_table() -> None:
    assert set(gpu_check.STAGES) == set(gpu_stages.STAGES) == set(SECTIONS)


@pytest.mark.slow
def test_steps_are_rehearsed_with_their_twin(tmp_path: Path) -> None:
    found = rehearsed(tmp_path, "step")
    assert found["reuse"]["reused_share"] > 0
    assert all(found[name]["seconds"]["step"] > 0 for name in ("ours", "reuse", "sft", "naive"))
    assert sum(found["planned_bytes"]["ours"].values()) > sum(found["planned_bytes"]["sft"].values())
    assert "times its seconds in `naive`" in tables({"step": found})


@pytest.mark.slow
def test_a_real_run_is_rehearsed_on_what_travelled_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {
        "text": "Write a function to double.",
        "code": "def f(x):\n    return 2 * x",
        "test_list": ["assert f(1) == 2"],
    }
    rows = [{**row, "task_id": n, "test_setup_code": "", "text": f"{row['text']} {n}"} for n in range(80)]
    data = tmp_path / "rows.jsonl.gz"
    data.write_bytes(gzip.compress("".join(json.dumps(each) + "\n" for each in rows).encode()))
    monkeypatch.setattr(gpu_bundle, "PART", 1_000_000)
    gpu_bundle.divide(write_gguf(tmp_path / "tiny.gguf"), data, tmp_path / "weights")
    monkeypatch.setattr(gpu_stages, "WEIGHTS", tmp_path / "weights")
    found = rehearsed(tmp_path, "real")
    assert found["ebft"]["status"] == "completed"
    assert "| ebft | eval/cross_entropy |" in tables({"real": found})


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["machine", "steady", "held", "real", "lengths"])
def test_a_stage_is_rehearsed(tmp_path: Path, stage: str) -> None:
    assert gpu_check.found_in(tmp_path) == {}
    found = rehearsed(tmp_path, stage)
    assert found
    assert gpu_check.found_in(tmp_path) == {stage: found}
    assert tables({stage: found}).startswith("### ")


@pytest.mark.slow
def test_pieces_are_rehearsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decoder, "compile", lambda decoder: None)  # with a C++ compiler, for a minute
    found = rehearsed(tmp_path, "pieces")
    assert {"attention", "attention_in_chunks", "branches", "rows", "optimizer", "kernel_0"} < set(found)


@pytest.mark.slow
def test_a_family_is_compared_with_itself() -> None:
    figures = gpu_parity.compared(("llama", "fp32", "cpu"))
    assert figures["largest_log_prob_difference"] == 0
    assert (figures["gradient_cosine"], figures["equal_rollouts"]) == (pytest.approx(1), 1)
    assert "KeyError" in gpu_parity.compared(("no family", "fp32", "cpu"))["error"]


# The driver


def driven(monkeypatch: pytest.MonkeyPatch, folder: Path, programs: dict[str, str], minutes: float = 1.0) -> int:
    """The exit status where every stage is a program of one line."""
    monkeypatch.setattr(gpu_check, "command_of", lambda stage, *_: [sys.executable, "-c", programs[stage]])
    monkeypatch.setattr(gpu_check, "STAGES", dict.fromkeys(programs, 2))
    arguments = SimpleNamespace(out=folder, stages=list(programs), minutes=minutes, device="cuda", only="")
    return gpu_check.run_all(arguments)


def test_a_stage_that_fails_stops_no_other_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "; ".join(f"print({number})" for number in range(30))
    programs = {"broken": f"print('RuntimeError: told early'); {lines}; 1 / 0", "good": "print('fine')"}
    assert driven(monkeypatch, tmp_path, programs) == 1
    said = capsys.readouterr().out
    assert "broken    failed with exit status 1" in said
    assert "RuntimeError: told early" in said
    assert "ZeroDivisionError" in said
    assert "    3\n" not in said
    assert "good      done" in said
    assert said.endswith("Failed: broken\n")


@pytest.mark.slow
def test_a_stage_that_hangs_is_cut_off_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hangs = "import subprocess; print('begun', flush=True); subprocess.run(['sleep', '100'])"
    assert driven(monkeypatch, tmp_path, {"hangs": hangs}) == 1
    said = capsys.readouterr().out
    assert "cut off after 2 s" in said
    assert "begun" in said


def test_a_stage_without_time_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert driven(monkeypatch, tmp_path, {"late": "print(1)"}, minutes=0.1) == 0
    assert "late      skipped: 6 s are left" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stages", "step,stap"], "--stages stap is not known; choose from machine, tests"),
        (["--minutes", "0"], "--minutes 0 must be above 0."),
        (["--tables", "nowhere"], "--tables nowhere holds no results"),
    ],
)
def test_wrong_arguments_get_a_sentence(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *arguments])
    with pytest.raises(SystemExit) as exited:
        gpu_check.parse()
    assert exited.value.code == 2
    assert message in capsys.readouterr().err


def test_the_page_shows_what_is_kept() -> None:
    """docs/benchmarks/gpu.md holds the tables of docs/benchmarks/gpu/h200."""
    assert tables(gpu_check.found_in(H200)) in PAGE.read_text(encoding="utf-8")


# The bundle


def test_weights_travel_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_bundle, "PART", 7)
    (tmp_path / "model.gguf").write_bytes(bytes(range(17)))
    (tmp_path / "rows.jsonl.gz").write_bytes(b"rows")
    gpu_bundle.divide(tmp_path / "model.gguf", tmp_path / "rows.jsonl.gz", tmp_path / "out")
    parts = sorted((tmp_path / "out").glob("part.*"))
    assert [part.name for part in parts] == ["part.00", "part.01", "part.02"]
    assert b"".join(part.read_bytes() for part in parts) == bytes(range(17))
    with pytest.raises(SystemExit, match=r"--weights: .*none\.gguf is no file"):
        gpu_bundle.divide(tmp_path / "none.gguf", tmp_path / "rows.jsonl.gz", tmp_path / "out")


def test_what_nothing_reads_stays_here(tmp_path: Path) -> None:
    for name in (
        "wandb/bin/core",
        "bitsandbytes/libbitsandbytes_cuda118.so",
        "bitsandbytes/libbitsandbytes_cuda130.so",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    gpu_bundle.prune(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == [
        "bitsandbytes/libbitsandbytes_cuda130.so"
    ]
