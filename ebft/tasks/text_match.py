"""Verifiers that compare a text with references: sentence chrF, sentence BLEU, equality. The first two need sacrebleu,
the extra `translation`.

Verdicts score in [0, 1], as rewards should. The figures of a corpus are as they are published: BLEU and chrF on a scale
to 100, exact match as a share, for each direction of translation by itself, with sacrebleu's tokenizer for the target
language, and averaged over directions.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import zip_longest
from statistics import fmean
from typing import Any

from ebft.config.schema import UserError
from ebft.sandbox.reading import END_OF_THOUGHTS
from ebft.tasks.base import Question, Verdict

INSTALL = "pip install 'ebft[translation]'"
TOKENIZERS = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}  # by target language; 13a for all others


@dataclass(frozen=True)
class CorpusMetric:
    """A figure of texts of one direction, and what it becomes without each of them in turn."""

    value: Callable[[list[str], list[Question]], float]
    without_each: Callable[[list[str], list[Question]], list[float]]  # of two texts at least


class TextMatch(ABC):
    """An answer passes if it equals one of the references, white space around both and what a model thinks first, up
    to its last `</think>`, aside; what it scores, subclasses say."""

    @abstractmethod
    def score(self, text: str, question: Question) -> float:
        """The score of a stripped text without thoughts, in [0, 1]."""

    @abstractmethod
    def corpus_metrics(self) -> dict[str, CorpusMetric]:
        """Metrics of a whole corpus, by name."""

    def verify(self, text: str, question: Question) -> Verdict:
        """Raises UserError for a question without references."""
        if not question.references:
            raise UserError(
                f"{question.origin} has no reference to compare an answer with; name their column, or choose another "
                "verifier."
            )
        said, question = behind_thoughts(text), _without_thoughts(question)
        passed = is_reference(said, question)
        return Verdict(
            score=self.score(said, question),
            passed=passed,
            kind="passed" if passed else "different",
            read_as="behind_thoughts" if END_OF_THOUGHTS in text else "text",
        )

    def verify_all(self, texts: Sequence[str], questions: Sequence[Question]) -> list[Verdict]:
        return [self.verify(text, question) for text, question in zip(texts, questions, strict=True)]

    def metrics(self, texts: Sequence[str], questions: Sequence[Question]) -> dict[str, float]:
        """NAME: the mean over directions. With several directions also NAME_en_fr for each, and NAME_en_xx and
        NAME_xx_en, the means of those out of and into English."""
        places = _by_direction(questions)
        return {
            name: value
            for metric_name, metric in self.corpus_metrics().items()
            for name, value in averaged(
                metric_name,
                {direction: metric.value(*_chosen(texts, questions, own)) for direction, own in places.items()},
            )
        }

    def row_figures(self, texts: Sequence[str], questions: Sequence[Question]) -> dict[str, list[float | None]]:
        """Jackknife pseudo-values: with the n texts of a direction, v_i = f + (n - 1) (mean_j f_(-j) - f_(-i)), where
        f_(-i) is the figure without text i. The mean over directions has those of each, times n_all / (n D)."""
        places = _by_direction(questions)
        found: dict[str, list[float | None]] = {}
        for metric_name, metric in self.corpus_metrics().items():
            values = {direction: _pseudo_values(metric, texts, questions, own) for direction, own in places.items()}
            for name, shown in averaged_over(metric_name, list(places)):
                row: list[float | None] = [None] * len(texts)
                total = sum(len(places[direction]) for direction in shown)
                for direction in shown:
                    weight = total / (len(places[direction]) * len(shown))
                    for place, value in zip(places[direction], values[direction], strict=True):
                        row[place] = weight * value
                found[name] = row
        return found


class ExactMatch(TextMatch):
    """Scores 1 if the text equals a reference, otherwise 0."""

    def score(self, text: str, question: Question) -> float:
        return float(is_reference(text, question))

    def corpus_metrics(self) -> dict[str, CorpusMetric]:
        return {"exact_match": EXACT_MATCH}


class SentenceScore(TextMatch):
    """A score of sacrebleu for single sentences, against all references of a sentence."""

    def __init__(self) -> None:
        sacrebleu_metrics()  # complains before anything expensive starts

    def corpus_metrics(self) -> dict[str, CorpusMetric]:
        bleu, chrf = CorpusMetric(corpus_bleu, bleu_without_each), CorpusMetric(corpus_chrf, chrf_without_each)
        return {"bleu": bleu, "chrf": chrf, "exact_match": EXACT_MATCH}


class ChrF(SentenceScore):
    """chrF2: F-score of character n-grams to 6, with the best of the references."""

    def score(self, text: str, question: Question) -> float:
        return unit(chrf_metric().sentence_score(text, question.references).score)


class BLEU(SentenceScore):
    """BLEU to 4-grams, exponentially smoothed, over the orders that a short sentence has."""

    def score(self, text: str, question: Question) -> float:
        return unit(bleu_metric(question.direction, True).sentence_score(text, question.references).score)


def behind_thoughts(text: str) -> str:
    """The answer in a text, stripped. Thoughts that never end are the whole text: no answer follows."""
    return text.rpartition(END_OF_THOUGHTS)[2].strip()


def _without_thoughts(question: Question) -> Question:
    """With references as answers are compared: they may have been written with thoughts to learn from."""
    if not any(END_OF_THOUGHTS in reference for reference in question.references):
        return question
    return replace(question, references=tuple(map(behind_thoughts, question.references)))


def is_reference(text: str, question: Question) -> bool:
    return text.strip() in {reference.strip() for reference in question.references}


def unit(score: float) -> float:
    """A score on a scale to 100, which rounding may pass, brought to [0, 1]."""
    return min(score / 100, 1.0)


def _by_direction(questions: Sequence[Question]) -> dict[str, list[int]]:
    """The places of each direction's questions."""
    places: dict[str, list[int]] = {}
    for place, question in enumerate(questions):
        places.setdefault(question.direction, []).append(place)
    return dict(sorted(places.items()))


