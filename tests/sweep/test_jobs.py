"""Names of runs, and what a sweep's folder keeps of its plan."""

import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ebft.cli.compose import compose
from ebft.config.identity import CHANGEABLE_KEYS, LENGTH_KEYS, flat
from ebft.config.quoting import quoted
from ebft.config.schema import TrainConfig, UserError
from ebft.sweep.jobs import Job, Manifest, check_folder, name_of, read_manifest, settings_of, write_manifest

OVERRIDES = [
    "method=ebft",
    "data=jsonl",
    "data.path=rows.jsonl",
    "tracker=wandb",
    "seed=3",
    "model/adapter=lora",
    "model.adapter.targets=[q_proj]",
]
CONFIG = compose(OVERRIDES)
NAME = name_of(settings_of(CONFIG, "tiny"))
SOMETHING_ELSE = {str: "else", int: 10007, float: 0.10007, list[str]: ["else"]}


def changed(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key below a node, with a node that differs in it alone, whether or not that config could run."""
    for item in fields(node):
        value, name = getattr(node, item.name), f"{prefix}{item.name}"
        inside = changed(value, f"{name}.") if is_dataclass(value) else [(name, other_than(value, item.type))]
        yield from ((key, replace(node, **{item.name: other})) for key, other in inside)


def other_than(value: Any, annotation: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return [*value, *value] or ["else"]
    if isinstance(value, dict):
        return value | {"else": 1}
    return next(
        SOMETHING_ELSE[kind] for kind in (typing.get_args(annotation) or [annotation]) if kind in SOMETHING_ELSE
    )


def may_change(key: str) -> bool:
    """As a slow twin of what jobs.py does: where and how a run is computed, but not how long it is."""
    return key not in LENGTH_KEYS and any(
        key.split(".")[: len(kept.split("."))] == kept.split(".") for kept in CHANGEABLE_KEYS
    )


CHANGED: dict[str, TrainConfig] = dict(changed(CONFIG))


@pytest.mark.parametrize("key", CHANGED)
def test_a_name_changes_with_every_key_but_those_of_where_and_how(key: str) -> None:
    """model.path is given apart, since it may lie in the sweep's own folder."""
    assert (name_of(settings_of(CHANGED[key], "tiny")) == NAME) == (may_change(key) or key == "model.path")


def test_every_key_is_among_them() -> None:
    """The keys of dicts aside; and of them, these alone may change."""
    assert {key.split(".parts.")[0] for key in flat(asdict(CONFIG))} <= {*CHANGED, "model.config_overrides"}
    free = [key for key in CHANGED if may_change(key)]
    assert "trainer.dtype" not in free
    assert {"resume", "tracker.project", "trainer.device", "trainer.micro_batch_size", "eval.micro_batch_size"} <= {
        *free
    }
    assert not {*LENGTH_KEYS} & {*free}


def test_a_name_says_method_and_data_and_knows_the_model() -> None:
    assert NAME.startswith("ebft-jsonl-")
    assert len(NAME) == len("ebft-jsonl-") + 12
    assert name_of(settings_of(CONFIG, "run:sft-jsonl-0123456789ab")) != NAME


@pytest.mark.slow
def test_a_name_is_the_same_in_every_process() -> None:
    """Whatever the hash seed."""
    imports = "from ebft.cli.compose import compose\nfrom ebft.sweep.jobs import name_of, settings_of\n"
    program = f"{imports}print(name_of(settings_of(compose({OVERRIDES}), 'tiny')))"
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        )
        assert done.stdout == NAME + "\n"


def test_a_secret_is_not_part_of_a_name() -> None:
    """What without_secrets hides in a run folder is not in a hash either: renewing it must not make other runs."""
    with_token = [
        replace(CONFIG, data=replace(CONFIG.data, path=f"https://me:{word}@example.org/rows"))
        for word in ("one", "two")
    ]
    assert name_of(settings_of(with_token[0], "tiny")) == name_of(settings_of(with_token[1], "tiny")) != NAME


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "/plain/a",
        "/two words/it's, [c], {d}/a=b",
        '/"quoted"/a',
        "/back\\slash/a",
        "/two\\\\/a",
        "/ends\\",
        '/both\\"/a',
        "/${HOME}/a",
        "/escaped\\${HOME}/a",
        "/$HOME/$",
        "",
        "null",
        "1",
    ],
)
def test_any_text_is_a_value_of_an_override(text: str) -> None:
    """A sweep.dir with a backslash once led to another folder, one with a dollar sign to none."""
    assert compose([f"model.path={quoted(text)}"]).model.path == text


# sweep.json

JOBS = (
    Job("sft-a", "warm", {"method": "sft", "seed": "0"}, 0, ("method=sft", "seed=0")),
    Job("ebft-b", "on", {"seed": "1"}, 1, ('model.path="/x y/runs/sft-a/model"', "seed=1"), needs="sft-a"),
    Job("ebft-c", "", {"optimizer.lr": "0.0001"}, 2, ("optimizer.lr=0.0001",), trial=7),
)


