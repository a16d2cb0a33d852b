"""The verifier of a run: who may run code, prompts that leave no room, references that fail their own test."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from ebft.config.schema import SandboxConfig, TrainConfig, UserError
from ebft.data import Data, Questions, Rows, Tokenization
from ebft.models.loading import load_tokenizer
from ebft.models.positions import PositionLimit
from ebft.sandbox import Sandbox
from ebft.tasks.base import Question, Verdict
from ebft.train import references, verification
from ebft.train.verification import Verification
from tests.debug_run import miniature


class Obedient:
    """Passes every answer but the given one; remembers what it was asked."""

    def __init__(self, wrong: str = "") -> None:
        self.wrong = wrong
        self.asked: list[str] = []

    def verify(self, text: str, question: Question) -> Verdict:
        self.asked.append(text)
        return Verdict(float(text != self.wrong), passed=text != self.wrong, kind="wrong_value")

    def verify_all(self, texts: Sequence[str], questions: Sequence[Question]) -> list[Verdict]:
        return [self.verify(text, question) for text, question in zip(texts, questions, strict=True)]

    def metrics(self, texts: Sequence[str], questions: Sequence[Question]) -> dict[str, float]:
        return {}


def questions(lengths: Sequence[int], width: int = 23) -> Questions:
    """One row a question, with a prompt of so many tokens and an answer of two."""
    place = torch.arange(width).expand(len(lengths), -1)
    prompt = torch.tensor(lengths)[:, None]
    completion = (place >= prompt) & (place < prompt + 2)
    ids = torch.where(place < prompt + 2, 0, -1)
    rows = Rows(place, ids, completion, completion, masked=False, num_documents=len(lengths), documents=())
    return Questions(rows, [Question(str(i), "?", f"answer {i}", origin=f"file:{i}") for i in range(len(lengths))])


ROOM = PositionLimit(100, "positions of model.path=tiny")


def verification_of(
    folder: Path, *overrides: str, train: Questions | None = None, validation: Questions | None = None
) -> Verification:
    config: TrainConfig = miniature(
        folder,
        "data.text_column=null",
        "data.prompt_column=a",
        "data.completion_column=b",
        "data.layout=padded",
        *overrides,
    )
    rows = questions([3]).rows
    tokens = Tokenization.of(config.data, load_tokenizer(config.model))
    return Verification(config, Data(rows, rows, train, validation, {}, 0.0, tokens, False), tokens, ROOM)


@pytest.fixture
def verifier(monkeypatch: pytest.MonkeyPatch) -> Obedient:
    obedient = Obedient()

    def build(name: str, make_runner: Callable[[], Sandbox], make_reader: Callable[[], Sandbox]) -> Obedient:
        if name == "unit_tests":
            make_runner()
        return obedient

    monkeypatch.setattr(verification, "build", build)
    return obedient


EXACT = "data.task=exact_match"


def test_without_questions_nobody_judges(tmp_path: Path) -> None:
    verified = verification_of(tmp_path, "method=sft")
    assert (verified.grader(), verified.examiner(), verified.plan()) == (None, None, {})


@pytest.mark.slow
def test_only_the_sides_that_are_asked_about_are_checked(tmp_path: Path, verifier: Obedient) -> None:
    """Training questions by verifiable rewards alone, held-out ones by any evaluation that has questions."""
    sides = {"train": questions([3, 4]), "validation": questions([5, 6, 7])}
    verified = verification_of(tmp_path, "method=sft", EXACT, **sides)
    assert verifier.asked == ["answer 0", "answer 1", "answer 2"]
    examiner = verified.examiner()
    assert examiner is not None
    assert [batch.row_ids.tolist() for batch in examiner.batches] == [[0, 1], [2]]
    assert verified.plan() == {"verifier": "exact_match"}
    verification_of(tmp_path, "method=rlvr", EXACT, "eval.num_questions=0", **sides)
    assert verifier.asked[3:] == ["answer 0", "answer 1"]


def test_questions_and_references_are_spread_over_their_side(tmp_path: Path, verifier: Obedient) -> None:
    verified = verification_of(
        tmp_path,
        "method=sft",
        EXACT,
        "eval.num_questions=3",
        "sandbox.check_references=2",
        validation=questions([3] * 7),
    )
    assert verifier.asked == ["answer 0", "answer 3"]
    examiner = verified.examiner()
    assert examiner is not None
    assert [row for batch in examiner.batches for row in batch.row_ids.tolist()] == [0, 2, 4]


def test_a_prompt_without_room_for_an_answer_is_named(tmp_path: Path, verifier: Obedient) -> None:
    with pytest.raises(UserError) as refused:
        verification_of(tmp_path, "method=sft", EXACT, "eval.max_new_tokens=94", validation=questions([3, 7, 5]))
    assert str(refused.value) == (
        "The prompt of file:1 has 7 tokens, which with 94 new ones is over the 100 positions of model.path=tiny; "
        "lower max_new_tokens of method and eval, or shorten the prompt."
    )
    verification_of(tmp_path, "method=sft", EXACT, "eval.max_new_tokens=93", validation=questions([3, 7, 5]))


def test_a_reference_answer_that_fails_its_own_test_is_named(tmp_path: Path, verifier: Obedient) -> None:
    verifier.wrong = "answer 1"
    with pytest.raises(
        UserError,
        match=r"1 of 3 reference answers fail their own tests: file:1 \(wrong_value\); correct or remove the rows, or",
    ):
        verification_of(tmp_path, "method=sft", EXACT, validation=questions([3, 7, 5]))


@pytest.mark.slow
def test_code_from_the_outside_runs_only_where_it_is_allowed(
    tmp_path: Path, verifier: Obedient, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Confined(Sandbox):
        level = "landlock"
        checked = 0

        def __init__(self, config: SandboxConfig) -> None: ...

        def check_canaries(self) -> None:
            Confined.checked += 1

    monkeypatch.setattr(references, "Sandbox", Confined)
    tests = "data.task=unit_tests"
    columns = "data.tests_column=c"
    with pytest.raises(
        UserError,
        match=r"data\.task=unit_tests runs programs that model\.path=tiny writes; "
        r"set sandbox\.allow_code_execution=true once you have read docs/graders\.md, or data\.task=null to judge no "
        r"answers\.$",
    ):
        verification_of(tmp_path, "method=sft", tests, columns, validation=questions([3, 7]))
    verified = verification_of(
        tmp_path, "method=sft", tests, columns, "sandbox.allow_code_execution=true", validation=questions([3, 7])
    )
    assert verified.plan() == {"verifier": "unit_tests", "code execution": "on, sandbox level landlock"}
    assert Confined.checked == 1
