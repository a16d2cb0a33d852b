"""Which metrics a configuration measures, and on which of its keys each depends beside the model that it measures."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ebft.config.doors import is_door
from ebft.output.metric_names import OWN, family

# Keys, or beginnings of keys, that must agree for figures to be comparable. Those of the evaluation itself are the same
# for every metric; feature matching also sees through the run's own feature network, on rollouts of the shape that the
# run trains on.
EVALUATION = (
    "data.", "eval.", "sandbox.seconds", "sandbox.memory_mb", "sandbox.output_kb", "sandbox.processes",
    "sandbox.strict", "sandbox.packages",
)  # fmt: skip
SETS = "eval.sets."  # further held-out sets, of which runs are compared on those that they share
NOT_EVALUATION = ("data.max_train_documents", "eval.every_steps", "eval.micro_batch_size", SETS)
FEATURES = (
    "features.feature_layers",
    "features.embed_method",
    "features.normalize",
    "features.network",
    "features.path",
)
FEATURE_SHAPE = (*FEATURES, "sampler.anchors", "sampler.generate_length")
ADDITIONAL = {
    "eval/feature_matching_loss@": FEATURE_SHAPE,
    "eval/whitened_feature_reward": FEATURE_SHAPE,
    "eval/reward": (*FEATURE_SHAPE, "features.whitening"),
}
COMMON_ANSWERS = ("greedy", "score", "answer_tokens", "truncated_share", "verifier_errors", "in_process")
OF_TASK: dict[str, Sequence[str]] = {
    "parses": ("parse_rate",),
    "chrf": ("bleu", "chrf", "exact_match"),
    "bleu": ("bleu", "chrf", "exact_match"),
    "exact_match": ("exact_match",),
}


def expected(config: Mapping[str, Any]) -> set[str]:
    """The metrics that a run of this flat configuration measures, as far as the configuration tells: a horizon that no
    row holds is left out of the run, and of a translation only the mean over directions is named."""
    own = {f"eval/{name}" for name in _expected_of(config, config["data.task"])}
    further = {f"eval/{name}/{each}" for name, task in _sets(config) for each in _expected_of(config, task)}
    return own | further | (set(OWN) if is_door(config["data.task"]) else set())


def _expected_of(config: Mapping[str, Any], task: str | None) -> set[str]:
    """Of one held-out set, whose answers are judged by `task`."""
    horizons = {*config["eval.horizons"], config["sampler.generate_length"]}
    names = {
        "cross_entropy",
        "reward",
        "whitened_feature_reward",
        *(f"feature_matching_loss@{horizon}" for horizon in horizons),
    }
    if task is not None and config["eval.num_questions"]:
        names |= {*COMMON_ANSWERS, *OF_TASK.get(task, ())}
        names |= {f"{name}@{2**power}" for name in ("entropy", "text_cross_entropy") for power in range(7)}
        names |= {f"pass@{k}" for k in config["eval.pass_at"]} if config["eval.num_completions"] else set()
    return names


def _sets(config: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """The names and tasks of a run's further held-out sets."""
    for key in config:
        if key.startswith(SETS) and key.endswith(".task"):
            yield key.removeprefix(SETS).removesuffix(".task"), config[key]


def evaluation_settings(config: Mapping[str, Any], split: Sequence[str]) -> dict[str, Any]:
    """What runs of one table must have in common, from a flat configuration; `split` keys tell tables apart."""
    return {
        key: value
        for key, value in config.items()
        if key.startswith((*EVALUATION, f"code.{config['data.task']}"))
        and not key.startswith(NOT_EVALUATION)
        and key not in split
    }


def feature_settings(metric: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What must agree for this metric beside the evaluation's own settings: nothing but for feature matching. phi is
    the model before training unless the configuration says otherwise."""
    keys = ADDITIONAL.get(family(metric), ())
    own = f"code.{config['features.network']}"  # of a feature map of the user's own, whose file may have changed
    keys = (*keys, own) if keys and own in config else keys
    return {key: config[key] for key in (*keys, *_phi(config))} if keys else {}


def _phi(config: Mapping[str, Any]) -> Iterator[str]:
    if config["features.network"] != "checkpoint":
        yield from (
            key
            for key in config
            if key in ("model.path", "model.revision", "model.init") or key.startswith("model.config_overrides")
        )
