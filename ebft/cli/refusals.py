"""How a user's mistake ends the program. Light: the sentences and the schema are imported when there is a mistake."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException


@contextmanager
def one_sentence() -> Iterator[None]:
    """A UserError inside this block ends the program: its sentence on stderr, exit code 2. Anything else passes through."""
    try:
        yield
    except ValueError as error:
        from ebft.config import UserError

        if not isinstance(error, UserError):
            raise
        print(error, file=sys.stderr)
        sys.exit(2)


@contextmanager
def as_user_error(overrides: list[str]) -> Iterator[None]:
    """What Hydra and OmegaConf refuse inside this block, which composes `overrides`, becomes a UserError."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if isinstance(error, ValueError) and not _raised_by_hydra(error):
            raise
        from ebft.cli.messages import explain
        from ebft.config import UserError

        raise UserError(explain(error, overrides)) from error


def _raised_by_hydra(error: Exception) -> bool:
    """Hydra refuses some command lines, such as trainer=null, with a plain ValueError of its own."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals["__name__"].startswith("hydra.")
