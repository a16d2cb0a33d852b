"""What a run ran on and as: the facts of `environment.json`."""

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
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
    """`device` is trainer.device."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "git": _git(),
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


def _git() -> dict[str, Any] | None:
    """Commit of the working directory and whether tracked files differ from it; None outside a repository."""
    if shutil.which("git") is None:
        return None
    commit, status = (
        subprocess.run(["git", *command], capture_output=True, text=True, check=False)
        for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
    )
    return {"commit": commit.stdout.strip(), "dirty": bool(status.stdout)} if commit.returncode == 0 else None


def _cpu_name() -> str:
    """The processor's own name, which Python knows on no system and Linux writes into a file."""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
