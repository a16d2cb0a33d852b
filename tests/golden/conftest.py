"""The switch that writes the frozen figures anew: `python -m pytest tests/golden --regenerate`."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--regenerate", action="store_true", help="write the frozen figures instead of comparing with them"
    )


@pytest.fixture
def regenerate(pytestconfig: pytest.Config) -> bool:
    return bool(
        pytestconfig.getoption("regenerate", default=False)
    )  # the option is known only where tests/golden is on the command line
