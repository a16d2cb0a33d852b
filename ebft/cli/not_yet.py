"""Commands that are announced but not written."""

import sys


def evaluate() -> None:
    _refuse("ebft-eval is not available yet; every ebft-train run evaluates at its start and its end.")


def sweep() -> None:
    _refuse("ebft-sweep is not available yet; use ebft-train --multirun.")


def _refuse(message: str) -> None:
    print(message, file=sys.stderr)
    sys.exit(2)
