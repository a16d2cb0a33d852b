"""What evaluation metrics there are, which way is better, and on which keys of a configuration each depends beside the
model that it measures."""

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from ebft.config.doors import is_door
from ebft.config.schema import UserError

LOWER, HIGHER, NEITHER = True, False, None
# A name, with `@` where a number follows, -> whether lower is better.
DIRECTIONS: dict[str, bool | None] = {
    "eval/cross_entropy": LOWER,
    "eval/feature_matching_loss@": LOWER,
    "eval/reward": HIGHER,
    "eval/whitened_feature_reward": HIGHER,
    "eval/greedy": HIGHER,
    "eval/score": HIGHER,
    "eval/pass@": HIGHER,
    "eval/parse_rate": HIGHER,
    "eval/exact_match": HIGHER,
    "eval/bleu": HIGHER,
    "eval/chrf": HIGHER,
    "eval/text_cross_entropy@": LOWER,
    "eval/truncated_share": LOWER,
    "eval/verifier_errors": LOWER,
    "eval/in_process": NEITHER,
    "eval/entropy@": NEITHER,
    "eval/answer_tokens": NEITHER,
}
WAYS = {"lower": LOWER, "higher": HIGHER, "neither": NEITHER}  # as a user's own task says it
OWN: dict[str, bool | None] = {}  # metrics of users' own tasks
BY_DIRECTION = ("eval/bleu", "eval/chrf", "eval/exact_match")  # of translation: NAME_en_de is NAME of that direction

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


def add_own(directions: Mapping[str, str]) -> None:
    """Make metrics of a user's own task known, NAME -> lower, higher or neither; evaluations call them eval/NAME.
    Raises UserError for a name that is taken, and for another direction."""
    for name, way in directions.items():
        if f"eval/{name}" in DIRECTIONS or way not in WAYS:
            raise UserError(f"directions of a task give {name}={way}; a name of its own is lower, higher or neither.")
        OWN[f"eval/{name}"] = WAYS[way]


def lower_is_better(metric: str) -> bool | None:
    """Whether lower is better; None where neither is, or where the metric is unknown."""
    return OWN.get(metric, DIRECTIONS.get(family(metric), NEITHER))


def check_known(metric: str) -> None:
    """Raises UserError for a name that no evaluation gives."""
    known = [*DIRECTIONS, *OWN]
    if family(metric) in known:
        return
    close = get_close_matches(metric, known, 1) or get_close_matches(f"eval/{metric}", known, 1)
    raise UserError(
        f"{metric} is not a metric of an evaluation; "
        + (f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}.")
    )


def short(metric: str) -> str:
    """A metric's name as people read it."""
    return metric.removeprefix("eval/")


def in_own_set(metric: str) -> str:
    """A metric of a further held-out set by its name on the run's own rows: eval/NAME/greedy -> eval/greedy."""
    return re.sub(r"^eval/[^/]+/", "eval/", metric)


def family(metric: str) -> str:
    """A metric's name without its set, its number or its direction of translation: eval/pass@4 -> eval/pass@,
    eval/NAME/bleu_en_de -> eval/bleu."""
    metric = in_own_set(metric)
    if match := re.fullmatch(r"(eval/\w+@)\d+", metric):
        return match[1]
    return next((name for name in BY_DIRECTION if metric.startswith(f"{name}_")), metric)


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
