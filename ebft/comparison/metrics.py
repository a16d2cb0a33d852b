"""What evaluation metrics there are and which way is better."""

import re
from difflib import get_close_matches

from ebft.config import UserError

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
    "eval/entropy@": NEITHER,
    "eval/answer_tokens": NEITHER,
}


def lower_is_better(metric: str) -> bool | None:
    """None where neither is, or where the metric is unknown."""
    return DIRECTIONS.get(_family(metric), NEITHER)


def check_known(metric: str) -> None:
    """Raises UserError for a name that no evaluation gives. A metric of one direction of translation, as eval/bleu/en-de, counts as its family."""
    if _family(metric) in DIRECTIONS:
        return
    close = get_close_matches(metric, DIRECTIONS, 1) or get_close_matches(f"eval/{metric}", DIRECTIONS, 1)
    raise UserError(
        f"{metric} is not a metric of an evaluation; " + (f"did you mean {close[0]}?" if close else f"there are {', '.join(DIRECTIONS)}.")
    )


def _family(metric: str) -> str:
    match = re.fullmatch(r"(eval/\w+)(@\d+)?(/.+)?", metric)
    return metric if match is None else match[1] + ("@" if match[2] else "")
