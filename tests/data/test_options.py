"""Every data set that has an option of its own under conf/data, read as that option says from a few rows with the data
set's columns."""

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from pyarrow import Table, parquet

from ebft.cli.compose import compose
from ebft.config.schema import HubDataConfig, UserError
from ebft.data import Data, load, read
from ebft.data.documents import Document
from ebft.sandbox import programs
from ebft.tasks.base import Question
from ebft.tasks.text_match import BLEU
from ebft.tasks.unit_tests import program
from tests.data.helpers import FILES, file_config, tokenizer
from tests.debug_run import COMPOSER

NVIDIA = ['data.train_split="train[:4]"', "data.validation_fraction=0.5"]  # the option's are for millions of rows

pytestmark = pytest.mark.usefixtures("cache")


def option(name: str, *overrides: str) -> HubDataConfig:
    """`data=NAME` with the folder of that name, or what comes before its first underscore, in place of the hub."""
    folder = name if (FILES / name).is_dir() else name.partition("_")[0]
    config = COMPOSER.config([f"data={name}", f"data.path={FILES / folder}", *overrides]).data
    assert isinstance(config, HubDataConfig)
    return config


def loaded(config: HubDataConfig) -> Data:
    return load(config, tokenizer())


def questions(config: HubDataConfig) -> tuple[dict[str, Question], dict[str, Question]]:
    """Of both sides, by prompt."""
    sides: Any = loaded(config)
    train, validation = (
        {question.prompt: question for question in side.items}
        for side in (sides.train_questions, sides.validation_questions)
    )
    return train, validation


def asked(config: HubDataConfig) -> dict[str, Question]:
    train, validation = questions(config)
    return train | validation


def texts(documents: list[Document]) -> dict[str, str]:
    return {document.prompt: document.completion for document in documents}


def passes(question: Question) -> bool:
    """Whether the reference answer passes its tests: run here, plainly, as both are ours."""
    reference = program(question.answer, question)
    namespace: dict[str, Any] = {}
    exec(reference.tests.setup, namespace)
    exec(reference.source, namespace)
    namespace["candidate"] = namespace[reference.tests.entry_point]
    try:
        exec(reference.tests.code, namespace)
    except AssertionError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "overrides", "num_questions"),
    [
        ("opencode_instruct", ["data.drop_untestable=true"], 5),
        ("nvidia_opencode_instruct", NVIDIA, 4),
        ("humaneval", [], 5),
        ("mbpp", [], 3),
        ("mbpp_sanitized", [], 2),
    ],
)
def test_every_reference_answer_passes_its_own_tests(name: str, overrides: list[str], num_questions: int) -> None:
    found = asked(option(name, *overrides))
    assert len(found) == num_questions
    assert all(map(passes, found.values()))


@pytest.mark.slow
def test_opencode_instruct() -> None:
    """Answers are programs of their own; packed rows train, padded ones ask."""
    data = loaded(option("opencode_instruct", "data.drop_untestable=true"))
    assert data.validation_questions is not None
    assert data.validation_questions.rows is not data.validation
    assert (len(data.validation), len(data.validation_questions.rows)) == (1, 2)
    train, validation = questions(option("opencode_instruct", "data.drop_untestable=true"))
    double = train["Write a function `double(x)` that returns twice x.\n"]
    assert double.answer == "def double(x):\n    return 2 * x\n"
    assert double.tests == programs.Tests("double", code="assert double(3) == 6\nassert double(-1) == -2")
    assert (double.key, double.program_prefix) == (double.prompt, "")
    assert sorted(question.tests.entry_point for question in train.values() if question.tests) == [
        "double",
        "is_even",
        "shared",
    ]
    assert sorted(question.tests.entry_point for question in validation.values() if question.tests) == [
        "last",
        "negate",
    ]


@pytest.mark.slow
def test_a_row_without_tests_is_refused_or_dropped_and_counted() -> None:
    with pytest.raises(UserError) as caught:
        read(option("opencode_instruct"))
    assert str(caught.value) == (
        f"{FILES}/opencode_instruct split train row 3 has no assert in column unit_tests; correct or remove the row, "
        "or drop all such rows "
        "with data.drop_untestable=true."
    )
    data = loaded(option("opencode_instruct", "data.drop_untestable=true"))
    assert (data.train.num_documents, data.validation.num_documents, data.num_dropped) == (3, 2, 1)


@pytest.mark.slow
def test_rows_without_tests_train_where_nothing_is_verified() -> None:
    data = loaded(option("opencode_instruct", "data.task=null", "data.tests_column=null"))
    assert (data.train.num_documents, data.train_questions, data.validation_questions, data.num_dropped) == (
        4,
        None,
        None,
        0,
    )


