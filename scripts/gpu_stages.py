"""The stages of `gpu_check.py`, each in a process of its own. What a stage finds it records at once, so that a limit of
time takes nothing but what was still to come."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from gpu_parity import parity
from gpu_pieces import pieces
from gpu_record import Place, Record
from gpu_steps import held, lengths, shapes, steady, step

from ebft.output.environment import environment
from ebft.run.profiling import DTYPES, matmul_peak, now_seconds

ROOT = Path(__file__).parents[1]
COPY_BYTES = {"cpu": 2**24, "cuda": 2**32}
WEIGHTS = ROOT / ".gpu-weights"
REAL_RUN = [
    *("model=hf", "data=mbpp", "data.sequence_length=512", "data.bad_rows=drop", "data.drop_failing_references=false"),
    *("trainer.max_steps=60", "trainer.batch_size=8", "trainer.micro_batch_size=8", "trainer.dtype=bf16"),
    *("optimizer.lr=1e-5", "eval=quick", "eval.num_documents=128", "eval.micro_batch_size=32", "eval.num_questions=0"),
    "tracker=none",
]
REAL_REHEARSAL = [  # in which a later override wins
    *("trainer.max_steps=1", "trainer.batch_size=2", "trainer.micro_batch_size=2", "trainer.dtype=fp32"),
    *("eval.num_documents=4", "eval.long_documents=2", "eval.horizons=[1]"),
]


def machine(record: Record, place: Place) -> None:
    """What there is: versions, driver, memory, the largest rates of arithmetic and of copying."""
    record(environment=environment(place.device), transformers_on=place.device)
    if place.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        driver = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        record(driver=driver, cuda=torch.version.cuda, free_bytes=free, total_bytes=total)
    dtypes = {"fp32": DTYPES["fp32"]} if place.small else DTYPES  # which many processors only imitate
    record(matmul_flops={name: matmul_peak(dtype, place.device) for name, dtype in dtypes.items()})
    source = torch.empty(COPY_BYTES[place.device], dtype=torch.uint8, device=place.device)
    target = torch.empty_like(source)
    times = []
    for _ in range(6):
        started = now_seconds(place.device)
        target.copy_(source)
        times.append(now_seconds(place.device) - started)
    record(copied_bytes_per_second=2 * len(source) / min(times))


def tests(record: Record, place: Place) -> None:
    """`tests/gpu`, several at a time."""
    report = record.path.with_suffix(".xml")
    workers = "2" if place.small else "10"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/gpu",
        "-n",
        workers,
        "--dist",
        "worksteal",
        "--tb=short",
        "-k",
        place.only,
    ]
    with subprocess.Popen(
        [
            *command,
            "-p",
            "no:cacheprovider",
            "-p",
            "no:benchmark",
            f"--junitxml={report}",
            "-o",
            "junit_logging=no",
            "--durations=15",
            "-vv",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:
            print(line, end="", flush=True)
    print("exit status", running.returncode, flush=True)
    if report.exists():
        text = report.read_text(encoding="utf-8")
        counts = {
            name: int(re.findall(rf'{name}="(\d+)"', text)[0]) for name in ("tests", "failures", "errors", "skipped")
        }
        record(**counts, exit_status=running.returncode)
    if running.returncode:
        sys.exit(running.returncode)


def real(record: Record, place: Place) -> None:
    """Runs of `ebft-train` on a real model and real data, where `scripts/gpu_bundle.py --weights` brought them."""
    parts = sorted(WEIGHTS.glob("part.*"))
    if not parts:
        record(skipped="no weights travelled")
        return
    folder = record.path.parent / "real"
    folder.mkdir(exist_ok=True)
    model = folder / "model.gguf"
    with open(model, "wb") as whole:
        for part in parts:
            whole.write(part.read_bytes())
    (data,) = WEIGHTS.glob("*.jsonl.gz")
    for method in ("ebft",) if place.small else ("sft", "ebft"):
        run = folder / method
        settings = [f"method={method}", f"model.path={model}", f"data.path={data}", f"trainer.device={place.device}"]
        settings += REAL_REHEARSAL if place.small else []
        command = [sys.executable, "-m", "ebft.cli.train", *REAL_RUN, *settings, f"hydra.run.dir={run}"]
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "EBFT_CACHE": str(folder / "cache")})
        record(**{method: json.loads((run / "summary.json").read_text(encoding="utf-8"))})


STAGES: dict[str, Callable[[Record, Place], None]] = {
    stage.__name__: stage for stage in (machine, tests, parity, step, steady, held, real, pieces, lengths, shapes)
}
