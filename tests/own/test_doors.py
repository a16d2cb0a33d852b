"""Bad doors: one sentence that names file and expectation, before a folder or a step exists."""

from pathlib import Path
from typing import Any

import pytest

from ebft.cli.compose import compose
from ebft.cli.eval import with_run
from ebft.config import doors
from ebft.config.schema import Needs, RunFailure, UserError
from ebft.tasks.base import Question
from ebft.tasks.own import OwnTask
from ebft.train.loop import train
from ebft.train.setup import gather
from tests.debug_run import miniature, pairs, summary

REWARDS = {
    "shape": (
        "def reward(e): return e.rollout.sum((1, 3))",
        r"must return \[B N K\] = \[2, 3, 5\], and returned \[2, 5\]",
    ),
    "none": ("def reward(e): pass", r"must return \[B N K\] = \[2, 3, 5\], and returned NoneType\."),
    "nan": ("def reward(e): return e.rollout[..., 0] * float('nan')", r"must return finite floating-point numbers"),
    "whole": ("def reward(e): return (e.rollout[..., 0] > 0).long()", r"must return finite floating-point numbers"),
    "raises": ("def reward(e):\n    return e.rolout", r"line 2, in reward\n.*failed: AttributeError: .*rolout"),
    "kind": ("reward = 3", r"is int; it must be a function of Embeddings\."),
    "import": ("import nowhere_to_be_found\ndef reward(e): pass", r"cannot be loaded: ModuleNotFoundError: No module"),
    "at import": ("def reward(e): pass\n1 / 0", r"line 2, in <module>\n.*cannot be loaded: ZeroDivisionError"),
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("case", REWARDS)
def test_a_reward_that_is_none_is_refused_before_weights_are_loaded(tmp_path: Path, case: str) -> None:
    source, message = REWARDS[case]
    name = f"{case.replace(' ', '_')}.py"
    (tmp_path / name).write_text(source + "\n")
    config = miniature(tmp_path, "method=ebft", f"method.reward={name}:reward")
    with pytest.raises(UserError, match=f"(?s){message}") as error:
        gather(config)
    assert f"method.reward={name}:reward" in str(error.value)


def test_a_reward_s_gradient_goes_nowhere(tmp_path: Path) -> None:
    """A network of the user's in it is none of the policy's business."""
    (tmp_path / "net.py").write_text(
        "import torch\nw = torch.ones((), requires_grad=True)\ndef reward(e): return w * e.rollout[..., 0]\n"
    )
    gather(miniature(tmp_path, "method=ebft", "method.reward=net.py:reward"))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("mine.py:rewrd", r"method\.reward=mine\.py:rewrd: mine\.py does not define rewrd; did you mean reward\?"),
        ("other.py:reward", r"method\.reward=other\.py:reward names no file here \(/.*other\.py does not exist\)"),
        ("broken.py:reward", r"broken\.py is not Python \(line 2: "),
        ("mine.py:inner", r"mine\.py does not define inner; it defines reward"),
        ("mine.py:", r"is not of the form file\.py:Name or package\.module:Name"),
        ("mine.py:a b", r"is not of the form file\.py:Name or package\.module:Name"),
        (":reward", r"is not of the form file\.py:Name or package\.module:Name"),
        ("no.such.module:reward", r"names a module that is not installed here"),
        ("alignment", r"is not of the form file\.py:Name or package\.module:Name"),
    ],
)
def test_a_door_that_leads_nowhere_is_refused_when_it_is_read(tmp_path: Path, reference: str, message: str) -> None:
    """Nothing of the file has run by then."""
    (tmp_path / "mine.py").write_text("def reward(e):\n    inner = e\nraise SystemExit\n")
    (tmp_path / "broken.py").write_text("def reward(e):\nreturn\n")
    with pytest.raises(UserError, match=message):
        miniature(tmp_path, "method=ebft", f"'method.reward=\"{reference}\"'".strip("'"))


