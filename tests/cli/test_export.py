"""`ebft-export`: nothing is sent before it was said."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError

from ebft.cli.export import Export, asked, export
from ebft.config.schema import RunFailure, UserError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    (model.parent / "config.yaml").write_text("seed: 0\n")
    (model / "config.json").write_text("{}")
    (model / "README.md").write_text(
        "---\nbase_model: tiny\n---\nPost-trained\x1b[2J\nfor 3 steps.\n\n| a table | of many lines |\n"
    )
    return model.parent


class Hub:
    """The hub's side, which keeps what it is asked, and fails with `error`."""

    calls: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012
    error: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        def called(*names: str, **settings: Any) -> None:
            if Hub.error is not None:
                raise Hub.error
            Hub.calls.append((name, dict(zip(("repo_id",), names, strict=False)) | settings))

        return called


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    Hub.calls, Hub.error = [], None
    return Hub


def test_a_push_is_said_and_not_made(run: Path, hub: type[Hub], capsys: pytest.CaptureFixture[str]) -> None:
    export(Export(run, hub="me/it"))
    out = capsys.readouterr().out
    assert out.splitlines()[:2] == [
        f"{run}/model: README.md, config.json; 0.0 MB",
        f"{run}/model/README.md, its card: Post-trained\\x1b[2J for 3 steps.",  # a card may be anybody's
    ]
    assert "hub=me/it: would push these files and training_config.yaml, private where the repository is new" in out
    assert hub.calls == []


def test_without_a_target_it_says_what_there_is_to_do(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(Export(run))
    assert capsys.readouterr().out.endswith(
        "\nAdd hub=USER/MODEL to see what would be pushed to the hub, or gguf=FILE to write a file for llama.cpp.\n"
    )


def test_a_push_sends_the_model_and_the_configuration(run: Path, hub: type[Hub]) -> None:
    export(asked([str(run), "hub=me/it", "dry_run=false", "private=false"]))
    assert hub.calls == [
        ("create_repo", {"repo_id": "me/it", "private": False, "exist_ok": True}),
        ("upload_folder", {"repo_id": "me/it", "folder_path": run / "model"}),
        (
            "upload_file",
            {"repo_id": "me/it", "path_or_fileobj": run / "config.yaml", "path_in_repo": "training_config.yaml"},
        ),
    ]


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (HFValidationError("a"), UserError, "hub=me/it is no name of a repository; write user/model."),
        (LocalTokenNotFoundError("a"), UserError, "hub=me/it needs your token; run hf auth login, or set HF_TOKEN."),
        (ConnectionError("no network\nat all"), RunFailure, "hub=me/it was not pushed (no network)."),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(
    run: Path, hub: type[Hub], error: Exception, kind: type[Exception], sentence: str
) -> None:
    hub.error = error
    with pytest.raises(kind) as refused:
        export(Export(run, hub="me/it", dry_run="false"))
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "ebft-export takes one run folder, as in ebft-export outputs/mine hub=NAME."),
        (["run", "hubs=x"], "hubs is not a key of ebft-export; did you mean hub?"),
        (["run", "dry_run=no"], "dry_run=no is not one of true, false."),
        (
            ["run", "-x"],
            "-x is not a key of ebft-export; there are hub, gguf, which, dry_run, private.",
        ),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        asked(arguments)
    assert str(refused.value) == sentence


def test_a_folder_without_a_model_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no model/ of ebft-train; name a finished run\.$"):
        export(Export(tmp_path))
    with pytest.raises(UserError, match=r"has no best_model/ of ebft-train; name a run that trainer\.keep_best kept"):
        export(Export(run, which="best"))


@pytest.mark.parametrize("name", ["../../x", "..", "a/b/c"])
def test_a_name_that_is_none_is_refused_before_anything_is_said(
    run: Path, hub: type[Hub], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    with pytest.raises(UserError) as refused:
        export(Export(run, hub=name))
    assert str(refused.value) == f"hub={name} is no name of a repository; write user/model."
    assert capsys.readouterr().out == ""


def test_what_is_there_stays(run: Path, tmp_path: Path) -> None:
    """A file of the user's, a link, a folder, a device; and a folder that is not there is said before a model loads."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for file in (tmp_path / "file", tmp_path / "link", tmp_path, Path("/dev/null")):
        with pytest.raises(UserError) as refused:
            export(Export(run, gguf=str(file)))
        assert str(refused.value) == f"gguf={file} is there already; remove it, or choose another name."
    with pytest.raises(UserError, match=r"lies in no folder; make .*/no, or choose another name\.$"):
        export(Export(run, gguf=str(tmp_path / "no" / "x.gguf")))
    with pytest.raises(UserError, match=r"^gguf=.* control characters in its name"):
        export(Export(run, gguf=str(tmp_path / "\udcff.gguf")))
    assert (tmp_path / "file").read_text() == "mine"
    assert Path("/dev/null").is_char_device()


def _link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


@pytest.mark.parametrize("make", [_link, os.mkfifo, Path.mkdir])
@pytest.mark.parametrize("name", ["README.md", "more"])
def test_nothing_but_files_of_the_folder_goes_out(
    run: Path, hub: type[Hub], name: str, make: Callable[[Path], None]
) -> None:
    (run / "model" / "README.md").rename(run / "model" / "other.md")
    make(run / "model" / name)
    with pytest.raises(UserError) as refused:
        export(Export(run, hub="me/it", dry_run="false"))
    assert str(refused.value) == f"{run / 'model' / name} is no file of its own, and nothing else goes out; remove it."
    assert hub.calls == []


def test_a_card_that_is_no_text_and_a_config_that_is_none(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "model" / "README.md").write_bytes(b"---\n---\nword\xff\n")
    export(Export(run))
    assert "word\ufffd" in capsys.readouterr().out
    (run / "config.yaml").write_text("[]")
    with pytest.raises(UserError, match=r"config\.yaml is not a config of ebft; name a finished run\.$"):
        export(Export(run))
