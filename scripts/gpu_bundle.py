"""What a machine with a GPU, but without a network, lacks to run `gpu_check.py`: packages unpacked side by side, and a
runner. `make gpu-bundle` leaves them in .gpu-bundle/, which git ignores; docs/gpu.md says how they travel.

The packages are those of this environment's versions, for the Python and the architecture of that machine. Left out is
what nothing there reads: W&B's binaries (the runs there have no tracker), bitsandbytes' libraries for other versions of
CUDA.
"""

import argparse
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "hydra-core", "omegaconf", "datasets", "wandb", "dill", "multiprocess", "beartype", "jaxtyping",
    "sacrebleu", "portalocker", "rich", "bitsandbytes", "gguf",
)  # fmt: skip
PURE = ("antlr4-python3-runtime",)  # a source archive alone, built here
NEWEST = ("liger-kernel",)  # not in this environment
PYTHON = "3.12"
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 27, 28)] + ["manylinux2014_x86_64"]
UNUSED = ("wandb/bin/*", "bitsandbytes/libbitsandbytes_*.so", "**/__pycache__", "**/*.pyi", "bin", "*.dist-info/RECORD")
USED = ("libbitsandbytes_cuda130.so", "libbitsandbytes_cpu.so")
LIMIT, PART = 20 * 2**20, 40 * 10**6
RUNNER = """#!/bin/bash
# Unpacks the packages, runs scripts/gpu_check.py with the arguments given, and leaves its results in $OUT/gpu.tgz.
cd "$(dirname "$0")/.." || exit
site=/tmp/ebft-site results=/tmp/ebft-gpu
if [ ! -d "$site" ]; then mkdir -p "$site" && tar xzf .gpu-bundle/site.tgz -C "$site" || exit; fi
if [ ! -e ebft/conf ]; then ln -s ../conf ebft/conf; fi
mkdir -p "$results"
export PYTHONPATH="$site:$PWD" EBFT_CACHE= WANDB_MODE=disabled HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
python3 scripts/gpu_check.py --out "$results" "$@"
status=$?
tar czf "${OUT:-.}/gpu.tgz" -C "$results" .
exit $status
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / ".gpu-bundle", help="the folder to fill")
    parser.add_argument(
        "--weights", type=Path, nargs=2, metavar=("GGUF", "MBPP"), help="fill .gpu-weights/ instead, for the stage real"
    )
    arguments = parser.parse_args()
    if arguments.weights is not None:
        weights, data = arguments.weights
        divide(weights, data, ROOT / ".gpu-weights")
        return
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        unpack(site)
        prune(site)
        with tarfile.open(out / "site.tgz", "w:gz", compresslevel=9) as archive:
            archive.add(site, arcname=".")
    runner = out / "run.sh"
    runner.write_text(RUNNER, encoding="utf-8")
    runner.chmod(0o755)
    size = sum(file.stat().st_size for file in out.iterdir())
    print(f"{out}: {size / 2**20:.1f} MiB")
    if size > LIMIT:
        sys.exit(f"{out} is over the {LIMIT / 2**20:.0f} MiB that travel quickly; leave out more in {__file__}.")


def divide(weights: Path, data: Path, out: Path) -> None:
    """A weights file in parts that travel one or two at a time, and the data beside them."""
    for file in (weights, data):
        if not file.is_file():
            sys.exit(f"--weights: {file} is no file; name a GGUF file and mbpp.jsonl.gz.")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    shutil.copy(data, out / "mbpp.jsonl.gz")
    with open(weights, "rb") as whole:
        for number in range(100):
            part = whole.read(PART)
            if not part:
                break
            (out / f"part.{number:02d}").write_bytes(part)
    print(*(f"{file}: {file.stat().st_size / 2**20:.1f} MiB" for file in sorted(out.iterdir())), sep="\n")


def unpack(site: Path) -> None:
    foreign = ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"]
    for platform in PLATFORMS:
        foreign += ["--platform", platform]
    pip("--target", str(site), *foreign, *map(pinned, PACKAGES), *NEWEST)
    pip("--target", str(site), "--upgrade", *map(pinned, PURE))


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    subprocess.run([*command, "--disable-pip-version-check", *arguments], check=True)


def pinned(package: str) -> str:
    try:
        return f"{package}=={version(package)}"
    except PackageNotFoundError:
        sys.exit(f"{package} is not installed here; run make env first.")


def prune(site: Path) -> None:
    for pattern in UNUSED:
        for path in list(site.glob(pattern)):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in USED:
                path.unlink()


if __name__ == "__main__":
    main()
