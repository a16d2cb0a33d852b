"""The table at the end of a run in the terminal."""

from ebft.report.last_table import rows

BASE = {
    "eval/reward": 0.5,
    "eval/chrf": 80.0,
    "eval/greedy": 0.25,
    "eval/score": 0.25,
    "eval/exact_match": 0.5,
    "eval/entropy@1": 1.0,
    "eval/cross_entropy": 2.0,
    "eval/cross_entropy_stderr": 0.5,
    "eval/feature_matching_loss@2": 0.5,
    "eval/feature_matching_loss@4": 0.75,
    "eval/truncated_share": 0.0,
    "eval/humour": 0.125,
    "eval/old/greedy": 0.25,
    "eval/old/cross_entropy": 1.0,
}
FINAL = BASE | {"eval/cross_entropy": 1.5, "eval/greedy": 0.5, "eval/score": 0.5, "eval/old/cross_entropy": 1.25}
CHANGE = {
    "eval/cross_entropy": -0.5,
    "eval/cross_entropy_stderr": 0.25,
    "eval/greedy": 0.25,
    "eval/greedy_stderr": 0.1875,
    "eval/old/cross_entropy": 0.25,
}
SUMMARY = {"base": BASE, "final": FINAL, "change": CHANGE, "directions": {"humour": "higher"}}


def test_figures_stand_in_a_fixed_order_once_each_and_sets_follow() -> None:
    """score is greedy again, truncated_share is 0; -0.5 is two standard errors, 0.25 is 1.33."""
    assert rows(SUMMARY, trained_length=4) == [
        ("cross_entropy ↓", "2.0000", "1.5000", "-0.5000*", "0.2500"),
        ("feature_matching_loss@4 ↓", "0.7500", "0.7500", "–", "–"),
        ("greedy ↑", "25.00 %", "50.00 %", "+25.00 pp", "18.75 pp"),
        ("exact_match ↑", "50.00 %", "50.00 %", "–", "–"),
        ("chrf ↑", "80.0000", "80.0000", "–", "–"),
        ("humour ↑", "0.1250", "0.1250", "–", "–"),
        ("old/cross_entropy ↓", "1.0000", "1.2500", "+0.2500", "–"),
        ("old/greedy ↑", "25.00 %", "25.00 %", "–", "–"),
    ]


def test_no_right_answer_is_told() -> None:
    """Somebody's first RLVR run had none, and its table said nothing of answers."""
    nothing = {"eval/greedy": 0.0, "eval/score": 0.0, "eval/truncated_share": 0.0}
    found = rows({"base": nothing, "final": nothing, "change": {"eval/greedy": 0.0}}, 4)
    assert found == [("greedy ↑", "0.00 %", "0.00 %", "+0.00 pp", "–")]


def test_what_was_measured_at_the_end_alone_is_shown_and_nothing_is_no_table() -> None:
    found = rows({"base": {}, "final": {"eval/greedy": 0.5, "eval/score": 0.0}, "change": {}}, 4)
    assert found == [("greedy ↑", "–", "50.00 %", "–", "–")]
    assert rows({"base": {}, "final": {}, "change": {}}, 4) == []