def test_a_name_may_be_imported_or_assigned_and_a_module_may_be_installed(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from math import sqrt as root\nif True:\n    half = lambda x: x / 2\n")
    assert doors.load("mine.py:root", "key")(9) == 3
    assert doors.load("mine.py:half", "key")(3) == 1.5
    assert doors.load("math:sqrt", "key")(49) == 7


def test_a_file_finds_what_lies_beside_it_and_is_read_once(tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    folder.mkdir()
    (folder / "beside_it.py").write_text("seven = 7\n")
    (folder / "mine.py").write_text("import beside_it\nseven = beside_it.seven\nclass Thing: pass\n")
    assert doors.load("deep/mine.py:seven", "key") == 7
    assert doors.load("deep/mine.py:Thing", "key") is doors.load("deep/mine.py:Thing", "key")


PHI = """
import torch
class Phi:
    def __init__(self, tokenizer, device): {made}
    def __call__(self, batch, anchors, tokens, valid): {called}
"""


@pytest.mark.parametrize(
    ("made", "called", "message"),
    [
        ("pass", "return torch.ones(2)", r"must return \[B X D\] = \[2 3 D\], and returned \[2\]\."),
        ("pass", "return None", r"must return \[B X D\] = \[2 3 D\], and returned NoneType\."),
        ("pass", "return torch.full((*anchors.shape, 5), torch.inf)", r"of finite floating-point numbers"),
        ("pass", "return self.encoder(tokens)", r"failed: AttributeError: 'Phi' object has no attribute 'encoder'"),
        ("raise OSError('no weights')", "pass", r"cannot be built as Name\(tokenizer, device\): OSError: no weights"),
    ],
)
def test_a_feature_map_that_is_none(tmp_path: Path, made: str, called: str, message: str) -> None:
    name = f"phi_{abs(hash((made, called)))}.py"
    (tmp_path / name).write_text(PHI.format(made=made, called=called))
    config = miniature(tmp_path, "method=ebft", f"features.network={name}:Phi")
    with pytest.raises(UserError, match=message):
        gather(config)


def test_a_feature_map_must_be_called(tmp_path: Path) -> None:
    (tmp_path / "thing.py").write_text("class Phi: pass\n")
    with pytest.raises(UserError, match=r"is no class with __call__\(batch, anchors, tokens, valid\)"):
        gather(miniature(tmp_path, "method=ebft", "features.network=thing.py:Phi"))


METHOD = "name: mine\ncode: {code}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("class Mine: pass", r"method\.code=mine\d\.py:Mine has no Config that derives from OwnMethodConfig"),
        ("class Mine:\n    Config = dict", r"has no Config that derives from OwnMethodConfig"),
        (
            "from ebft.config.methods import OwnMethodConfig\nclass Mine:\n    Config = OwnMethodConfig",
            r"OwnMethodConfig does not say what it needs; give it a method `needs`",
        ),
    ],
)
def test_a_method_that_is_none(tmp_path: Path, source: str, message: str, request: pytest.FixtureRequest) -> None:
    name = f"mine{len(source) % 10}.py"
    (tmp_path / name).write_text(source + "\n")
    for group, text in {"method": METHOD.format(code=f"{name}:Mine"), "optimizer": "defaults: [sft, _self_]\n"}.items():
        (tmp_path / "own" / group).mkdir(parents=True)
        (tmp_path / "own" / group / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        miniature(tmp_path, f"--config-dir={tmp_path / 'own'}", "method=mine")


def mine(folder: Path, body: str) -> list[str]:
    """Overrides for a method like SFT with this body, and its YAML files."""
    name = f"body_{abs(hash(body))}.py"
    (folder / name).write_text(
        "from dataclasses import dataclass\nfrom ebft.config.methods import OwnMethodConfig\n"
        "from ebft.config.schema import Needs\nfrom ebft.methods.base import Loss\nfrom ebft.methods.sft import SFT\n"
        "@dataclass(frozen=True)\nclass Config(OwnMethodConfig):\n    def needs(self, sampler): return Needs()\n"
        f"class Mine(SFT):\n    Config = Config\n{body}\n"
    )
    for group, text in {"method": METHOD.format(code=f"{name}:Mine"), "optimizer": "defaults: [sft, _self_]\n"}.items():
        (folder / "own" / group).mkdir(parents=True, exist_ok=True)
        (folder / "own" / group / "mine.yaml").write_text(text)
    return [f"--config-dir={folder / 'own'}", "method=mine"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "    def counts(self, prepared): return {'targets': 3}",
            r"must give counts\['targets'\] as a tensor of no dim",
        ),
        (
            "    def losses(self, prepared, totals, max_tokens):\n"
            "        for loss in super().losses(prepared, totals, max_tokens): yield Loss(loss.total.detach(), {})",
            r"must yield Loss\(total, parts\) in losses, total a tensor of no dimensions with a gradient",
        ),
        (
            "    def prepare(self, batch, step, is_only_microbatch):\n        return self.nothing",
            r"in prepare\n.*method\.code=body_\d+\.py:Mine failed in prepare: AttributeError: .*nothing",
        ),
    ],
)
def test_a_method_that_fails_ends_with_its_own_traceback_and_one_sentence(
    tmp_path: Path, body: str, message: str
) -> None:
    config = miniature(tmp_path, *mine(tmp_path, body))
    with pytest.raises(RunFailure, match=f"(?s){message}"):
        train(config, tmp_path / "run")
    assert summary(tmp_path / "run")["status"] == "failed"


