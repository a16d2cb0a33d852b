"""From single rows to questions, and each refusal: of a row by name, of columns that cannot work together before any
row is read."""

import json
from pathlib import Path
from typing import Any

import pytest

from ebft.cli.compose import compose
from ebft.config.schema import UserError
from ebft.data import load
from ebft.data.questions import document, wanted_columns
from ebft.data.raw_row import RawRow
from ebft.sandbox import programs
from ebft.tasks.base import Question
from tests.data.helpers import file_config, tokenizer

PAIR = {"text_column": None, "prompt_column": "ask", "completion_column": "answer"}
CODE = {**PAIR, "task": "unit_tests", "tests_column": "tests"}
TEXT = {**PAIR, "task": "chrf"}
ROW = {"ask": "Double it.\n", "answer": "def f(x):\n    return 2 * x\n", "tests": "assert f(1) == 2"}
OR_DROP = "; correct or remove the row, or drop all such rows with data.drop_untestable=true."


def question(columns: dict[str, Any], **cells: Any) -> Question:
    found = document(file_config(Path("rows.jsonl"), **columns), RawRow("rows.jsonl:7", {**ROW, **cells})).question
    assert found is not None
    return found


def judged_by(columns: dict[str, Any], **cells: Any) -> programs.Tests:
    found = question(columns, **cells).tests
    assert found is not None
    return found


def refusal(columns: dict[str, Any], **cells: Any) -> str:
    with pytest.raises(UserError) as caught:
        question(columns, **cells)
    return str(caught.value).removeprefix("rows.jsonl:7 ")


def test_a_question_is_its_row() -> None:
    assert question(CODE) == Question(
        key="Double it.\n",
        prompt="Double it.\n",
        answer="def f(x):\n    return 2 * x\n",
        origin="rows.jsonl:7",
        tests=programs.Tests("f", code="assert f(1) == 2"),
    )


@pytest.mark.parametrize(("prompt", "space", "expected"), [
    ("En: a\nFr: ", None, ("En: a\nFr: ", "b")),
    ("En: a\nFr: ", "completion", ("En: a\nFr:", " b")),
    ("En: a\nFr:\n  ", "completion", ("En: a\nFr:\n", "  b")),
    ("En: a\nFr:", "completion", ("En: a\nFr:", "b")),
])  # fmt: skip
def test_spaces_at_the_end_of_a_prompt_may_begin_the_completion(
    prompt: str, space: str | None, expected: tuple[str, str]
) -> None:
    """Where the row is held out is decided by the prompt as it stands."""
    config = file_config(Path("rows.jsonl"), **TEXT, border_space=space)
    found = document(config, RawRow("rows.jsonl:7", {"ask": prompt, "answer": "b"}))
    assert (found.prompt, found.completion, found.key) == (*expected, prompt)
    assert found.question is not None
    assert (found.question.prompt, found.question.answer) == expected


@pytest.mark.parametrize(
    "cell",
    [
        ["assert f(1) == 2", "assert f(2) == 4"],
        '["assert f(1) == 2", "assert f(2) == 4"]',
        "assert f(1) == 2\nassert f(2) == 4",
    ],
)
def test_tests_are_a_list_or_json_of_one_or_code(cell: Any) -> None:
    assert judged_by(CODE, tests=cell) == programs.Tests("f", code="assert f(1) == 2\nassert f(2) == 4")


def test_code_that_begins_with_a_bracket_is_code() -> None:
    code = "[x, y] = 1, 2\nassert f(x) == y"
    assert judged_by(CODE, tests=code).code == code


def test_setup_is_text_or_a_list_or_nothing() -> None:
    columns = {**CODE, "setup_column": "before"}
    assert judged_by(columns, before=["import math", "from os import path"]).setup == "import math\nfrom os import path"
    assert judged_by(columns, before="helper = abs").setup == "helper = abs"
    assert (
        judged_by(columns, before="").setup
        == judged_by(columns, before=None).setup
        == judged_by(columns, before=[]).setup
        == ""
    )


