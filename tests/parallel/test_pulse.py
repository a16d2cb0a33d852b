"""Who hangs, and who is only slow."""

from dataclasses import replace

import pytest

from ebft.parallel.pulse import DONE, Heartbeat, hanging

LIMIT = 45.0
WAITING = Heartbeat(
    number=30, num_collectives=7, idle_seconds=50.0, busy=False, host="a", process=1
)  # at its seventh meeting, for 50 seconds
BEHIND = replace(WAITING, num_collectives=6)
HEARD = dict.fromkeys(range(3), 1.0)


def test_who_is_behind_while_another_waits_hangs() -> None:
    assert hanging({0: WAITING, 1: WAITING, 2: BEHIND}, HEARD, LIMIT) == (
        2,
        "has got nowhere for 50 s while others wait for it",
    )


@pytest.mark.parametrize(
    "other",
    [
        WAITING,  # all are at the same place, in a long exchange
        replace(BEHIND, idle_seconds=3.0),  # slow, and getting on
        replace(BEHIND, busy=True),  # it said so
        replace(BEHIND, number=DONE),  # it has left
    ],
    ids=["all wait", "gets on", "busy", "done"],
)
def test_who_does_not_hang(other: Heartbeat) -> None:
    assert hanging({0: WAITING, 1: WAITING, 2: other}, HEARD, LIMIT) is None


def test_nobody_hangs_while_nobody_has_waited_long() -> None:
    assert hanging({0: replace(WAITING, idle_seconds=2.0), 1: BEHIND}, HEARD, LIMIT) is None


def test_silence_is_enough() -> None:
    moving = replace(WAITING, idle_seconds=0.0)
    assert hanging({0: moving, 1: moving}, {0: 1.0, 1: 46.0}, LIMIT) == (1, "has given no sign of life for 46 s")
    assert hanging({0: moving, 1: replace(moving, number=DONE)}, {0: 1.0, 1: 46.0}, LIMIT) is None