@pytest.mark.slow
def test_a_method_that_cannot_be_built(tmp_path: Path) -> None:
    overrides = mine(tmp_path, "    @classmethod\n    def of(cls, given): return given.reward")
    with pytest.raises(UserError, match=r"(?s)in of\n.*cannot be built by `of`: AttributeError: .*reward"):
        train(miniature(tmp_path, *overrides), tmp_path / "run")


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ({"rollouts": "completion"}, r"Needs\(rollouts='completion'\) is not one of none, blocks, completions\."),
        ({"rollouts": "completions"}, r"rollout_tokens=0\) does not fit together"),
        ({"rollout_tokens": 7}, r"Needs\(rollouts='none', rollout_tokens=7\) does not fit together"),
    ],
)
def test_needs_that_say_nothing(needs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Needs(**needs)


def test_a_method_without_optimizer_settings(tmp_path: Path) -> None:
    overrides = mine(tmp_path, "    pass")
    (tmp_path / "own" / "optimizer" / "mine.yaml").unlink()
    with pytest.raises(
        UserError, match=r"^method=mine has no optimizer/mine\.yaml beside its method/mine\.yaml; add one"
    ):
        miniature(tmp_path, *overrides)


def question(**row: object) -> Question:
    return Question("key", "twice 2 is", " 4", "row 7", row=row)


def test_a_function_is_a_task(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(
        "def near(prompt, completion, row): return 1 / (1 + abs(int(completion) - row['n']))\n"
    )
    task = OwnTask("task.py:near", "data.task")
    verdicts = task.verify_all([" 4", "7"], [question(n=4), question(n=5)])
    assert [(verdict.score, verdict.passed, verdict.kind) for verdict in verdicts] == [
        (1.0, True, "passed"),
        (1 / 3, False, "failed"),
    ]
    with pytest.raises(
        RunFailure, match=r"(?s)line 1, in near\n.*data\.task=task\.py:near failed on row 7: ValueError"
    ):
        task.verify("four", question(n=4))


@pytest.mark.parametrize("value", ["2.0", "-0.5", "float('nan')", "'high'", "None"])
def test_a_score_that_is_none(tmp_path: Path, value: str) -> None:
    name = f"score_{abs(hash(value))}.py"
    (tmp_path / name).write_text(f"def score(prompt, completion, row): return {value}\n")
    with pytest.raises(RunFailure, match=r"gave .* for row 7; a score is a number in \[0, 1\]\."):
        OwnTask(f"{name}:score", "data.task").verify("4", question())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("class Task: pass", r"has no method verify\(prompt, completion, row\)"),
        ("def Task(text): return 1.0", r"must take \(prompt, completion, row\) and give a score in \[0, 1\]"),
        (
            "class Task:\n    directions = {'x': 'up'}\n    def verify(self, p, c, r): return 1.0",
            r"has directions\['x'\] = 'up'; it is one of higher, lower, neither",
        ),
        ("Task = 7", r"is int; a task is a class or a function"),
        (
            "class Task:\n    def __init__(self): 1 / 0\n    def verify(self, p, c, r): return 1.0",
            r"cannot be built: Zero",
        ),
    ],
)
def test_a_task_that_is_none(tmp_path: Path, source: str, message: str) -> None:
    name = f"task_{abs(hash(source))}.py"
    (tmp_path / name).write_text(source + "\n")
    with pytest.raises(UserError, match=message):
        OwnTask(f"{name}:Task", "data.task")


