"""Verified programs a second at the strongest confinement that this machine reaches.

    python scripts/benchmark_sandbox.py                      # some ten seconds on two cores
    python scripts/benchmark_sandbox.py --programs 400 --workers 4

Every program sorts a list and is judged by five tests: cases, whose results are compared outside its process, or
asserts, which run in a second process. `one hanging` puts an endless loop first in the batch, whose time limit is two
seconds.
"""

import argparse
import os
import time

from ebft.config.schema import SandboxConfig
from ebft.sandbox import Case, Program, Sandbox, Tests

LIMIT_SECONDS = 2.0
SOURCE = "def f(values):\n    return sorted(values)\n"
CASES = Tests("f", cases=tuple(Case(([3, number, 1],), [1, 3, number]) for number in range(4, 9)))
CODE = Tests("f", code="\n".join(f"assert f([3, {number}, 1]) == [1, 3, {number}]" for number in range(4, 9)))
HANGING = Program("def f(values):\n    while True:\n        pass\n", CASES)
BATCHES = {
    "cases": (CASES, []),
    "cases, one hanging": (CASES, [HANGING]),
    "asserts": (CODE, []),
    "asserts, one hanging": (CODE, [HANGING]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=200, help="right programs per batch")
    parser.add_argument("--workers", type=int, help="programs at a time; by default one a core")
    arguments = parser.parse_args()
    config = SandboxConfig(
        allow_code_execution=True, require="none", strict=False, seconds=LIMIT_SECONDS, clock_factor=5.0, memory_mb=256,
        output_kb=1024, processes=1, packages=[], workers=arguments.workers, batch_seconds=600.0, check_references=0,
    )  # fmt: skip
    with Sandbox(config) as sandbox:
        sandbox.run_all([HANGING] * 2 * (os.cpu_count() or 1))  # every worker has started
        print(
            f"level {sandbox.level}, {arguments.programs} right programs a batch, load {os.getloadavg()[0]:.1f} on "
            f"{os.cpu_count()} cores\n"
        )
        print("| tests | seconds | programs a second |\n| --- | --- | --- |")
        for name, (tests, hanging) in BATCHES.items():
            print(
                row(name, sandbox, [*hanging, *[Program(SOURCE, tests)] * arguments.programs], num_hanging=len(hanging))
            )


def row(name: str, sandbox: Sandbox, programs: list[Program], num_hanging: int) -> str:
    started = time.perf_counter()
    outcomes = sandbox.run_all(programs)
    seconds = time.perf_counter() - started
    assert [outcome.kind for outcome in outcomes] == ["timeout"] * num_hanging + ["passed"] * (
        len(programs) - num_hanging
    )
    return f"| {name} | {seconds:.2f} | {len(programs) / seconds:.0f} |"


if __name__ == "__main__":
    main()
