"""Run folders as `ebft-train` leaves them, without the training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ebft.comparison import Planned
from ebft.config.identity import flat
from ebft.output import row_scores
from ebft.output.row_scores import RowScores

CONFIG: dict[str, Any] = {
    "seed": 0,
    "method": {"name": "ebft", "ce_coef": 0.1},
    "model": {"path": "tiny", "revision": None, "init": "pretrained", "config_overrides": {}},
    "data": {
        "source": "stdlib",
        "sequence_length": 13,
        "task": "parses",
        "validation_part": "report",
        "max_train_documents": None,
    },
    "features": {
        "feature_layers": [0.5],
        "embed_method": "last_token",
        "normalize": "joint",
        "whitening": "none",
        "network": "policy",
        "path": None,
    },
    "sampler": {"anchors": "all", "generate_length": 2, "n_samples": 3},
    "optimizer": {"lr": 1e-4},
    "trainer": {"max_steps": 10, "micro_batch_size": 8},
    "tracker": {"name": "none"},
    "eval": {
        "every_steps": 5,
        "num_documents": 7,
        "horizons": [1, 2],
        "seed": 1234,
        "num_questions": 11,
        "num_completions": 0,
        "pass_at": [1],
    },
    "sandbox": {"seconds": 2.0, "memory_mb": 256},
}
BASE = {
    "eval/cross_entropy": 2.0,
    "eval/cross_entropy_stderr": 0.1,
    "eval/feature_matching_loss@1": 0.25,
    "eval/feature_matching_loss@2": 0.5,
    "eval/greedy": 0.5,
    "eval/entropy@1": 1.0,
    "eval/text_cross_entropy@1": 1.5,
}


def config(**changes: Any) -> dict[str, Any]:
    """Keys with `__` for the dot: `optimizer__lr=1e-3`."""
    nested = json.loads(json.dumps(CONFIG))
    for key, value in changes.items():
        *groups, last = key.split("__")
        place = nested
        for group in groups:
            place = place[group]
        place[last] = value
    return dict(nested)


def run(
    folder: Path,
    final: Mapping[str, float] | None = None,
    tokens: int = 1000,
    base: Mapping[str, float] = BASE,
    status: str = "completed",
    **changes: Any,
) -> Path:
    """A run with evaluations at steps 0, 5 and 10; `final` is what differs from the base in the end, half of it at step
    5."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config(**changes)))
    last = {**base, **(final or {})}
    middle = {name: (base.get(name, value) + value) / 2 for name, value in last.items()}
    rows = [
        {"step": step, **metrics, "cost/tokens_forwarded": step / 10 * tokens, "cost/seconds": step / 10 * 7.0}
        for step, metrics in ((0, base), (5, middle), (10, last))
    ]
    rows.insert(1, {"step": 1, "train/loss": 3.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {"status": status, "base": dict(base), "final": last, "tokens_forwarded": tokens, "train_seconds": 7.0}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def keep_rows(
    folder: Path, final: Mapping[str, Sequence[float]], base: Mapping[str, Sequence[float]], documents: str = ""
) -> None:
    """Per-row scores of a run by metric, for rows a, b, c, ... of one count each; `documents` names theirs."""
    (folder / "rows").mkdir()
    for name, metrics in (("latest.parquet", final), ("base.parquet", base)):
        scores = []
        for metric, values in metrics.items():
            rows = [chr(ord("a") + place) for place in range(len(values))]
            scores.append(RowScores(metric, rows, list(documents) or rows, list(values), [1.0] * len(rows)))
        row_scores.write(folder / "rows" / name, scores)


def planned(
    folder: str, variant: str = "", keys: Mapping[str, str] | None = None, note: str = "", **changes: Any
) -> Planned:
    return Planned(folder, variant, keys or {}, flat(config(**changes)), note)


def cross_entropy(value: float) -> dict[str, float]:
    return {"eval/cross_entropy": value}
