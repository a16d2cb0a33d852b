"""No attack passes and none does harm: for this user and for nobody, with namespaces and where the kernel denies
them."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ebft.sandbox import ProgramResult, Sandbox, levels
from tests.sandbox.attacks import ATTACKS
from tests.sandbox.helpers import CONFIG, program
from tests.sandbox.machines import PLACES, run
from tests.sandbox.more_attacks import MORE_ATTACKS, OFFERS, PRIVILEGED, SYSTEM_CALLS

ALL = ATTACKS | MORE_ATTACKS
HONEST = program("def f(a, b): return a + b", ((2, 3), 5), code="assert f(2, 3) == 5")
SHORT_SECONDS, LONG_SECONDS = 0.2, 3.0  # for attacks on time, and for those that meet something else first


@cache
def outcomes(place: str) -> dict[str, ProgramResult]:
    """All attacks, each kind in one sandbox, and an honest program behind them."""
    timed = {name: attack.program for name, attack in ALL.items() if "timeout" in attack.kinds}
    others = {name: attack.program for name, attack in ALL.items() if name not in timed} | {"honest": HONEST}
    return run(PLACES[place], timed, seconds=SHORT_SECONDS) | run(PLACES[place], others, seconds=LONG_SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ALL)
def test_an_attack_fails(name: str, place: str) -> None:
    outcome = outcomes(place)[name]
    assert outcome.status == "failed"
    assert outcome.kind in ALL[name].kinds


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_an_honest_program_passes_after_all_attacks(place: str) -> None:
    outcome = outcomes(place)["honest"]
    assert (outcome.status, outcome.kind, outcome.num_tests) == ("passed", "passed", 2)


HARMLESS = (
    "another program",
    "memory in a nameless file",
    "reading the list of users",
    "reading the repository",
    "listing the root",
    "climbing out of its folder",
    "linking",
    "listening",
    "a datagram socket",
    "raising its own limits",
)


@pytest.mark.slow
def test_without_confinement_attacks_succeed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that can be let loose: it is the confinement that stops them, not a mistake in them."""
    if "Seccomp:\t0" not in Path("/proc/self/status").read_text():
        pytest.skip("this process is filtered itself, as in a container")
    monkeypatch.setattr(levels, "PARTS", ())
    loose = [*HARMLESS, *OFFERS, *(name for name in MORE_ATTACKS if name in SYSTEM_CALLS.keys() - PRIVILEGED)]
    with Sandbox(replace(CONFIG, seconds=LONG_SECONDS)) as sandbox:
        outcomes = sandbox.run_all([ALL[name].program for name in loose])
        assert {name: outcome.kind for name, outcome in zip(loose, outcomes, strict=True)} == dict.fromkeys(
            loose, "passed"
        )


@pytest.mark.parametrize("name", ["objects that the collector knows", "the right values in any frame"])
def test_where_there_is_something_to_find_it_is_found(name: str) -> None:
    """Here, where the tests are in memory."""
    namespace: dict[str, Any] = {}
    tests = ALL[name].program.tests
    exec(ALL[name].program.source, namespace)
    assert namespace["f"]() is tests.cases[0].expected
