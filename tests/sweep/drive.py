"""A sweep of stand-ins in a process of its own, so that tests can kill it.

    python -m tests.sweep.drive FOLDER SETTINGS

SETTINGS is JSON: `jobs`, a list of {name, variant, seed, overrides, needs}, `slots`, and fields of the sweep's config.
"""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from ebft.config.sweeps import LocalLauncherConfig
from ebft.sweep import attempt, launchers, runner
from ebft.sweep.jobs import Job
from ebft.sweep.runner import GridSource, SweepRunner
from tests.sweep.helpers import GRID

attempt.CHILD = "tests.sweep.stand_in"
runner.POLL_SECONDS, runner.SECONDS_BETWEEN_LOOKS = 0.01, 0.1  # steps of a stand-in take a twentieth of a second


def main() -> None:
    folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    jobs = [Job(**(job | {"overrides": tuple(job["overrides"])})) for job in settings.pop("jobs")]
    launcher = launchers.build(LocalLauncherConfig("local", settings.pop("slots"), 1, 1), folder)
    config = replace(GRID, dir=str(folder), **settings)
    say, keep = partial(print, flush=True), lambda jobs: None
    sweep = SweepRunner(folder, config, launcher, GridSource(jobs), keep, say)
    ended = sweep.run()
    print(json.dumps({name: [known.kind, known.note] for name, known in ended.items()}))
    sys.exit(130 if sweep.stop_requests else 0)


if __name__ == "__main__":
    main()
