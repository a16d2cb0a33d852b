"""Every family of docs/models.md on this device beside the CPU."""

import sys
import time
from dataclasses import replace
from typing import Any

import torch
from gpu_record import Place, Record
from torch import Tensor

from ebft.models.feature_network import FeatureNetwork
from ebft.models.policy import LanguageModel
from ebft.run.profiling import DTYPES

FAMILY_GROUPS = 4  # processes that compare families side by side: most of their time goes into compiling


def parity(record: Record, place: Place) -> None:
    """Every family of docs/models.md: this device's log-probs, gradients, rollouts and features beside the CPU's."""
    from tests.models.test_families import SETTINGS

    names = sorted(SETTINGS)[:2] if place.small else sorted(SETTINGS)
    workers = 1 if place.small else FAMILY_GROUPS
    pool = torch.multiprocessing.get_context("spawn").Pool(workers, torch.set_num_threads, (2,))
    with pool:
        jobs = [(family, dtype, place.device) for dtype in DTYPES for family in names]
        found: dict[str, dict[str, Any]] = {dtype: {} for dtype in DTYPES}
        for (family, dtype, _), figures in zip(jobs, pool.imap(compared, jobs), strict=True):
            found[dtype][family] = figures
            record(**found)
    broken = [
        f"{family} {dtype}: {figures['error']}"
        for dtype in found
        for family, figures in found[dtype].items()
        if "error" in figures
    ]
    if broken:
        sys.exit("\n".join(broken))


def compared(job: tuple[str, str, str]) -> dict[str, Any]:
    """One family in one precision. An error is told, so that the others still run."""
    family, dtype, device = job
    try:
        return _compared(family, dtype, device)
    except Exception as error:  # whatever a family raises on this device is what is looked for
        return {"error": f"{type(error).__name__}: {str(error)[:2000]}"}


def _compared(family: str, dtype: str, device: str) -> dict[str, Any]:
    from ebft.geometry.reuse import branches_of
    from ebft.models.logprobs import branch_labels, row_labels
    from ebft.rollout.sampler import sample
    from tests.helpers import LAYOUTS, blocks_of, features, geometry, likely_text, random_batch, random_draws
    from tests.models.test_families import STEPS, plain

    started = time.perf_counter()
    config = geometry(n_samples=2, generate_length=STEPS, reuse=True)
    sides = {}
    batch = likely_text(LanguageModel(plain(family), "fp32"), random_batch(LAYOUTS["documents"]))
    blocks = blocks_of(batch, config)
    draws = random_draws(batch, blocks, config)
    rollouts = None
    for side in ("cpu", device):
        policy = LanguageModel(plain(family).to(side), dtype)
        phi = FeatureNetwork(plain(family).to(side), features(), dtype)
        where = torch.device(side)
        here, found = batch.to(where), blocks.to(where)
        drawn, _ = sample(policy, here, found, draws.to(where), config.temperature, (), True)
        if rollouts is None:
            rollouts = drawn
        same = replace(
            rollouts,
            blocks=found,
            tokens=rollouts.tokens.to(where),
            log_probs=rollouts.log_probs.to(where),
            valid=rollouts.valid.to(where),
        )
        branches = branches_of(here, same.predicting, True)
        labels = branch_labels(here, same, branches, config.temperature), row_labels(here)
        scored, text = policy.log_probs(policy.flat_hidden(here, branches), *labels)
        wanted = scored[labels[0].wanted]
        (wanted.sum() + text[labels[1].wanted].sum()).backward()
        gradient = torch.cat([p.grad.flatten().float().cpu() for p in policy.model.parameters() if p.grad is not None])
        made = phi.embeddings(here, same, reuse=True).rollout[found.valid[:, None].expand(same.tokens.shape[:3])]
        sides[side] = drawn.tokens.cpu(), wanted.detach().cpu(), gradient, made.detach().float().cpu()
        if device == "cpu":
            sides["again"] = sides["cpu"]
            break
    (tokens, scores, gradient, made), (tokens_2, scores_2, gradient_2, made_2) = sides.values()
    return {
        "largest_log_prob_difference": float((scores - scores_2).abs().max()),
        "gradient_cosine": _cosine(gradient, gradient_2),
        "gradient_norm_ratio": float(gradient_2.norm() / gradient.norm()),
        "feature_cosine": _cosine(made.flatten(), made_2.flatten()),
        "equal_rollouts": float((tokens == tokens_2).all(-1).float().mean()),
        "seconds": time.perf_counter() - started,
    }


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))
