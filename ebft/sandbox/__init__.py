"""Run code that a model wrote."""

from ebft.sandbox.pool import Sandbox
from ebft.sandbox.programs import Case, Outcome, Program, Tests

__all__ = ["Case", "Outcome", "Program", "Sandbox", "Tests"]
