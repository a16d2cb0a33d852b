"""Bad doors: one sentence that names file and expectation, before a folder or a step exists."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ebft.cli.compose import compose
from ebft.cli.eval import with_run
from ebft.cli.own import searchpath, with_config_dirs
from ebft.config import doors
from ebft.config.schema import Needs, RunFailure, UserError
from ebft.methods.base import Loss, Tally
from ebft.methods.own import OwnMethod
from ebft.tasks.base import Question
from ebft.tasks.own import OwnTask
from ebft.train.loop import train
from ebft.train.setup import gather
from tests.debug_run import miniature, pairs, summary
from tests.reference import batch_of

REWARDS = {
    "shape": (
        "def reward(e): return e.rollout.sum((1, 3))",
        r"must return \[B N K\] = \[2, 3, 5\], and returned \[2, 5\]",
    ),
    "none": ("def reward(e): pass", r"must return \[B N K\] = \[2, 3, 5\], and returned NoneType\."),
    "nan": (
        "def reward(e): return e.rollout[..., 0] * float('nan')",
        r"finite floating-point numbers, and returned NaN or infinity",
    ),
    "whole": ("def reward(e): return (e.rollout[..., 0] > 0).long()", r"numbers, and returned torch\.int64\."),
    "raises": ("def reward(e):\n    return e.rolout", r"line 2, in reward\n.*failed: AttributeError: .*rolout"),
    "device": (
        "def reward(e): return e.rollout[..., 0].to('meta')",
        r"failed: NotImplementedError: Cannot copy out of",
    ),
    "in place": ("def reward(e): return e.rollout.mul_(0)[..., 0]", r"writes into the embeddings that it is given"),
    "leaves": ("def reward(e): raise SystemExit(0)", r"line 1, in reward\n.*failed: SystemExit: 0\."),
    "left": ("def reward(e): pass\nexit(0)", r"line 2, in <module>\n.*cannot be loaded: SystemExit: 0\."),
    "class": ("class reward:\n    def __call__(self, e): pass", r"is a class; it must be a function of Embeddings\."),
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
        ("mine:reward", r"names a module that is not installed here; did you mean mine\.py:reward\?"),
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


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """As editors on Windows write it."""
    (tmp_path / "marked.py").write_text("\ufeffseven = 7\n", encoding="utf-8")
    assert doors.load("marked.py:seven", "key") == 7


def test_a_package_that_cannot_be_imported_is_not_called_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_package").mkdir()
    (tmp_path / "broken_package" / "__init__.py").write_text("import nowhere_to_be_found\n")
    (tmp_path / "broken_package" / "inner.py").write_text("seven = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"(?s)__init__\.py.*cannot be loaded: ModuleNotFoundError: .*nowhere_to_be_f"):
        doors.check("broken_package.inner:seven", "key")


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
        ("pass", "return torch.full((*anchors.shape, 5), torch.inf)", r"point numbers, and returned NaN or infinity"),
        ("pass", "return torch.ones(*anchors.shape, 5).long()", r"point numbers, and returned torch\.int64"),
        (
            "pass",
            "return torch.ones(*anchors.shape, 0)",
            r"must return \[B X D\] = \[2 3 D\], and returned \[2, 3, 0\]",
        ),
        (
            "pass",
            "return torch.ones(*anchors.shape, 5, device='meta')",
            r"failed: NotImplementedError: Cannot copy out",
        ),
        ("pass", "tokens[~valid] = 0; return torch.ones(*anchors.shape, 5)", r"writes into what it is given"),
        ("pass", "batch.tokens.zero_(); return torch.ones(*anchors.shape, 5)", r"writes into what it is given"),
        ("pass", "exit()", r"failed: SystemExit"),
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


MODULE = """
import torch
class Phi(torch.nn.Module):
    def __init__(self, tokenizer, device):
        super().__init__()
        self.table = torch.nn.Embedding(len(tokenizer), 5).to(device)
    def forward(self, batch, anchors, tokens, valid):
        return (self.table(tokens) * valid[..., None]).sum(-2)
