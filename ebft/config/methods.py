"""What a method is told, and what it says of itself without torch: what it needs of a run, and which settings cannot
work with it.

Cost, memory, plan, rules and set-up ask a method's config for its needs and never for its name, so that a method of
somebody else's is planned, costed and refused like those that are built in.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ebft.config import doors
from ebft.config.schema import MethodConfig, Needs, SamplerConfig, TrainConfig, UserError, at_least, door, one_of


@dataclass(frozen=True)
class SFTConfig(MethodConfig):
    """Supervised fine-tuning: mean cross-entropy over the tokens that count."""

    def needs(self, sampler: SamplerConfig) -> Needs:
        return Needs()


@dataclass(frozen=True)
class EBFTConfig(MethodConfig):
    """rl_coef * L_CFM + ce_coef * cross-entropy (method.md section 1)."""

    rl_coef: float = at_least(0)
    ce_coef: float = at_least(0)  # the paper's gamma
    alignment_coef: float = at_least(0)
    diversity_coef: float = at_least(0)  # 1 gives an unbiased gradient of L_CFM
    advantage: str = one_of("batch", "none", "rloo", "group_norm")
    reward: str | None = door()  # a function of Embeddings to [B N K]; null: alignment and diversity

    def needs(self, sampler: SamplerConfig) -> Needs:
        return Needs("blocks", sampler.generate_length, feature_network=True, keeps_rows=True)

    def conflicts(self, config: TrainConfig) -> Iterator[str]:
        if self.rl_coef == 0 and self.ce_coef == 0:
            yield "method.rl_coef and method.ce_coef are both 0, so there is nothing to train on; raise one."
        n_samples = config.sampler.n_samples
        yield from _too_few_samples(n_samples, self.advantage)
        if n_samples < 2 and self.diversity_coef > 0:
            yield (
                f"sampler.n_samples={n_samples} leaves no pair for the diversity term; use at least 2, or "
                "method.diversity_coef=0."
            )


@dataclass(frozen=True)
class RLVRConfig(MethodConfig):
    """Reinforcement learning from verifiable rewards: policy gradient on the verdicts of the data's task."""

    advantage: str = one_of("none", "rloo", "grpo", "dr_grpo")
    max_new_tokens: int = at_least(1)  # of a completion
    truncated: str = one_of("zero", "masked")  # completions without an end: reward 0, or left out of the loss
    ce_coef: float = at_least(0)  # weight of cross-entropy
    kl_coef: float = at_least(0)  # weight of the KL divergence from the policy before training
    kl_estimator: str = one_of("k1", "k2", "k3")
    reward: str | None = door()  # a function of (prompt, completion, row) to a number; null: the task's own score

    def needs(self, sampler: SamplerConfig) -> Needs:
        reference_policy = self.kl_coef > 0
        return Needs(
            "completions", self.max_new_tokens, asks_questions=True, reference_policy=reference_policy, keeps_rows=True
        )

    def conflicts(self, config: TrainConfig) -> Iterator[str]:
        yield from _too_few_samples(config.sampler.n_samples, self.advantage)


@dataclass(frozen=True)
class OwnMethodConfig(MethodConfig):
    """The settings of a user's own method, to derive from: its fields are its keys, checked and suggested like those
    of the built-in methods, and `needs` says what it asks of a run."""

    code: str = door()  # the method's class, which has this config as its `Config`


def check_own(config: TrainConfig) -> None:
    """Raises UserError, with the user's traceback, where `needs` or `conflicts` of a user's own method fail, and where
    `needs` says nothing."""
    own = doors.doors(config).get("method.code")
    if own is None:
        return
    code = f"method.code={own}"
    try:
        needs: object = config.method.needs(config.sampler)
        tuple(config.method.conflicts(config))
    except UserError:  # of Needs, which says what does not fit
        raise
    except doors.FAULTS as error:
        raise UserError(doors.explained(error, f"{code} failed in needs or conflicts of its Config")) from error
    if not isinstance(needs, Needs):
        raise UserError(
            f"{code}: needs(sampler) of its Config returned {type(needs).__name__}; it must return Needs(...)."
        )


def _too_few_samples(n_samples: int, advantage: str) -> Iterator[str]:
    if n_samples < 2 and advantage not in ("batch", "none"):
        yield (
            f"sampler.n_samples={n_samples} is too small for method.advantage={advantage}; use at least 2, or "
            "method.advantage=none."
        )


METHODS: dict[str, type[MethodConfig]] = {"sft": SFTConfig, "rlvr": RLVRConfig, "ebft": EBFTConfig}
