"""The base's evaluation, made once on a machine and kept (output/cache.py) under a hash of all that it depends on.

Before the first step a run evaluates weights that other runs have evaluated on the same rows with the same draws:
thirty runs of a sweep need it once. Everything in the config counts but `FREE_KEYS`, so that a new key separates
evaluations until somebody knows better; besides it weights, rows, questions, tokenizer, this package and the
libraries.
"""

import json
import platform
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import Any

import torch
from torch import nn

from ebft.config.doors import doors
from ebft.config.identity import flat
from ebft.config.schema import TrainConfig
from ebft.evaluation import Evaluation, Sample
from ebft.evaluation.answers import Answer
from ebft.models.feature_network import FeatureNetwork
from ebft.output import cache
from ebft.parallel.fsdp import local_tensor, named_tensors
from ebft.parallel.world import World
from ebft.run import by_content
from ebft.tasks.base import Verdict
from ebft.train.setup import Setup

FOLDER = "evaluations"
# Keys, and sections of them, that change nothing of an evaluation beside what is hashed as such: weights and rows.
FREE_KEYS = (
    "method",
    "optimizer",
    "tracker",
    "seed",
    "resume",
    "plan_only",
    "data.max_train_documents",
    "sampler.n_samples",
    "sampler.stride",
    "sampler.context_length",
    "sampler.temperature",
    "eval.every_steps",
    "eval.on_interrupt",
    "features.placement",
    "sandbox.allow_code_execution",
    "sandbox.require",
    "sandbox.workers",
    "sandbox.batch_seconds",
    "sandbox.check_references",
    "trainer.max_steps",
    "trainer.max_epochs",
    "trainer.batch_size",
    "trainer.micro_batch_size",
    "trainer.max_tokens_per_microbatch",
    "trainer.gradient_checkpointing",
    "trainer.processes",
    "trainer.hang_seconds",
    "trainer.parallel",
    "trainer.checkpoint_every_steps",
    "trainer.keep_checkpoints",
    "trainer.keep_best",
    "trainer.stop_after",
    "trainer.profile",
)


@dataclass(frozen=True)
class Kept:
    evaluation: Evaluation
    seconds: float  # that it took


def key(setup: Setup) -> str | None:
    """The hash, the same in all processes; None where nothing is kept, or where a user's own code, which may read
    anything, has a part in it."""
    material, config = setup.material, setup.material.config
    if cache.folder(FOLDER) is None or doors(config):
        return None
    parts = {
        "config": settings(config),
        "architecture": material.architecture.to_dict(),
        "device": torch.cuda.get_device_name() if setup.device == "cuda" else platform.machine(),
        "rows": {name: digest for name, digest in material.digests().items() if name != "training"},
        "documents": {name: each.data.validation.documents for name, each in material.held_out.items()},
        "tokenizer": setup.tokenizer.get_vocab(),
        "ends": material.stop_tokens,
        "weights": [_weights(part, setup.world) for part in _modules(setup)],
        "code": by_content.package_digest(),
        "libraries": by_content.versions(),
    }
    return sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def settings(config: TrainConfig) -> dict[str, Any]:
    """The keys that an evaluation depends on, by their dotted names."""
    free = tuple(f"{name}." for name in FREE_KEYS)
    return {name: value for name, value in flat(asdict(config)).items() if not f"{name}.".startswith(free)}


def find(key: str | None) -> Kept | None:
    """What is kept under the key; None also for what was damaged, exchanged or put there by somebody else since."""
    return by_content.find(FOLDER, key, _kept)


def _kept(state: Any) -> Kept:
    """Raises what comes of a file that `keep` did not write."""
    samples = [Sample(**each) for each in state["samples"]]
    answers = [Answer(**each | {"verdict": Verdict(**each["verdict"])}) for each in state["answers"]]
    return Kept(replace(Evaluation.from_state(state), samples=samples, answers=answers), float(state["seconds"]))


def keep(key: str | None, kept: Kept) -> None:
    """Nothing that the machine's failures had a part in."""
    evaluation = kept.evaluation
    if any(ratio.value for name, ratio in evaluation.scores.items() if name.endswith("verifier_errors")):
        return
    samples, answers = map(asdict, evaluation.samples), map(asdict, evaluation.answers)
    state = {**evaluation.state(), "samples": [*samples], "answers": [*answers], "seconds": kept.seconds}
    by_content.keep(FOLDER, key, state)


def _modules(setup: Setup) -> list[nn.Module]:
    """The network that is evaluated, and the one that evaluates."""
    phi = setup.evaluator.phi
    assert isinstance(phi, FeatureNetwork)
    return [setup.policy.model, phi.decoder.module]


def _weights(module: nn.Module, world: World) -> list[str]:
    """Digests of what is different in the processes: one, or one for each shard."""
    found = sha256()
    for name, value in named_tensors(module).items():
        here = local_tensor(value).contiguous().flatten().view(torch.uint8).cpu()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(here.numpy().data)
    return [*dict.fromkeys(world.all_gather(found.hexdigest()))]