"""


def test_a_feature_map_may_be_a_torch_module_whose_random_weights_are_those_of_every_run(tmp_path: Path) -> None:
    """A module has its __call__ from its base. Other weights after a resume, or in an evaluation, would be another
    feature map."""
    (tmp_path / "module.py").write_text(MODULE)
    networks = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        own = gather(miniature(tmp_path, "method=ebft", "features.network=module.py:Phi")).own_phi
        assert own is not None
        networks.append(own.own)
    assert torch.equal(networks[0].table.weight, networks[1].table.weight)


def test_a_feature_map_of_changing_width(tmp_path: Path) -> None:
    called = "self.n = getattr(self, 'n', 2) + 1; return torch.ones(*anchors.shape, self.n)"
    (tmp_path / "wide.py").write_text(PHI.format(made="pass", called=called))
    own = gather(miniature(tmp_path, "method=ebft", "features.network=wide.py:Phi")).own_phi
    assert own is not None
    with pytest.raises(UserError, match=r"with the same D every time, and returned D = 4 after 3\."):
        own._try(torch.device("cpu"))


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


LOSS = torch.ones((), requires_grad=True)
TALLY = Tally.of(torch.ones(2), torch.ones(2, dtype=torch.bool))


def with_parts(parts: Any) -> Loss:
    """Outside the tests nobody checks the types of what a user's own method builds."""
    loss = Loss(LOSS, {})
    object.__setattr__(loss, "parts", parts)
    return loss


@pytest.mark.parametrize(
    ("part", "returned", "message"),
    [
        ("counts", None, r"must return \{name: tensor of no dimensions\} from counts"),
        ("counts", {}, r"must return \{name: tensor of no dimensions\} from counts"),
        ("losses", None, r"must yield Loss\(total, parts\) in losses, total a tensor"),
        ("losses", [], r"must yield Loss\(total, parts\) in losses, total a tensor"),
        ("losses", [LOSS], r"must yield Loss\(total, parts\) in losses, total a tensor"),
        ("losses", [with_parts(None)], r"must yield Loss\(total, parts\) in losses, parts \{name: tensor of"),
        ("losses", [with_parts({"x": 1.0})], r"must yield Loss\(total, parts\) in losses, parts \{name: tensor of"),
        ("losses", [Loss(LOSS, {"loss": LOSS})], r"must call a part of its loss something other than loss"),
        ("row_tokens", None, r"must return a list of whole numbers from row_tokens, one for every row"),
        ("row_tokens", [5], r"must return a list of whole numbers from row_tokens, one for every row"),
        ("metrics", None, r"must return \{name: Tally\.of\(values, counted\)\} from metrics"),
        ("metrics", {"x": 1.0}, r"must return \{name: Tally\.of\(values, counted\)\} from metrics"),
        ("metrics", {"lr": TALLY}, r"must call a metric something other than lr, which is another figure"),
        ("metrics", {"part": TALLY}, r"must call a metric something other than part"),
    ],
)
def test_a_method_that_hands_on_something_else(part: str, returned: Any, message: str) -> None:
    class Own:
        def losses(self, *given: Any) -> Any:
            return [Loss(LOSS, {"part": LOSS})]

    own = Own()
    method = OwnMethod(own, "mine.py:Mine")
    list(method.losses(None, {}, None))
    setattr(own, part, lambda *given: returned)
    calls = {
        "counts": lambda: method.counts(None),
        "losses": lambda: list(method.losses(None, {}, None)),
        "row_tokens": lambda: method.row_tokens(batch_of([[0, 0], [0, 0]])),
        "metrics": lambda: method.metrics([]),
    }
    with pytest.raises(RunFailure, match=rf"^method\.code=mine\.py:Mine {message}"):
        calls[part]()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def needs(self, sampler): pass", r"needs\(sampler\) of its Config returned NoneType; it must return Needs"),
        ("def needs(self): return Needs()", r"failed in needs or conflicts of its Config: TypeError: "),
        ("def needs(self, sampler): return Needs(rollout=1)", r"failed in needs or conflicts of its Config: TypeError"),
        (
            "def conflicts(self, config): return config.nothing",
            r"(?s)in conflicts\n.*conflicts of its Config: AttributeE",
        ),
        ("scale: float", r"Own is no dataclass; put @dataclass\(frozen=True\) above it"),
    ],
)
def test_settings_of_a_method_that_say_nothing(tmp_path: Path, body: str, message: str) -> None:
    overrides = mine(
        tmp_path,
        f"    class Own(Config):\n        {body}\n    Config = dataclass(frozen=True)(Own)".replace(
            "dataclass(frozen=True)(Own)", "Own" if "scale" in body else "dataclass(frozen=True)(Own)"
        ),
    )
    with pytest.raises(UserError, match=message):
        miniature(tmp_path, *overrides)