def test_names_of_the_setup_are_not_the_function_under_test() -> None:
    columns = {**CODE, "setup_column": "before"}
    assert judged_by(columns, before="from math import isclose", tests="assert isclose(f(1), 2)").entry_point == "f"


def test_a_named_entry_point_needs_no_telling_assert() -> None:
    columns = {**CODE, "entry_point_column": "name"}
    assert judged_by(columns, name="f", tests="y = f(1)\nassert y == 2").entry_point == "f"


def test_a_completed_prompt_is_the_beginning_of_the_program() -> None:
    """What it defines before the function joins the setup, for the tests to call."""
    columns = {**CODE, "completes_prompt": True, "setup_column": "before"}
    found = question(
        columns, ask="def g(x):\n    return x\n\ndef f(x):\n", answer="    return 2 * x\n", before="import math"
    )
    assert found.program_prefix == found.prompt == "def g(x):\n    return x\n\ndef f(x):\n"
    assert found.tests == programs.Tests("f", code="assert f(1) == 2", setup="import math\ndef g(x):\n    return x\n\n")


@pytest.mark.parametrize("cell", [None, "", " \n", [], [""], "[]", "f(1) == 2", "# assert f(1)"])
def test_a_row_without_tests_is_named(cell: Any) -> None:
    assert refusal(CODE, tests=cell) == f"has no assert in column tests{OR_DROP}"


@pytest.mark.parametrize(
    ("columns", "cells", "sentence"),
    [
        ({}, {"tests": "assert f(1 == 2"}, "holds code in column tests that does not compile"),
        ({}, {"tests": "assert f(1)\nreturn"}, "holds code in column tests that does not compile"),
        ({}, {"tests": "assert f('\0')"}, "holds code in column tests that does not compile"),
        ({"setup_column": "before"}, {"before": "import"}, "holds code in column before that does not compile"),
        (
            {},
            {"tests": "assert x == 2"},
            "has a first assert in column tests that calls no function of the program's (name data.entry_point_column)",
        ),
        (
            {"entry_point_column": "name"},
            {"name": "f(x)"},
            "holds 'f(x)' in column name, which is no name of a function",
        ),
        (
            {"entry_point_column": "name"},
            {"name": "lambda"},
            "holds 'lambda' in column name, which is no name of a function",
        ),
        ({"entry_point_column": "name"}, {"name": None}, "holds None in column name, which is no name of a function"),
        (
            {"completes_prompt": True},
            {"ask": "def g(x):\n"},
            "has a prompt that does not begin the function f, as data.completes_prompt=true says",
        ),
        (
            {"completes_prompt": True},
            {"ask": "Now write:\ndef f(x):\n"},
            "has a prompt that does not begin the function f, as data.completes_prompt=true says",
        ),
    ],
)
def test_tests_of_no_use_are_named_or_dropped(columns: dict[str, Any], cells: dict[str, Any], sentence: str) -> None:
    assert refusal({**CODE, **columns}, **cells) == sentence + OR_DROP
    config = file_config(Path("rows.jsonl"), **CODE, **columns, drop_untestable=True)
    assert document(config, RawRow("here", {**ROW, **cells})).question is None


@pytest.mark.parametrize("cell", [5, ["assert f(1)", 5], {"code": "assert f(1)"}])
def test_tests_that_are_no_text_are_the_wrong_column_and_never_dropped(cell: Any) -> None:
    kind = type(cell[1] if isinstance(cell, list) else cell).__name__
    sentence = f"holds {kind} in column tests; it must be text or a list of texts."
    assert refusal(CODE, tests=cell) == refusal({**CODE, "drop_untestable": True}, tests=cell) == sentence


def test_half_of_a_surrogate_pair_is_found_inside_a_list() -> None:
    assert refusal(CODE, tests=["assert f('\ud800')"]).startswith("holds half of a surrogate pair in column tests")


