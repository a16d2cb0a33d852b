import sys
from dataclasses import replace
from statistics import fmean

import pytest
import sacrebleu

from ebft.config.schema import UserError
from ebft.tasks.base import Question, RowFigures, Verdict, Verifier
from ebft.tasks.text_match import (
    BLEU,
    ChrF,
    ExactMatch,
    bleu_metric,
    corpus_bleu,
    corpus_chrf,
    reference_streams,
)

CATS = Question(
    key="cats",
    prompt="",
    answer=" les chats dorment.\n",
    origin="row 7",
    references=("les chats dorment.", "les chattes dorment."),
    direction="en-fr",
)
DOG = replace(CATS, key="dog", answer=" le chien court.\n", references=("le chien court.",))
VERIFIERS = [ChrF(), BLEU(), ExactMatch()]


@pytest.mark.parametrize("verifier", VERIFIERS, ids=lambda verifier: type(verifier).__name__)
def test_every_reference_is_right_whatever_white_space_is_around_it(verifier: Verifier) -> None:
    for text in (CATS.answer, "les chats dorment.", "\n les chattes dorment. "):
        assert verifier.verify(text, CATS) == Verdict(1.0, True, "passed")


@pytest.mark.parametrize("verifier", VERIFIERS, ids=lambda verifier: type(verifier).__name__)
def test_thoughts_before_an_answer_are_no_part_of_it(verifier: Verifier) -> None:
    """They were once judged with it, so that no thinking model was ever right; nor are those of a reference."""
    thinking = replace(CATS, references=(f"<think>Cats sleep.</think>\n{CATS.references[0]}",))
    for text in ("<think>\nchats?\n</think>\n\nles chats dorment.\n", "chats? </think> les chats dorment."):
        for question in (CATS, thinking):
            assert verifier.verify(text, question) == Verdict(1.0, True, "passed", read_as="behind_thoughts")
            assert verifier.metrics([text], [question])["exact_match"] == 1.0
    assert verifier.verify("les chats dorment.", thinking).passed
    assert not verifier.verify("<think>\nles chats dorment.", CATS).passed


@pytest.mark.parametrize("verifier", VERIFIERS, ids=lambda verifier: type(verifier).__name__)
@pytest.mark.parametrize("text", ["", "\n", "xyz", "\0", "\ud800", "日本"])
def test_what_shares_nothing_scores_nothing(verifier: Verifier, text: str) -> None:
    assert verifier.verify(text, CATS) == Verdict(0.0, False, "different")


def test_a_near_miss_scores_by_what_it_shares() -> None:
    chrf, bleu, exact = (verifier.verify(" les chats dort.\n", CATS) for verifier in VERIFIERS)
    assert exact == Verdict(0.0, False, "different")
    assert not chrf.passed
    assert not bleu.passed
    assert chrf.score == sacrebleu.sentence_chrf("les chats dort.", list(CATS.references)).score / 100
    # Tokens: les chats dort . against les chats dorment . ; precisions 3/4 and 1/3, then 1/2 and 1/4 of a match of 2
    # and 1 n-grams by smoothing.
    assert bleu.score == pytest.approx((3 / 4 * 1 / 3 * (1 / 2) / 2 * (1 / 4) / 1) ** (1 / 4))


def test_a_short_text_is_scored_by_the_orders_that_it_has() -> None:
    """One word against the same word would otherwise score by 2-grams that neither has."""
    assert BLEU().verify("oui", replace(CATS, references=("oui",))).score == 1.0


def test_verdicts_come_in_order() -> None:
    assert [verdict.passed for verdict in ExactMatch().verify_all(["x", "le chien court."], [CATS, DOG])] == [
        False,
        True,
    ]


def test_a_question_without_references_is_named() -> None:
    with pytest.raises(UserError, match="row 7 has no reference"):
        ExactMatch().verify("x", replace(CATS, references=()))


def test_rows_may_have_different_numbers_of_references() -> None:
    assert reference_streams([CATS, DOG]) == [["les chats dorment.", "le chien court."], ["les chattes dorment.", None]]


