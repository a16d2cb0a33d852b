"""Runs whose disk fails under them, on file systems of this process's own: `python -m tests.train.failing_storage
FOLDER` says as JSON how each run ended, and leaves what came of it in FOLDER.

Without the right to mount it ends with exit code NO_MOUNTS.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebft.sandbox import kernel

NO_MOUNTS = 77
AT_STEP = 5  # between the checkpoints at 4 and 8
DISK_BYTES = 8 << 20
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 1, 32, 1 << 12, 1 << 14, 1 << 18, 2


def mount(source: Path | str, target: Path | str, flags: int, kind: str = "", options: str = "") -> None:
    kernel.call("mount", str(source).encode(), str(target).encode(), kind.encode(), flags, options.encode())


def unmount(target: Path) -> None:
    kernel.call("umount2", str(target).encode(), MNT_DETACH)


def own_mounts() -> None:
    """OSError where the system refuses."""
    user, group = os.geteuid(), os.getegid()
    kernel.call("unshare", kernel.CLONE_NEWNS | (kernel.CLONE_NEWUSER if user else 0))
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    mount("none", "/", MS_REC | MS_PRIVATE)


@dataclass
class Disk:
    """A small file system at `path`, which can fail and be put right."""

    path: Path

    def __post_init__(self) -> None:
        self.behind = self.path.with_name(f"{self.path.name}_behind")
        for folder in (self.path, self.behind):
            folder.mkdir()
        mount("tmpfs", self.behind, 0, "tmpfs", f"size={DISK_BYTES}")
        mount(self.behind, self.path, MS_BIND)

    def fill(self) -> None:
        with suppress(OSError), (self.behind / "filler").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    def empty(self) -> None:
        (self.behind / "filler").unlink()

    def freeze(self) -> None:
        mount(self.behind, self.path, MS_BIND)
        mount(self.behind, self.path, MS_BIND | MS_REMOUNT | MS_RDONLY)

    def thaw(self) -> None:
        unmount(self.path)

    def vanish(self) -> None:
        unmount(self.path)

    def return_(self) -> None:
        mount(self.behind, self.path, MS_BIND)


FAULTS: dict[str, tuple[Callable[[Disk], None], Callable[[Disk], None]]] = {
    "fills": (Disk.fill, Disk.empty),
    "turns read-only": (Disk.freeze, Disk.thaw),
    "disappears": (Disk.vanish, Disk.return_),
}


@contextmanager
def at_step(step: int, act: Callable[[], None]) -> Iterator[None]:
    """Something that happens before a step's row is written."""
    import pytest

    from ebft.run.folder import Run

    original = Run.log

    def log(self: Run, number: int, metrics: Any) -> None:
        if number == step:
            act()
        original(self, number, metrics)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Run, "log", log)
        yield


def main() -> None:
    try:
        own_mounts()
    except OSError:
        sys.exit(NO_MOUNTS)
    from ebft.output.files import WriteFailure
    from ebft.train.loop import train
    from tests.debug_run import assert_same_run, miniature, without_report

    folder = Path(sys.argv[1])
    config, said = miniature(folder, "method=sft"), {}
    with without_report():
        train(config, folder / "straight")
        for name, (break_it, mend) in FAULTS.items():
            disk = Disk(folder / name.replace(" ", "_"))
            run = disk.path / "run"
            with at_step(AT_STEP, lambda disk=disk, break_it=break_it: break_it(disk)):  # type: ignore[misc]
                try:
                    train(config, run)
                except WriteFailure as failure:
                    said[name] = str(failure)
            mend(disk)
            assert train(config, run) == "completed"
            assert_same_run(run, folder / "straight")
    print(f"\n{json.dumps(said)}")


if __name__ == "__main__":
    main()
