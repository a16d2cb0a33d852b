"""Run code that a model wrote."""

from ebft.sandbox.pool import Sandbox
from ebft.sandbox.programs import Case, Exchange, Program, ProgramResult, Read, Tests

__all__ = ["Case", "Exchange", "Program", "ProgramResult", "Read", "Sandbox", "Tests"]
