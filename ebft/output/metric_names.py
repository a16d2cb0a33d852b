"""What evaluation metrics there are, what they are called, and which way is better."""

import re
from collections.abc import Mapping
from difflib import get_close_matches

from ebft.config.schema import UserError

LOSS = "eval/feature_matching_loss@"
LOWER, HIGHER, NEITHER = True, False, None
# A name, with `@` where a number follows, -> whether lower is better.
LOWER_IS_BETTER: dict[str, bool | None] = {
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
# What a metric is, in a few words.
MEANINGS = {
    "eval/cross_entropy": "nats per token of the held-out text",
    LOSS: "distance in features of rollouts of so many tokens from the real text; unbiased, so it may be below 0",
    "eval/reward": "mean reward of rollouts by the features: alignment minus diversity",
    "eval/whitened_feature_reward": "the reward that the authors' script reports",
    "eval/greedy": "questions whose likeliest answer is right",
    "eval/score": "what the verifier gives likeliest answers, on average",
    "eval/pass@": "questions of which one of so many sampled answers is right",
    "eval/parse_rate": "answers that are valid programs",
    "eval/exact_match": "answers that equal a reference",
    "eval/bleu": "likeness of answers to references in words, 0 to 100",
    "eval/chrf": "likeness of answers to references in letters, 0 to 100",
    "eval/entropy@": "how undecided the model is at that token of its own answer, in nats",
    "eval/text_cross_entropy@": "its loss at that token of the real answer, in nats",
    "eval/truncated_share": "answers cut off at the longest length",
    "eval/verifier_errors": "answers that could not be judged",
    "eval/in_process": "answers whose tests ran in the program's own process",
    "eval/answer_tokens": "tokens of an answer, on average",
}
SHARES = (
    "eval/greedy", "eval/pass@", "eval/parse_rate", "eval/exact_match", "eval/truncated_share", "eval/verifier_errors",
    "eval/in_process",
)  # fmt: skip
WAYS = {"higher": HIGHER, "lower": LOWER, "neither": NEITHER}  # as a user's own task says it
OWN: dict[str, bool | None] = {}  # metrics of users' own tasks
BY_DIRECTION = ("eval/bleu", "eval/chrf", "eval/exact_match")  # of translation: NAME_en_de is NAME of that direction


def add_own(directions: Mapping[str, str], task: str = "A task") -> None:
    """Make metrics of a user's own task known, NAME -> lower, higher or neither; evaluations call them eval/NAME.
    Raises UserError as `check_directions`."""
    check_directions(directions, task)
    OWN.update({f"eval/{name}": WAYS[way] for name, way in directions.items()})


def check_directions(directions: object, task: str) -> None:
    """Raises UserError for what is no mapping of names of a task's own to lower, higher or neither."""
    if not isinstance(directions, Mapping):
        raise UserError(
            f"{task} has directions of type {type(directions).__name__}; write {{name: one of {', '.join(WAYS)}}}."
        )
    for name, way in directions.items():
        if way not in WAYS:
            raise UserError(f"{task} has directions[{name!r}] = {way!r}; it is one of {', '.join(WAYS)}.")
        if not re.fullmatch(r"[\w.-]+", str(name)) or name.endswith("_stderr"):
            raise UserError(f"{task} has directions[{name!r}]; a metric's name is one word, of letters, digits and _.")
        if family(f"eval/{name}") in LOWER_IS_BETTER:
            raise UserError(f"{task} has directions[{name!r}], which is a metric of every evaluation; rename it.")


def lower_is_better(metric: str) -> bool | None:
    """Whether lower is better; None where neither is, or where the metric is unknown."""
    return OWN.get(metric, LOWER_IS_BETTER.get(family(metric), NEITHER))


def check_known(metric: str) -> None:
    """Raises UserError for a name that no evaluation gives."""
    known = [*LOWER_IS_BETTER, *OWN]
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


def meaning(metric: str) -> str:
    """What a metric is, in a few words; nothing for one of a user's own."""
    return MEANINGS.get(family(metric), "")


def is_share(metric: str) -> bool:
    """Whether people read it in per cent."""
    return family(metric) in SHARES


def in_own_set(metric: str) -> str:
    """A metric of a further held-out set by its name on the run's own rows: eval/NAME/greedy -> eval/greedy."""
    return re.sub(r"^eval/[^/]+/", "eval/", metric)


def family(metric: str) -> str:
    """A metric's name without its set, its number or its direction of translation: eval/pass@4 -> eval/pass@,
    eval/NAME/bleu_en_de -> eval/bleu. A standard error is of no kind but its own."""
    metric = in_own_set(metric)
    if metric.endswith("_stderr"):
        return metric
    if match := re.fullmatch(r"(eval/\w+@)\d+", metric):
        return match[1]
    return next((name for name in BY_DIRECTION if metric.startswith(f"{name}_")), metric)