def test_a_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    manifest = Manifest({"sweep.name": "é", "sweep.reported": {"a": {"b": 1.5}}}, ("optimizer.lr=interval(1,2)",), JOBS)
    write_manifest(tmp_path, replace(manifest, jobs=tuple(replace(job, config=CONFIG) for job in JOBS)))
    assert read_manifest(tmp_path) == manifest
    assert all(job.config is None for job in manifest.jobs)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]


def test_a_manifest_keeps_no_secrets(tmp_path: Path) -> None:
    write_manifest(tmp_path, Manifest({}, (), (replace(JOBS[0], overrides=("data.path=https://me:hu@sh@host/x",)),)))
    assert "hu@sh" not in (tmp_path / "sweep.json").read_text()


def test_no_manifest_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert read_manifest(tmp_path) is None
    assert read_manifest(tmp_path / "absent") is None
    assert read_manifest(tmp_path / "file") is None


JOB = '{"name": "a", "variant": "", "keys": {}, "seed": 0, "overrides": []'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "3",
        "{}",
        '{"runs": []}',
        '{"settings": {}, "search": [], "runs": 3}',
        '{"settings": {}, "search": [], "runs": [3]}',
        '{"settings": {}, "search": null, "runs": []}',
        f'{{"settings": {{}}, "search": [], "runs": [{JOB.replace("[]", "3")}}}]}}',
        f'{{"settings": {{}}, "search": [], "runs": [{JOB}, "colour": "red"}}]}}',
        '{"settings": {}, "search": [], "runs": [{"overrides": []}]}',
        '{"settings": [], "search": [], "runs": []}',
        '{"settings": {}, "search": [1], "runs": []}',
        *(
            f'{{"settings": {{}}, "search": [], "runs": [{JOB.replace(there, here)}}}]}}'
            for there, here in {
                '"a"': '"../../../home/me"',
                '"name": "a"': '"name": ".."',
                '"seed": 0': '"seed": "0", "needs": null',
                "[]": '[], "needs": "/etc"',
                '"keys": {}': '"keys": {"seed": 0}',
                '"variant": ""': '"variant": null',
                '"name": "': f'"name": "{"x" * 250}',
                '"seed": 0,': '"seed": 0, "settings": [],',
            }.items()
        ),
        "[" * 100_000,
        f'{{"settings": {{"sweep.name": {"[" * 50}{"]" * 50}}}, "search": [], "runs": []}}',
    ],
)
def test_a_manifest_that_is_not_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "sweep.json").write_text(text)
    sentence = rf"^{tmp_path}/sweep\.json is not a manifest of this version of ebft-sweep; choose another sweep\.dir\.$"
    with pytest.raises(UserError, match=sentence):
        read_manifest(tmp_path)


def test_a_manifest_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not a manifest of this version"):
        read_manifest(tmp_path)


def test_hidden_files_do_not_make_a_folder_another_s(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").touch()
    assert check_folder(tmp_path, JOBS) is None
    assert check_folder(tmp_path / "absent", JOBS) is None


def test_a_folder_of_fewer_of_the_same_runs_is_this_sweep_s(tmp_path: Path) -> None:
    stored = Manifest({}, (), JOBS[:2])
    write_manifest(tmp_path, stored)
    assert check_folder(tmp_path, JOBS) == stored
    with pytest.raises(
        UserError, match=r"1 of its 2 runs are not in this one, such as method=sft seed=0; choose another sweep\.dir\.$"
    ):
        check_folder(tmp_path, JOBS[1:])


def test_a_sweep_s_folder_has_a_name_that_can_be_shown(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^sweep\.dir=.* control characters in its name"):
        check_folder(tmp_path / "a\x1b", JOBS)


def test_a_search_is_told_from_another_by_its_axes(tmp_path: Path) -> None:
    stored = Manifest({}, ("optimizer.lr=interval(1,2)", "seed=0"), JOBS[2:])
    write_manifest(tmp_path, stored)
    assert check_folder(tmp_path, (), ["optimizer.lr=interval(1,2)", "seed=0"]) == stored
    for other in ((), ["optimizer.lr=interval(1,2)"], ["optimizer.lr=interval(1,3)", "seed=0"]):
        with pytest.raises(
            UserError,
            match=r"holds another sweep \(optimizer\.lr=interval\(1,2\) seed=0 there\); choose another sweep\.dir\.$",
        ):
            check_folder(tmp_path, (), other)


@pytest.mark.parametrize("name", ["runs", "locks", "records", "sweep.json", "sweep.log", ".comparison.lock"])
def test_a_sweep_s_folder_with_links_in_it_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"sweep/{re.escape(name)} is a link, and nothing is written through it"):
        check_folder(tmp_path / "sweep", JOBS)