def _chosen(
    texts: Sequence[str], questions: Sequence[Question], places: Sequence[int]
) -> tuple[list[str], list[Question]]:
    """Texts and references as they are compared."""
    return [behind_thoughts(texts[place]) for place in places], [
        _without_thoughts(questions[place]) for place in places
    ]


def _pseudo_values(
    metric: CorpusMetric, texts: Sequence[str], questions: Sequence[Question], places: Sequence[int]
) -> list[float]:
    chosen = _chosen(texts, questions, places)
    value, number = metric.value(*chosen), len(places)
    if number < 2:
        return [value]
    without = metric.without_each(*chosen)
    return [value + (number - 1) * (fmean(without) - one) for one in without]


def averaged(name: str, by_direction: dict[str, float]) -> Iterator[tuple[str, float]]:
    for shown_name, shown in averaged_over(name, list(by_direction)):
        yield shown_name, fmean(by_direction[direction] for direction in shown)


def averaged_over(name: str, directions: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
    """Names of figures, and the directions over whose figures each is the mean."""
    yield name, directions
    if len(directions) < 2:
        return
    for direction in directions:
        yield f"{name}_{direction.replace('-', '_')}", [direction]
    out_of_english = [direction for direction in directions if direction.startswith("en-")]
    into_english = [direction for direction in directions if direction.endswith("-en")]
    sides = (("en_xx", out_of_english), ("xx_en", into_english))
    yield from ((f"{name}_{side}", shown) for side, shown in sides if shown)


def exact_match(texts: list[str], questions: list[Question]) -> float:
    return fmean(is_reference(text, question) for text, question in zip(texts, questions, strict=True))


def exact_match_without_each(texts: list[str], questions: list[Question]) -> list[float]:
    passed = [is_reference(text, question) for text, question in zip(texts, questions, strict=True)]
    return [(sum(passed) - one) / (len(passed) - 1) for one in passed]


EXACT_MATCH = CorpusMetric(exact_match, exact_match_without_each)


def corpus_chrf(texts: list[str], questions: list[Question]) -> float:
    return float(chrf_metric().corpus_score(texts, reference_streams(questions)).score)


def corpus_bleu(texts: list[str], questions: list[Question]) -> float:
    return float(bleu_metric(questions[0].direction, False).corpus_score(texts, reference_streams(questions)).score)


def chrf_without_each(texts: list[str], questions: list[Question]) -> list[float]:
    return _without_each(chrf_metric(), texts, questions)


def bleu_without_each(texts: list[str], questions: list[Question]) -> list[float]:
    return _without_each(bleu_metric(questions[0].direction, False), texts, questions)


def _without_each(metric: Any, texts: list[str], questions: list[Question]) -> list[float]:
    """Corpus scores are functions of sums of statistics over sentences, which sacrebleu gives for its own tests of
    significance; scoring every corpus anew would take a hundred times as long."""
    statistics = metric._extract_corpus_statistics(texts, reference_streams(questions))
    totals = [sum(column) for column in zip(*statistics, strict=True)]
    return [
        float(metric._compute_score_from_stats([total - one for total, one in zip(totals, own, strict=True)]).score)
        for own in statistics
    ]


def reference_streams(questions: Sequence[Question]) -> list[list[str | None]]:
    """Stream i holds every sentence's reference i, or None where a sentence has fewer, which sacrebleu leaves out."""
    return [list(stream) for stream in zip_longest(*(question.references for question in questions))]


@cache
def chrf_metric() -> Any:
    return sacrebleu_metrics().CHRF()


@cache
def bleu_metric(direction: str, sentence: bool) -> Any:
    """BLEU for a direction such as en-zh, or for none; `sentence` leaves out the n-gram orders that a text is too
    short for."""
    tokenizer = TOKENIZERS.get(direction.rpartition("-")[2], "13a")
    try:
        return sacrebleu_metrics().BLEU(tokenize=tokenizer, effective_order=sentence, force=True)
    except RuntimeError as error:  # sacrebleu's word for a tokenizer whose own package is missing
        raise UserError(
            f"BLEU of direction {direction} needs a tokenizer that is not installed: {' '.join(str(error).split())}"
        ) from error


def sacrebleu_metrics() -> Any:
    try:
        from sacrebleu import metrics
    except ImportError as error:
        raise UserError(f"The verifiers chrf and bleu need sacrebleu; install it by {INSTALL}.") from error
    return metrics