def test_a_template_makes_the_prompt_from_columns() -> None:
    columns = {**CODE, "prompt_column": None, "prompt_template": "# {ask}{tests}\n{{}}\n"}
    assert question(columns, ask="Double it.\n", tests=["assert f(1) == 2", "assert f(2) == 4"]).prompt == (
        "# Double it.\nassert f(1) == 2\nassert f(2) == 4\n{}\n"
    )
    assert refusal(columns, ask="") == "is empty in column ask; fill it in or remove the row."
    assert refusal(columns, ask=None) == "is null in column ask; fill it in or remove the row."


def test_a_templates_columns_are_wanted_and_named_by_their_key() -> None:
    config = file_config(Path("x"), **{**CODE, "prompt_column": None, "prompt_template": "{ask}{tests[0]}"})
    assert wanted_columns(config) == {
        "ask": "data.prompt_template",
        "tests[0]": "data.prompt_template",
        "answer": "data.completion_column",
        "tests": "data.tests_column",
    }


@pytest.mark.parametrize("template", ["{ask!r}", "{ask:>9}", "{}", "Answer:\n"])
def test_a_template_holds_columns_only(template: str) -> None:
    with pytest.raises(
        UserError,
        match=r"data\.prompt_template must hold columns as \{name\}, with nothing else inside the braces, and at "
        r"least one",
    ):
        wanted_columns(file_config(Path("x"), prompt_template=template))


def test_a_malformed_template_is_refused() -> None:
    with pytest.raises(
        UserError,
        match=r"data\.prompt_template is malformed \(.*'\}'.*\); write a column as \{name\} and a brace of the text "
        r"twice",
    ):
        wanted_columns(file_config(Path("x"), prompt_template="{ask}}"))


def test_missing_columns_are_named_with_their_keys(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"ask": "a", "answer": "b"}\n')
    with pytest.raises(UserError) as caught:
        load(file_config(path, **CODE, setup_column="before"), tokenizer())
    assert str(caught.value) == (
        f"{path}:1 has the columns ask, answer but not tests, before; correct data.setup_column and data.tests_column."
    )


def test_references_are_the_completion_and_what_else_is_right() -> None:
    columns = {**TEXT, "references_column": "more", "direction_column": "way"}
    found = question(columns, answer="a", more=["b", "a", "c"], way="en-fr")
    assert (found.references, found.direction, found.tests) == (("a", "b", "c"), "en-fr", None)
    assert question(TEXT, answer="a").references == ("a",)
    assert question(columns, answer="a", more=None, way="fr-en").references == ("a",)
    assert question(columns, answer="a", more='["b"]', way="fr-en").references == ("a", "b")


def test_references_and_directions_of_no_use_are_named() -> None:
    columns = {**TEXT, "references_column": "more", "direction_column": "way"}
    assert (
        refusal(columns, more=["b", " "], way="en-fr") == "holds an empty text in column more; fill it in or remove it."
    )
    assert refusal(columns, more=3, way="en-fr") == "holds int in column more; it must be text or a list of texts."
    assert refusal(columns, more=[], way="German") == "holds 'German' in column way; a direction is written as en-de."


def test_rows_of_some_directions_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    ways = ["en-fr", "fr-en", "en-de", "en-fr"]
    rows = [{"ask": f"a {n}", "answer": "b", "way": way} for n, way in enumerate(ways)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    columns = {**TEXT, "direction_column": "way", "validation_path": str(path)}
    kept = load(file_config(path, **columns, directions=["en-fr", "en-de"]), tokenizer()).train_questions
    assert kept is not None
    assert sorted(item.direction for item in kept.items) == ["en-de", "en-fr", "en-fr"]
    with pytest.raises(UserError) as caught:
        load(file_config(path, **columns, directions=["en-fr", "en_de", "fr-de"]), tokenizer())
    assert str(caught.value) == (
        "No row has the direction en_de or fr-de of data.directions; column way holds en-de, en-fr, fr-en."
    )


def test_dropping_everything_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"ask": "a", "answer": "b", "tests": []}\n')
    with pytest.raises(
        UserError, match=r"data\.source=jsonl keeps none of the 1 documents of one side; .*data\.drop_untestable=false"
    ):
        load(file_config(path, **CODE, validation_path=str(path), drop_untestable=True), tokenizer())