def test_corpus_figures_of_one_direction() -> None:
    texts = ["les chats dorment.", "le chat court."]
    figures = ChrF().metrics(texts, [CATS, DOG])
    assert list(figures) == ["bleu", "chrf", "exact_match"]
    assert figures["exact_match"] == 0.5
    streams = [
        ["les chats dorment.", "le chien court."],
        ["les chattes dorment.", "le chien court."],
    ]  # a second copy changes nothing
    assert figures["bleu"] == pytest.approx(sacrebleu.corpus_bleu(texts, streams).score)
    assert figures["chrf"] == pytest.approx(sacrebleu.corpus_chrf(texts, streams).score)
    # 4-grams: 8 tokens, 7 right; 6 bigrams, 4 right; 4 trigrams, 2 right; 2 four-grams, 1 right.
    assert figures["bleu"] == pytest.approx(100 * (7 / 8 * 4 / 6 * 2 / 4 * 1 / 2) ** (1 / 4))


def test_directions_are_averaged_and_shown() -> None:
    """Of three directions one is wholly right, one half, one wrong: the number of rows of a direction does not
    weigh."""
    german, back = replace(DOG, direction="en-de"), replace(DOG, direction="fr-en")
    questions = [CATS, DOG, german, back, back, back]
    figures = ExactMatch().metrics(
        ["les chats dorment.", "le chien court.", "x", "le chien court.", "y", "z"], questions
    )
    assert figures == {
        "exact_match": pytest.approx((1 + 0 + 1 / 3) / 3),
        "exact_match_en_de": 0.0,
        "exact_match_en_fr": 1.0,
        "exact_match_fr_en": pytest.approx(1 / 3),
        "exact_match_en_xx": 0.5,
        "exact_match_xx_en": pytest.approx(1 / 3),
    }


@pytest.mark.parametrize(("direction", "tokenizer"), [("en-fr", "13a"), ("en-zh", "zh"), ("zh-en", "13a"), ("", "13a")])
def test_the_tokenizer_is_that_of_the_target(direction: str, tokenizer: str) -> None:
    assert bleu_metric(direction, False).tokenizer.signature() == tokenizer


def test_chinese_is_scored_by_characters() -> None:
    question = replace(DOG, references=("狗在跑步。",), direction="en-zh")
    assert 0 < float(BLEU().verify("狗在走。", question).score or 0) < 1
    assert BLEU().verify("狗在走。", replace(question, direction="en-fr")).score == 0.0


def test_a_tokenizer_whose_package_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_ja_mecab.MeCab", None)
    bleu_metric.cache_clear()
    with pytest.raises(
        UserError,
        match=r"BLEU of direction en-ja needs a tokenizer that is not installed: .*pip install sacrebleu\[ja\]",
    ):
        BLEU().verify("x", replace(DOG, direction="en-ja"))


def test_sacrebleu_is_asked_for_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    for verifier in (ChrF, BLEU):
        with pytest.raises(UserError, match=r"pip install 'ebft\[translation\]'"):
            verifier()
    assert ExactMatch().metrics(["x"], [DOG]) == {"exact_match": 0.0}


TEXTS = ["les chats dort.", " le chien court.\n", "le chat court", "rien"]
ASKED = [CATS, DOG, replace(CATS, direction="fr-en"), replace(DOG, direction="fr-en")]


@pytest.mark.parametrize("verifier", VERIFIERS, ids=lambda verifier: type(verifier).__name__)
@pytest.mark.parametrize("number", [2, 4])
def test_what_each_answer_adds_has_the_corpus_s_figure_as_its_mean(verifier: RowFigures, number: int) -> None:
    assert isinstance(verifier, Verifier)
    figures, rows = (f(TEXTS[:number], ASKED[:number]) for f in (verifier.metrics, verifier.row_figures))
    assert figures.keys() == rows.keys()
    for name, values in rows.items():
        counted = [value for value in values if value is not None]
        assert len(values) == number
        assert fmean(counted) == pytest.approx(figures[name], abs=1e-9), name


def test_pseudo_values_are_those_of_the_corpus_without_each_answer() -> None:
    """v_i = f + (n - 1) (mean_j f_(-j) - f_(-i)), every f_(-i) by sacrebleu's own function for a corpus."""
    texts, questions = TEXTS[:3], [CATS, DOG, CATS]
    for name, metric in (("chrf", corpus_chrf), ("bleu", corpus_bleu)):
        rest = [[0, 1, 2][:left] + [0, 1, 2][left + 1 :] for left in range(3)]
        stripped = [text.strip() for text in texts]
        without = [metric([stripped[i] for i in kept], [questions[i] for i in kept]) for kept in rest]
        whole = metric(stripped, questions)
        expected = [whole + 2 * (fmean(without) - one) for one in without]
        assert ChrF().row_figures(texts, questions)[name] == pytest.approx(expected)