def test_reference_answers_are_tried_before_weights_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "strict.py").write_text(
        "class Strict:\n    references_pass = True\n    def verify(self, p, c, r): return float('!' not in c)\n"
    )
    config = miniature(tmp_path, *pairs(tmp_path), "method=sft", "data.task=strict.py:Strict")
    with pytest.raises(UserError, match=r"6 of 6 reference answers fail their own tests: .*pairs\.jsonl:\d \(failed\)"):
        gather(config)


def test_a_task_sees_its_row_s_columns(tmp_path: Path) -> None:
    (tmp_path / "cells.py").write_text("def cells(p, c, row): return float(sorted(row) == ['completion', 'prompt'])\n")
    config = miniature(tmp_path, *pairs(tmp_path), "method=sft", "data.task=cells.py:cells")
    questions = gather(config).verification.validation
    assert questions is not None
    assert set(questions.items[0].row) == {"prompt", "completion"}


@pytest.mark.slow
def test_rows_of_a_function_that_fails(tmp_path: Path) -> None:
    (tmp_path / "rows.py").write_text(
        "def rows():\n    yield {'prompt': 'a', 'completion': 'b'}\n    raise KeyError('c')\n"
    )
    (tmp_path / "texts.py").write_text("def rows():\n    yield 'a'\n")
    (tmp_path / "lacking.py").write_text("def rows():\n    yield {'prompt': 'a'}\n")
    base = ["data=rows"]
    for name, message in {
        "rows": r"line 3, in rows\n.*data\.function=rows\.py:rows failed: KeyError: 'c'",
        "texts": r"data\.function=texts\.py:rows row 1 holds str, not an object of columns and cells",
        "lacking": r"data\.function=lacking\.py:rows row 1 has the columns prompt but not completion",
    }.items():
        config = compose([*base, f"data.function={name}.py:rows", "method=sft", "model=debug"])
        with pytest.raises(UserError, match=f"(?s){message}"):
            gather(config)


@pytest.mark.parametrize(
    ("group", "key"), [("data", "task"), ("data", "function"), ("features", "network"), ("data", "validation_function")]
)
def test_a_stranger_s_folder_opens_no_door(tmp_path: Path, group: str, key: str) -> None:
    """Evaluating it asks for the very words that would run its code; typed, they are the caller's."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").touch()
    config = {"model": "{path: tiny}", "data": "{source: rows}", "features": "{network: policy}"}
    config[group] = config[group].rstrip("}") + f", {key}: 'evil.py:Name'}}"
    (run / "config.yaml").write_text("".join(f"{name}: {value}\n" for name, value in config.items()))
    with pytest.raises(
        UserError, match=rf"names code to run, {group}\.{key}=evil\.py:Name; if you trust it, say so by"
    ):
        with_run([f"model.path={run}"])
    assert f"{group}.{key}=evil.py:Name" in with_run([f"model.path={run}", f"{group}.{key}=evil.py:Name"])