def test_a_command_line_with_a_config_folder_keeps_hydra_s_flags(tmp_path: Path) -> None:
    """Behind --cfg job, Hydra's parser took the folder for nothing that it knew."""
    folder = f"--config-dir={tmp_path}"
    found = with_config_dirs([folder, "method=mine", "--cfg", "job"])
    assert found == [searchpath([f"file://{tmp_path}"]), "method=mine", "--cfg", "job"]
    assert with_config_dirs(["--cfg", "job", folder])[:2] == ["--cfg", "job"]


@pytest.mark.slow
def test_a_method_s_yaml_file_that_is_none(tmp_path: Path) -> None:
    overrides = mine(tmp_path, "    pass")
    (tmp_path / "own" / "method" / "mine.yaml").write_text("name: mine\n scale: [1\n")
    with pytest.raises(UserError, match=r"own/method/mine\.yaml, line 2, is not YAML: mapping values are not allowed"):
        miniature(tmp_path, *overrides)
    (tmp_path / "own" / "method" / "mine.yaml").write_text("name: mine\n")
    with pytest.raises(
        UserError, match=r"method\.name=mine is not one of .*; a method of your own says `code: file\.py"
    ):
        miniature(tmp_path, *overrides)


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


TASK = "class Task:\n    directions = {directions}\n    def verify(self, p, c, r): return 1.0\n"


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
    with pytest.raises(RunFailure, match=r"gave .* for row 7; a score is a plain number in \[0, 1\]\."):
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
        ("Task = max", r"must take \(prompt, completion, row\) and give a score in \[0, 1\]: no signature"),
        (TASK.format(directions=["x"]), r"has directions of type list; write \{name: one of higher, lower, neither\}"),
        (TASK.format(directions={"greedy": "lower"}), r"has directions\['greedy'\], which is a metric of every eval"),
        (TASK.format(directions={"pass@4": "higher"}), r"has directions\['pass@4'\]; a metric's name is one word"),
        (TASK.format(directions={"a/b": "higher"}), r"has directions\['a/b'\]; a metric's name is one word"),
        (
            TASK.format(directions={}) + "    def metrics(self, texts): return {}",
            r"must have metrics\(completions, rows\): too many positional arguments",
        ),
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


def test_metrics_of_a_task_that_forgets_to_return_them(tmp_path: Path) -> None:
    (tmp_path / "forgets.py").write_text(TASK.format(directions={}) + "    def metrics(self, texts, rows): pass\n")
    with pytest.raises(RunFailure, match=r"forgets\.py:Task returned NoneType from metrics, not \{name: number\}\."):
        OwnTask("forgets.py:Task", "data.task").metrics([], [])


def test_a_score_may_be_numpy_s(tmp_path: Path) -> None:
    (tmp_path / "of_numpy.py").write_text("import numpy\ndef score(p, c, r): return numpy.float32(0.5)\n")
    assert OwnTask("of_numpy.py:score", "data.task").verify("4", question()).score == 0.5


@pytest.mark.slow
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
    (tmp_path / "nothing.py").write_text("def rows(): pass\n")
    (tmp_path / "lacking.py").write_text("def rows():\n    yield {'prompt': 'a'}\n")
    base = ["data=rows"]
    for name, message in {
        "rows": r"line 3, in rows\n.*data\.function=rows\.py:rows failed: KeyError: 'c'",
        "texts": r"data\.function=texts\.py:rows row 1 holds str, not an object of columns and cells",
        "nothing": r"data\.function=nothing\.py:rows returned NoneType; it must yield rows\.",
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
