"""Verifiers that compare a text with references: sentence chrF, sentence BLEU, equality. The first two need sacrebleu,
the extra `translation`.

Verdicts score in [0, 1], as rewards should. The figures of a corpus are as they are published: BLEU and chrF on a scale
to 100, exact match as a share, for each direction of translation by itself, with sacrebleu's tokenizer for the target
language, and averaged over directions.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import zip_longest
from statistics import fmean
from typing import Any

from ebft.config.schema import UserError
from ebft.tasks.base import Question, Verdict

TOKENIZERS = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}  # by target language; 13a for all others

END_OF_THOUGHTS = "</think>"  # as DeepSeek-R1, Qwen3 and others write it

CorpusMetric = Callable[[list[str], list[Question]], float]  # of texts of one direction


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
        by_direction: dict[str, tuple[list[str], list[Question]]] = {}
        for text, question in zip(texts, questions, strict=True):
            group = by_direction.setdefault(question.direction, ([], []))
            group[0].append(behind_thoughts(text))
            group[1].append(_without_thoughts(question))
        return {
            name: value
            for metric_name, metric in self.corpus_metrics().items()
            for name, value in averaged(
                metric_name, {direction: metric(*group) for direction, group in sorted(by_direction.items())}
            )
        }


class ExactMatch(TextMatch):
    """Scores 1 if the text equals a reference, otherwise 0."""

    def score(self, text: str, question: Question) -> float:
        return float(is_reference(text, question))

    def corpus_metrics(self) -> dict[str, CorpusMetric]:
        return {"exact_match": exact_match}


class SentenceScore(TextMatch):
    """A score of sacrebleu for single sentences, against all references of a sentence."""

    def __init__(self) -> None:
        sacrebleu_metrics()  # complains before anything expensive starts

    def corpus_metrics(self) -> dict[str, CorpusMetric]:
        return {"bleu": corpus_bleu, "chrf": corpus_chrf, "exact_match": exact_match}


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


def averaged(name: str, by_direction: dict[str, float]) -> Iterator[tuple[str, float]]:
    yield name, fmean(by_direction.values())
    if len(by_direction) < 2:
        return
    for direction, value in by_direction.items():
        yield f"{name}_{direction.replace('-', '_')}", value
    out_of_english = [value for direction, value in by_direction.items() if direction.startswith("en-")]
    into_english = [value for direction, value in by_direction.items() if direction.endswith("-en")]
    yield from (
        (f"{name}_{side}", fmean(values))
        for side, values in (("en_xx", out_of_english), ("xx_en", into_english))
        if values
    )


def exact_match(texts: list[str], questions: list[Question]) -> float:
    return fmean(is_reference(text, question) for text, question in zip(texts, questions, strict=True))


def corpus_chrf(texts: list[str], questions: list[Question]) -> float:
    return float(chrf_metric().corpus_score(texts, reference_streams(questions)).score)


def corpus_bleu(texts: list[str], questions: list[Question]) -> float:
    return float(bleu_metric(questions[0].direction, False).corpus_score(texts, reference_streams(questions)).score)


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
        raise UserError(
            "The verifiers chrf and bleu need sacrebleu; install it by pip install 'ebft[translation]'."
        ) from error
    return metrics
