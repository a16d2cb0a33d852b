import subprocess
import sys
from collections.abc import Sequence

import pytest

from ebft.config.schema import TASKS, UserError
from ebft.sandbox.programs import Program, ProgramResult, Read
from ebft.tasks import VERIFIERS, Verifier, build


class Sandbox:
    def run(self, program: Program) -> ProgramResult:
        return self.run_all([program])[0]

    def run_all(self, batch: Sequence[Program]) -> list[ProgramResult]:
        return [ProgramResult("passed", "passed", 1, 0.0) for _ in batch]

    def read_all(self, how: str, texts: Sequence[Sequence[str]]) -> list[Read]:
        return [Read() for _ in texts]


@pytest.mark.parametrize("name", VERIFIERS)
def test_every_name_builds_its_verifier(name: str) -> None:
    verifier = build(name, Sandbox, Sandbox)
    assert isinstance(verifier, Verifier)
    assert type(verifier) is VERIFIERS[name]


def test_the_configuration_knows_the_same_names() -> None:
    assert set(VERIFIERS) == set(TASKS)


@pytest.mark.parametrize("name", [name for name in VERIFIERS if name != "unit_tests"])
def test_what_runs_no_programs_needs_no_sandbox(name: str) -> None:
    assert isinstance(build(name, None, Sandbox), Verifier)


def test_what_runs_programs_needs_one() -> None:
    with pytest.raises(UserError, match=r"data\.task=unit_tests runs code .* sandbox\.allow_code_execution=true"):
        build("unit_tests", None, Sandbox)


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"data\.task=rouge is not one of unit_tests, parses, chrf, bleu, exact_match"):
        build("rouge", None, Sandbox)


@pytest.mark.slow
def test_building_what_needs_no_sacrebleu_does_not_import_it() -> None:
    code = """if True:
        import sys
        from ebft import tasks
        tasks.build('exact_match', None, None)
        tasks.build('unit_tests', lambda: None, None)
        sys.exit('sacrebleu' in sys.modules)
    """
    subprocess.run([sys.executable, "-c", code], check=True)
