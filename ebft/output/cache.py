"""What may be kept on this machine between runs, and can be thrown away at any time."""

import os
from pathlib import Path


def folder(name: str) -> Path | None:
    """~/.cache/ebft/NAME, or in the folder that the environment's EBFT_CACHE names; None where that is empty."""
    root = os.environ.get("EBFT_CACHE", str(Path.home() / ".cache" / "ebft"))
    return Path(root) / name if root else None


def is_own(path: Path) -> bool:
    """Whether there is a file that this user has put there: a result of somebody else's is not taken on trust, and is
    found anew."""
    return path.is_file() and path.stat().st_uid == os.geteuid()
