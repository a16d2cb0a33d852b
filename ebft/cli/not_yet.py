"""A command that is announced but not written."""

import sys


def sweep() -> None:
    _refuse("ebft-sweep is not available yet; use ebft-train --multirun.")


def _refuse(message: str) -> None:
    print(message, file=sys.stderr)
    sys.exit(2)