def test_where_all_reference_answers_fail_the_rows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"ask": "a", "answer": f"b {letter}", "tests": ["assert f(1) == 2"], "name": "f"} for letter in "abcd"]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    columns = CODE | {"entry_point_column": "name", "drop_failing_references": True, "validation_path": str(path)}
    with pytest.raises(UserError, match=r"one side, 4 for their reference answers \(") as caught:
        load(file_config(path, **columns), tokenizer(), drop_failing=lambda asked: [True] * len(asked))
    assert all(f"{path}:{number}" in str(caught.value) for number in range(1, 5))


def test_an_end_typed_behind_a_reference_is_no_part_of_it(tmp_path: Path) -> None:
    """Answers end before it: none would ever equal the reference."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"ask": "a", "answer": "b c <eos>", "more": ["c <eos> <eos> ", "d"]}\n')
    columns = {**TEXT, "references_column": "more", "validation_path": str(path)}
    data = load(file_config(path, **columns), tokenizer())
    assert data.validation_questions is not None
    assert [text.strip() for text in data.validation_questions.items[0].references] == ["b c", "c", "d"]


JSONL = ["data=jsonl", "data.path=x", "data.text_column=null", "data.prompt_column=p", "data.completion_column=c"]
HUB = ["data=hub", *JSONL[1:]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            [*JSONL, "data.task=unit_tests"],
            "data.task=unit_tests runs a row's own tests; name their column with data.tests_column, or with "
            "data.stdin_column and data.stdout_column what programs read and write.",
        ),
        (
            [*JSONL, "data.tests_column=t"],
            "data.task=null does not read data.tests_column; set data.task=unit_tests, or make them null or false.",
        ),
        (
            ["data=humaneval", "data.task=null"],
            "data.task=null does not read data.tests_column, data.entry_point_column, data.completes_prompt; set "
            "data.task=unit_tests, "
            "or make them null or false.",
        ),
        (
            ["data=alma", "data.task=null"],
            "data.task=null does not read data.direction_column; set data.task=chrf or bleu or exact_match, or make "
            "them null or false.",
        ),
        (
            ["data=alma", "data.directions=[de-en]", "data.direction_column=null"],
            "data.directions needs data.direction_column, which says what direction a row has.",
        ),
        (
            ["data=alma", "data.directions=[]"],
            "data.directions is empty; name some, such as [de-en,en-de], or make it null for all.",
        ),
        (
            [*JSONL, "data.prompt_template='{p}'"],
            "data.prompt_template takes the place of data.prompt_column; make one of them null.",
        ),
        (
            [*HUB, "data.validation_path=y"],
            "data.validation_path needs data.validation_split, the split of that data set to evaluate on.",
        ),
        (
            ["data=jsonl", "data.path=x", "data.task=unit_tests", "data.tests_column=t"],
            "data.task=unit_tests judges answers, so it needs data with a prompt and a completion column.",
        ),
        (
            ["data=jsonl", "data.path=x", "data.prompt_template='{p}'"],
            "Set either data.text_column, or data.messages_column, or both data.prompt_column and "
            "data.completion_column, and make the rest null.",
        ),
    ],
)
def test_columns_that_cannot_work_are_refused_before_a_row_is_read(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        compose(overrides)
    assert str(caught.value) == sentence


def test_a_template_takes_the_place_of_a_prompt_column() -> None:
    data: Any = compose([*JSONL[:3], "data.prompt_template='{p}'", "data.completion_column=c"]).data
    assert (data.prompt_template, data.prompt_column) == ("{p}", None)