@pytest.mark.slow
def test_nvidia_opencode_instruct() -> None:
    """Its tests are JSON of a list, each with line breaks around it."""
    found, circle = asked(option("nvidia_opencode_instruct", *NVIDIA)), "Return the area of a circle of radius r.\n"
    assert found[circle].tests == programs.Tests(
        "area", code="\nimport math\nassert math.isclose(area(1), math.pi)\n\n\nassert area(0) == 0\n"
    )
    assert found[circle].answer.startswith("import math\n\n\ndef area(r):")


@pytest.mark.slow
def test_swallow_code_is_packed_and_has_nothing_to_verify() -> None:
    train, validation = read(option("swallow_code"))
    assert texts(train)["class Stack:\n"] == "    def __init__(self):\n        self.items = []\n"
    assert texts(validation) == {"def half(x):\n": "    return x / 2\n"}
    data = loaded(option("swallow_code"))
    assert (len(data.train), data.train.num_documents, data.train_questions) == (1, 3, None)


@pytest.mark.slow
def test_alma_is_trained_on_one_data_set_and_evaluated_on_another() -> None:
    train, validation = questions(option("alma", f"data.validation_path={FILES / 'wmt22_test'}"))
    assert {(question.direction, question.references) for question in train.values()} == {
        ("en-de", (" Die Katze schläft.",)),
        ("de-en", (" It is raining.",)),
        ("en-zh", (" 早上好。",)),
    }
    assert {prompt: question.direction for prompt, question in validation.items()} == {
        "English: We are late.\nCzech:": "en-cs",
        "Icelandic: Góðan dag.\nEnglish:": "is-en",
    }
    assert all(
        BLEU().verify(question.answer, question).score == 1 for question in [*train.values(), *validation.values()]
    )


@pytest.mark.slow
def test_humaneval() -> None:
    """The prompt begins the program, what it defines before the function serves the tests as well, and check is
    called."""
    found = asked(option("humaneval"))
    (gap,) = (question for prompt, question in found.items() if "largest_gap" in prompt)
    assert (gap.program_prefix, gap.answer[:14]) == (gap.prompt, "    return max")
    assert gap.tests is not None
    assert (gap.tests.entry_point, gap.tests.setup) == ("largest_gap", "from typing import List\n\n\n")
    assert gap.tests.code.endswith("    assert candidate([0, 0]) == 0\n\n\ncheck(largest_gap)\n")
    (back,) = (question.tests for prompt, question in found.items() if "shift_back" in prompt and question.tests)
    assert back.setup.startswith("def shift(text: str):\n")
    assert "shift_back" not in back.setup


@pytest.mark.slow
def test_humaneval_whole_for_models_trained_elsewhere() -> None:
    half, whole = read(option("humaneval"))[1], read(option("humaneval", "data.validation_split=test"))[1]
    assert (len(half), len(whole)) == (3, 5)


@pytest.mark.slow
def test_mbpp() -> None:
    train, validation = questions(option("mbpp"))
    (cube,) = validation.values()
    assert cube.prompt == '"""\nWrite a function to cube a number.\nassert cube(2) == 8\nassert cube(-1) == -1\n"""\n'
    assert cube.tests == programs.Tests("cube", code="assert cube(2) == 8\nassert cube(-1) == -1")
    assert (cube.answer, cube.program_prefix) == ("def cube(n):\n    return n ** 3", "")
    assert {(question.tests.entry_point, question.tests.setup) for question in train.values() if question.tests} == {
        ("perimeter", ""),
        ("known", "WORDS = {'a', 'b'}"),
    }


@pytest.mark.slow
def test_mbpp_sanitized() -> None:
    train, validation = questions(option("mbpp_sanitized"))
    (hypotenuse,), (repeat,) = train.values(), validation.values()
    assert hypotenuse.tests == programs.Tests(
        "hypotenuse", code="assert math.isclose(hypotenuse(3, 4), 5.0, rel_tol=0.001)", setup="import math"
    )
    assert repeat.prompt == (
        '"""\nWrite a function to repeat a word.\n'
        "assert repeat('ab', 2) == 'abab'\nassert repeat('x', 0) == ''\n\"\"\"\n"
    )
    assert repeat.tests == programs.Tests(
        "repeat", code="assert repeat('ab', 2) == 'abab'\nassert repeat('x', 0) == ''"
    )


