"""Run code that a model wrote."""

from ebft.sandbox.pool import Sandbox
from ebft.sandbox.programs import Case, Program, ProgramResult, Tests

__all__ = ["Case", "Program", "ProgramResult", "Sandbox", "Tests"]
