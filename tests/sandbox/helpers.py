"""Small limits and short ways to write a program. Needs the standard library only."""

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

from ebft.config.schema import SandboxConfig
from ebft.sandbox import Case, Program, Read, Tests, reading

CONFIG = SandboxConfig(
    allow_code_execution=True, require="none", strict=False, seconds=0.5, clock_factor=2.0, memory_mb=128,
    output_kb=256, processes=1, packages=[], workers=2, batch_seconds=100.0, check_references=0,
)  # fmt: skip


def program(source: str, *cases: tuple[tuple[Any, ...], Any], code: str = "", setup: str = "") -> Program:
    """A program whose function is f, and its tests: arguments and right values, or code."""
    return Program(source, Tests("f", tuple(Case(*case) for case in cases), code, setup))


class ReadHere:
    """Reads texts as the sandbox does, in this process."""

    def read_all(self, how: str, texts: Sequence[Sequence[str]]) -> list[Read]:
        return [Read([*astuple(reading.WAYS[how](*text))]) for text in texts]
