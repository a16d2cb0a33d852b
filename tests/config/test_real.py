"""The studies on real models take a step from files of the same names and columns; that their sweeps plan is in
tests/cli/test_compose.py."""

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest

from ebft.cli.compose import compose
from ebft.train.loop import train
from tests.debug_run import without_report

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment" / "real").glob("*.yaml"))
PAIRS = ("de-en", "cs-en", "is-en", "ru-en", "zh-en")
SMALL = """
    model=debug trainer.max_steps=1 trainer.batch_size=2 trainer.micro_batch_size=2 trainer.device=cpu
    data.sequence_length=256 eval.num_documents=2 eval.long_documents=2 eval.horizons=[1,8] eval.n_samples=2
    eval.num_questions=2 eval.max_new_tokens=4 eval.stride=32 eval.long_stride=32 eval.context_length=8
    sandbox.allow_code_execution=true sandbox.require=none sandbox.check_references=3
"""


def write(path: Path, rows: Iterator[Mapping[str, Any]]) -> None:
    with gzip.open(path, "wt") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows)


def mbpp() -> Iterator[dict[str, Any]]:
    """974 rows, as MBPP's splits are slices of them."""
    for n in range(974):
        code, tests = f"def f(x):\n    found = {n} + x\n    return found", [f"assert f(1) == {n + 1}"]
        yield {"text": f"Add {n}.", "code": code, "test_list": tests, "test_setup_code": ""}


def humaneval() -> Iterator[dict[str, Any]]:
    for n in range(5):
        test = f"def check(f):\n    assert f(1) == {n}\n"
        yield {
            "prompt": f"def f(x):\n    # {n}\n",
            "canonical_solution": f"    found = {n}\n    return found\n",
            "test": test,
            "entry_point": "f",
        }


def translations(number: int) -> Iterator[dict[str, Any]]:
    for n in range(number):
        pair = PAIRS[n * 10 // number // 2]
        way = pair if n * 10 // number % 2 == 0 else "-".join(reversed(pair.split("-")))
        yield {"question": f"Say {n}:\nX: x{n}\nY: ", "answer": f"y {n}", "source": way}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Rows under the names that `EBFT_DATA` is to hold."""
    folder = tmp_path_factory.mktemp("data")
    write(folder / "mbpp.jsonl.gz", mbpp())
    write(folder / "HumanEval.jsonl.gz", humaneval())
    write(folder / "alma_train.jsonl.gz", translations(2000))
    write(folder / "wmt22_test.jsonl.gz", translations(17471))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("EBFT_DATA", str(folder))
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        yield


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_study_takes_a_step(files: None, tmp_path: Path, experiment: str) -> None:
    overrides = [f"+experiment=real/{experiment}", *SMALL.split()]
    if experiment == "qa_code":
        overrides.append("data.drop_failing_references=false")  # which would run a thousand programs
    if experiment == "unstructured_code":
        overrides += ["data.packages=[packaging]", "eval.sets.mbpp.drop_failing_references=false"]
    if experiment == "translation":  # fewer rows of the same slices
        overrides += ["eval.sets.wmt22.validation_split='train[:40]+train[9506:9526]'"]
        overrides += ["eval.sets.other_languages.validation_split='train[7506:7546]+train[13559:13579]'"]
    config = compose(overrides)
    with without_report():
        train(config, tmp_path / "run")
    final = json.loads((tmp_path / "run" / "summary.json").read_text())["final"]
    assert len(config.eval.sets) == 3
    assert all(f"eval/{name}/cross_entropy" in final for name in config.eval.sets)
