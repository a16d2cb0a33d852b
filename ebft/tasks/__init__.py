"""The tasks, one file each: questions with reference answers, and verifiers of any other answer."""

from collections.abc import Callable

from ebft.config import doors
from ebft.config.schema import UserError
from ebft.tasks.base import Question, Verdict, Verifier
from ebft.tasks.own import OwnTask
from ebft.tasks.parses import Parses, TextReader
from ebft.tasks.text_match import BLEU, ChrF, ExactMatch
from ebft.tasks.unit_tests import ProgramRunner, UnitTests

__all__ = ["VERIFIERS", "ProgramRunner", "Question", "UnitTests", "Verdict", "Verifier", "build"]

VERIFIERS = {"unit_tests": UnitTests, "parses": Parses, "chrf": ChrF, "bleu": BLEU, "exact_match": ExactMatch}


def build(
    name: str, make_runner: Callable[[], ProgramRunner] | None, make_reader: Callable[[], TextReader]
) -> Verifier:
    """The verifier of a name, of an installed package's entry point in `ebft.tasks`, or of a user's own code;
    `make_runner` makes what runs programs, for those that do, `make_reader` what reads texts.

    Raises UserError for an unknown name, a missing runner, and where sacrebleu is needed and not installed.
    """
    reference = doors.installed("tasks").get(name, name) if name not in VERIFIERS else name
    if doors.is_door(reference):
        return OwnTask(reference, "data.task", make_runner)
    if name not in VERIFIERS:
        raise UserError(f"data.task={name} is not one of {', '.join(VERIFIERS)}.")
    if name == "parses":
        return Parses(make_reader())
    verifier = VERIFIERS[name]
    if verifier is not UnitTests:
        return verifier()
    if make_runner is None:
        raise UserError(
            f"data.task={name} runs code that a model wrote and was given nothing to run it in; set "
            "sandbox.allow_code_execution=true."
        )
    return UnitTests(make_runner())
