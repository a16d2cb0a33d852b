"""The wheel and the sdist, built, and each installed into an environment of its own, whose commands are started in an
empty folder. What ebft depends on comes from the environment that this runs in; ebft itself from the package alone.

python scripts/check_package.py
"""

import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
COMMANDS = {  # by the end of a package's name
    ".whl": [
        "ebft-train +experiment=smoke hydra.run.dir=run",
        "ebft-export run",
        "ebft-sweep --cfg job",
        "ebft-eval --help",
    ],
    ".gz": ["ebft-train --cfg job"],
}


def main() -> None:
    shutil.rmtree(DIST, ignore_errors=True)
    run([sys.executable, "-m", "build", "--no-isolation", str(ROOT)], ROOT)
    for package in sorted(DIST.iterdir()):
        with tempfile.TemporaryDirectory() as folder:
            check(package, Path(folder))
        print(f"{package.name}: installed, and every command runs from an empty folder")


def check(package: Path, folder: Path) -> None:
    """Raises CalledProcessError for what fails, and AssertionError where another ebft was run."""
    environment, empty = folder / "environment", folder / "empty"
    empty.mkdir()
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    # a folder that a .pth file names is searched, while .pth files in it, as that of an editable ebft, are not read
    paths = [path for path in sys.path if path.endswith("site-packages")]
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in paths))
    run(
        [python, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools"], empty
    )  # Python 3.11's own, which is too old
    run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", package], empty)
    found = subprocess.run(
        [python, "-c", "import ebft; print(ebft.__file__)"], cwd=empty, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()).is_relative_to(environment), found.stdout
    for command in COMMANDS[package.suffix]:
        program, *arguments = command.split()
        run([environment / "bin" / program, *arguments], empty)


def run(command: list[str | Path], folder: Path) -> None:
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")


if __name__ == "__main__":
    main()
