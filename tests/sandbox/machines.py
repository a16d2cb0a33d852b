"""Where the attack suite runs: in this process, or in another that has less to offer. Each place runs a batch of
programs."""

import os
import pickle
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ebft.sandbox import Program, ProgramResult
from tests.sandbox.helpers import CONFIG

ROOT = Path(__file__).parents[2]
NOBODY = 65534
_MAIN = "from tests.sandbox.elsewhere import main; main()"


@dataclass(frozen=True)
class Place:
    level: str  # that it is there to try
    other_user: bool = False  # as nobody
    denied: bool = False  # namespaces refused by the kernel


PLACES = {
    "this user": Place("namespaces"),
    "this user, namespaces denied": Place("landlock", denied=True),
    "nobody": Place("namespaces", other_user=True),
    "nobody, namespaces denied": Place("landlock", other_user=True, denied=True),
}


def run(place: Place, programs: dict[str, Program], **changes: float) -> dict[str, ProgramResult]:
    """What becomes of each program there. Skips where this machine does not offer the place."""
    if place.other_user and os.geteuid() != 0:
        pytest.skip("only root can become another user")
    command = [readable_interpreter() if place.other_user else sys.executable, "-c", _MAIN]
    given = pickle.dumps((replace(CONFIG, **changes), list(programs.values()), place.denied))
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        environment = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": folder}
        done = subprocess.run(
            command,
            input=given,
            stdout=subprocess.PIPE,
            env=environment,
            cwd="/",
            check=True,
            **_identity(place.other_user),
        )
        assert os.listdir(folder) == [], "left behind"
    level, outcomes = pickle.loads(done.stdout)
    if level != place.level:
        pytest.skip(f"this machine reaches {level} here, not {place.level}")
    return dict(zip(programs, outcomes, strict=True))


def _identity(other_user: bool) -> dict[str, Any]:
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if other_user else {}


@cache
def readable_interpreter() -> str:
    """One that nobody may run, and that finds the package. The interpreter of an environment under /root is none."""
    program = "import sys; assert sys.version_info >= (3, 11); import ebft.config"
    for candidate in (sys.executable, "/usr/local/bin/python3", "/usr/bin/python3"):
        try:
            subprocess.run(
                [candidate, "-c", program],
                env={"PYTHONPATH": str(ROOT)},
                cwd="/",
                check=True,
                stderr=subprocess.DEVNULL,
                **_identity(True),
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return candidate
    pytest.skip("no interpreter from 3.11 here can be run, with this repository, by the user nobody")
