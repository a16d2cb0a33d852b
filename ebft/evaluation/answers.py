"""Held-out questions answered to the end and judged: the same questions, draws and verifier for every method.

    greedy       share of questions whose greedy answer passes
    score        mean score of the greedy answers, the reward that verifiable-reward training sees
    pass@k       1 - C(n - c, k) / C(n, k) with c of n samples right, averaged over questions (Chen et al.,
                 arXiv 2107.03374)
    entropy@k    mean entropy of the k-th token's distribution in answers sampled at temperature 1, beside
                 text_cross_entropy@k, the mean loss on the k-th token of the real answers: a calibrated model has the
                 two equal (Braverman et al., arXiv 1906.05664)

An answer that the verifier's machinery failed on counts nowhere but in `verifier_errors`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import comb
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from ebft.config.schema import EvalConfig
from ebft.evaluation.names import Names, joined, names_of
from ebft.evaluation.ratios import Ratio, concatenate, join, named
from ebft.geometry.blocks import completion_blocks
from ebft.models.logprobs import row_labels
from ebft.models.policy import LanguageModel
from ebft.parallel.world import SINGLE_PROCESS, World
from ebft.rollout.completions import Completions, Decoding, Wanted, complete_together
from ebft.tasks.base import Question, RowFigures, Verdict
from ebft.tasks.grader import Grader
from ebft.types import Batch

VERDICTS = "sampled"  # the name of single verdicts among per-row scores
DEPTHS = (1, 2, 4, 8, 16, 32, 64)
GREEDY, CALIBRATION = Decoding(temperature=0.0, top_p=1.0), Decoding(temperature=1.0, top_p=1.0)


@dataclass(frozen=True)
class Answer:
    """A greedy answer with its verdict, for people to read."""

    prompt: str
    reference: str
    text: str
    verdict: Verdict
    truncated: bool

    def as_row(self) -> dict[str, Any]:
        kind = "truncated" if self.truncated and not self.verdict.passed else self.verdict.kind
        return {
            "prompt": self.prompt,
            "reference": self.reference,
            "answer": self.text,
            "verdict": kind,
            "score": self.verdict.score,
            "read_as": self.verdict.read_as,
            "in_process": self.verdict.in_process,
        }


@dataclass(frozen=True)
class Answers:
    scores: dict[str, Ratio] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)  # of the corpus as a whole
    answers: list[Answer] = field(default_factory=list)
    shares: dict[str, Ratio] = field(default_factory=dict)  # of answers in those figures, where the verifier knows them
    draws: dict[str, list[Ratio]] = field(default_factory=dict)  # verdicts on each of several answers to a question


@dataclass(frozen=True)
class Asked:
    """What a batch of questions gave."""

    names: Names
    scores: dict[str, Ratio]
    draws: list[Ratio]  # by sampled answer
    answers: list[Answer]


class Examiner:
    """Asks a policy the given questions."""

    def __init__(self, config: EvalConfig, batches: Sequence[Batch], grader: Grader) -> None:
        self.config, self.batches, self.grader = config, batches, grader

    def __call__(self, policy: LanguageModel, tick: Callable[[], None], world: World = SINGLE_PROCESS) -> Answers:
        results = world.map(self.batches, lambda batch: self._ask(policy, batch), tick)
        answers = [answer for asked in results for answer in asked.answers]
        texts = [answer.text for answer in answers]
        questions = [self.grader.questions[row] for batch in self.batches for row in batch.row_ids.tolist()]
        names = joined([asked.names for asked in results])
        draws = [join(parts, names) for parts in zip(*(asked.draws for asked in results), strict=True)]
        return Answers(
            concatenate([asked.scores for asked in results]),
            self.grader.verifier.metrics(texts, questions),
            answers,
            self._shares(texts, questions, names),
            {VERDICTS: draws} if draws else {},
        )

    def _shares(self, texts: list[str], questions: list[Question], names: Names) -> dict[str, Ratio]:
        verifier = self.grader.verifier
        if not isinstance(verifier, RowFigures):
            return {}
        return {
            name: Ratio(
                torch.tensor([value or 0.0 for value in values], dtype=torch.float64),
                torch.tensor([value is not None for value in values], dtype=torch.float64),
                names,
            )
            for name, values in verifier.row_figures(texts, questions).items()
        }

    def _ask(self, policy: LanguageModel, batch: Batch) -> Asked:
        names = names_of(batch, [question.key for question in self.grader.questions])
        greedy, calibration, *sampled = self._complete(policy, batch)
        scores, answers = self._greedy(greedy, batch)
        verdicts = self._verdicts(sampled[0], batch) if sampled else []
        scores |= self._pass_at(verdicts) | self._calibration(policy, calibration, batch)
        return Asked(names, named(scores, names), _by_draw(verdicts), answers)

    def _complete(self, policy: LanguageModel, batch: Batch) -> list[Completions]:
        """Of every question a greedy answer, one of the distribution as it is, and those for pass@k, if any."""
        config, blocks, device = self.config, completion_blocks(batch), policy.device
        key, sampled = f"{config.seed}/eval", Decoding(config.temperature, config.top_p)
        wanted = [Wanted(1, GREEDY, f"{key}/greedy"), Wanted(1, CALIBRATION, f"{key}/calibration")]
        if config.num_completions:
            wanted.append(Wanted(config.num_completions, sampled, f"{key}/pass"))
        prompts = batch.columns(blocks.reach[0]).to(device)
        return complete_together(
            policy, prompts, blocks.to(device), config.max_new_tokens, wanted, self.grader.stop_tokens
        )

    def _greedy(self, done: Completions, batch: Batch) -> tuple[dict[str, Ratio], list[Answer]]:
        verdicts = [row[0] for row in self.grader(done.rollout, batch.row_ids)]
        truncated = done.truncated[:, 0, 0].cpu() & ~torch.tensor([verdict.ended for verdict in verdicts])
        judged = torch.tensor([verdict.score is not None for verdict in verdicts])
        passed = torch.tensor([verdict.passed for verdict in verdicts]) & ~truncated
        score = torch.tensor([verdict.score or 0.0 for verdict in verdicts]) * ~truncated
        everyone = torch.ones_like(judged)
        scores = {
            "greedy": _ratio(passed, judged),
            "score": _ratio(score, judged),
            "answer_tokens": _ratio(done.rollout.valid.sum((1, 2, 3)).cpu(), everyone),
            "truncated_share": _ratio(truncated, everyone),
            "verifier_errors": _ratio(~judged, everyone),
            "in_process": _ratio(torch.tensor([verdict.in_process for verdict in verdicts]), everyone),
        }
        asked = [self.grader.questions[row] for row in batch.row_ids.tolist()]
        texts = [row[0] for row in self.grader.texts(done.rollout, batch.row_ids)]
        rows = zip(asked, texts, verdicts, truncated.tolist(), strict=True)
        return scores, [
            Answer(question.prompt, question.answer, text, verdict, cut) for question, text, verdict, cut in rows
        ]

    def _verdicts(self, done: Completions, batch: Batch) -> list[list[bool | None]]:
        """Whether each of the sampled answers to every question passes; None where it could not be judged."""
        return [
            [
                None if verdict.score is None else verdict.passed and (verdict.ended or not cut)
                for verdict, cut in zip(verdicts, truncated, strict=True)
            ]
            for verdicts, truncated in zip(
                self.grader(done.rollout, batch.row_ids), done.truncated[..., 0].tolist(), strict=True
            )
        ]

    def _pass_at(self, verdicts: list[list[bool | None]]) -> dict[str, Ratio]:
        judged = [[passed for passed in row if passed is not None] for row in verdicts]
        return {f"pass@{k}": _pass_at(k, judged) for k in self.config.pass_at} if verdicts else {}

    def _calibration(self, policy: LanguageModel, done: Completions, batch: Batch) -> dict[str, Ratio]:
        on_device = batch.to(policy.device)
        (log_probs,) = policy.log_probs(policy.row_hidden(on_device), row_labels(on_device))
        start = completion_blocks(on_device).anchors
        scores = {}
        for depth in (depth for depth in DEPTHS if depth <= self.config.max_new_tokens):
            here = min(depth, done.entropies.shape[-1]) - 1  # where all answers are shorter nothing is valid
            reached = done.rollout.valid[:, 0, 0, here] & (here == depth - 1)
            scores[f"entropy@{depth}"] = _ratio(done.entropies[:, 0, 0, here], reached)
            place = (start + depth - 2).clamp_max(log_probs.shape[1] - 1)
            inside = (start + depth - 1 < batch.tokens.shape[1]) & on_device.completion_mask[:, 1:].gather(1, place)
            scores[f"text_cross_entropy@{depth}"] = _ratio(-log_probs.gather(1, place)[:, 0], inside[:, 0])
        return scores


def _by_draw(verdicts: list[list[bool | None]]) -> list[Ratio]:
    """For every sampled answer, its verdicts over questions."""
    return [
        _ratio(torch.tensor([bool(passed) for passed in draw]), torch.tensor([passed is not None for passed in draw]))
        for draw in zip(*verdicts, strict=True)
    ]


def _ratio(values: Tensor, counted: Bool[Tensor, "B"]) -> Ratio:
    counts = counted.double().cpu()
    return Ratio(torch.where(counted.cpu(), values.double().cpu(), 0), counts)


def pass_at_k(num: int, num_right: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): the chance that k of n samples drawn without replacement hold a right one."""
    return 1 - comb(num - num_right, k) / comb(num, k)


def _pass_at(k: int, rows: list[list[bool]]) -> Ratio:
    """Rows of which too few samples could be judged do not count."""
    enough = torch.tensor([len(row) >= k for row in rows])
    values = torch.tensor(
        [pass_at_k(len(row), sum(row), k) if len(row) >= k else 0.0 for row in rows], dtype=torch.float64
    )
    return _ratio(values, enough)
