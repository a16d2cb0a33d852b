"""What a run ran on and as: the facts of `environment.json`."""

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ebft.output.masking import command_line

LIBRARIES = (
    "ebft",
    "torch",
    "transformers",
    "hydra-core",
    "omegaconf",
    "datasets",
    "safetensors",
    "numpy",
    "wandb",
    "rich",
    "matplotlib",
)


def environment(device: str) -> dict[str, Any]:
    """`device` is trainer.device. `ebft_git` is the program's commit, `folder_git` that of the folder where it was
    started."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "ebft_git": _own_commit(),
        "folder_git": _commit(Path.cwd()),
        "device": torch.cuda.get_device_name() if device != "cpu" and torch.cuda.is_available() else _cpu_name(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "command": command_line(),
    }


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _commit(folder: Path) -> dict[str, Any] | None:
    """Commit of the repository that a folder is in, and whether tracked files differ from it; None where it is in
    none."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit.strip(), "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _own_commit() -> dict[str, Any] | None:
    """That of ebft; None for a package that is installed, maybe below a repository of somebody else's."""
    package = Path(__file__).parent
    return _commit(package) if _git(package, "ls-files", "--error-unmatch", Path(__file__).name) else None


def _git(folder: Path, *command: str) -> str | None:
    """What git says there; None where it refuses, or is not installed."""
    if shutil.which("git") is None:
        return None
    done = subprocess.run(["git", *command], capture_output=True, text=True, check=False, cwd=folder)
    return done.stdout if done.returncode == 0 else None


def _cpu_name() -> str:
    """The processor's own name, which Python knows on no system."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def multiplies_bf16() -> bool:
    """Whether the processor has instructions for products of bfloat16. False where the system does not say."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def _cpuinfo(entry: str) -> str:
    """The first processor's value in the file that Linux writes; empty where there is none."""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith(entry):
                    return line.partition(":")[2].strip()
    return ""