@pytest.mark.parametrize("source", ["jsonl", "parquet"])
def test_a_file_with_test_code_needs_its_columns_named_and_nothing_else(source: str, tmp_path: Any) -> None:
    rows = [
        {
            "question": f"Add {n}.\n",
            "answer": f"def add(x):\n    return x + {n}\n",
            "checks": f"assert add(1) == {n + 1}\n",
        }
        for n in range(5)
    ]
    path = tmp_path / f"rows.{source}"
    if source == "parquet":
        parquet.write_table(Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {
        "text_column": None,
        "prompt_column": "question",
        "completion_column": "answer",
        "tests_column": "checks",
    }
    config = file_config(
        path, source=source, validation_path=str(path), task="unit_tests", sequence_length=19, **columns
    )
    data: Any = load(config, tokenizer())
    assert sorted(question.tests.code for question in data.train_questions.items) == [
        f"assert add(1) == {n + 1}\n" for n in range(5)
    ]
    assert all(map(passes, data.validation_questions.items))


def test_a_hub_option_reads_a_file_of_its_rows_which_has_no_splits(tmp_path: Any) -> None:
    """MBPP and HumanEval as they were published: JSON lines, packed or not."""
    rows = [
        {"text": f"Add {n}.", "test_list": ["assert f(1) == 2"], "test_setup_code": "", "code": f"def f(x): x + {n}"}
        for n in range(20)
    ]  # fmt: skip
    path = tmp_path / "mbpp.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    config = compose(["data=mbpp", f"data.path={path}", "data.validation_fraction=0.3"]).data
    train, validation = read(config)
    assert len(train) + len(validation) == 20
    assert min(len(train), len(validation)) > 0
    assert all(document.question is not None for document in train)


@pytest.mark.slow
def test_parts_of_one_file_are_trained_on_and_held_out(tmp_path: Any) -> None:
    """MBPP's splits are ranges of its one file; errors count from the beginning of a part."""
    rows = [
        {"text": str(n), "test_list": [f"assert f() == {n}"], "test_setup_code": "", "code": str(n)} for n in range(9)
    ]
    config = compose(
        [
            "data=mbpp",
            f"data.path={written(tmp_path, 'mbpp.jsonl', rows)}",
            "data.train_split='train[:2]+train[6:]'",
            "data.validation_split='train[2:6]'",
            "data.validation_part=all",
        ]
    ).data
    train, validation = read(config)
    assert sorted(document.completion for document in train) == ["0", "1", "6", "7", "8"]
    assert sorted(document.completion for document in validation) == ["2", "3", "4", "5"]
    assert isinstance(config, HubDataConfig)
    with pytest.raises(UserError, match=r"Cannot load .*mbpp\.jsonl split train\[a:\] \(.*\); check data\.path, "):
        read(replace(config, train_split="train[a:]"))


def written(folder: Any, name: str, rows: Sequence[dict[str, Any]]) -> Any:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return folder / name


ANOTHER = [{"id": number, "note": "n"} for number in range(3)]


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("mbpp", "code, text, test_list, test_setup_code"),
        ("humaneval", "prompt, canonical_solution, test, entry_point"),
        ("alma", "question, answer, source"),
    ],
)
def test_a_file_with_other_columns_is_refused(name: str, missing: str, tmp_path: Any) -> None:
    config = compose([f"data={name}", f"data.path={written(tmp_path, 'rows.jsonl.gz', ANOTHER)}"]).data
    with pytest.raises(UserError) as error:
        read(config)
    columns = set(missing.split(", "))
    before, _, after = str(error.value).partition(" but not ")
    assert before == f"{tmp_path / 'rows.jsonl.gz'} has the columns id, note"
    assert set(after.partition(";")[0].split(", ")) == columns


@pytest.mark.slow
def test_translations_come_from_two_files(tmp_path: Any) -> None:
    """As ALMA's training data and WMT22's tests lie on a disk: each whole, by direction."""
    train, test = (
        [
            {"question": f"{word} {number}: ", "answer": f"{word} {number}", "source": direction}
            for number in range(4)
            for direction in ("de-en", "en-de")
            for word in [f"{name} {direction}"]
        ]
        for name in ("alma", "wmt")
    )
    files = [
        f"data.path={written(tmp_path, 'alma.jsonl.gz', train)}",
        f"data.validation_path={written(tmp_path, 'wmt22.jsonl.gz', test)}",
    ]
    documents, held_out = read(compose(["data=alma", *files]).data)
    assert (len(documents), len(held_out)) == (8, 8)
    assert {document.question.direction for document in held_out if document.question} == {"de-en", "en-de"}
    assert all(document.completion.startswith(" wmt") for document in held_out)
    assert all(document.prompt.endswith(":") for document in held_out)  # without ALMA's space


def test_rows_whose_reference_fails_are_dropped_and_counted() -> None:
    config = option("mbpp", "data.drop_failing_references=true")
    asked: list[str] = []

    def fails(questions: Sequence[Question]) -> list[bool]:
        asked.extend(question.origin for question in questions)
        return [number == 1 for number in range(len(questions))]

    everything = load(config, tokenizer())
    data = load(config, tokenizer(), drop_failing=fails)
    assert len(asked) == everything.train.num_documents + everything.validation.num_documents
    assert data.num_dropped == 1
    assert data.train.num_documents == everything.train.num_documents - 1
    kept = load(replace(config, drop_failing_references=False), tokenizer(), drop_failing=fails)
    assert kept.num_dropped == 0
