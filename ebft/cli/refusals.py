"""How a mistake or a failure ends the program in one sentence. Light: the sentences and the schema are imported when
they are needed."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from ebft.output.streams import end_if_cut


@contextmanager
def one_sentence() -> Iterator[None]:
    """A UserError or RunFailure inside this block ends the program: its sentence on stderr, exit code 2 or 1. So does
    a file that the system refuses to read or write, exit code 1. Anything else passes through."""
    try:
        yield
    except OSError as error:
        if error.filename is None or error.errno is None:
            raise
        from ebft.output.visible import visible

        print(
            visible(
                f"{error.filename} cannot be used ({error.strerror}); put that right and run the same command again."
            ),
            file=sys.stderr,
        )
        sys.exit(1)
    except (ValueError, RuntimeError) as error:
        from ebft.config.schema import RunFailure, UserError

        if not isinstance(error, UserError | RunFailure):
            raise
        from ebft.output.visible import visible

        print(visible(str(error)), file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """A SIGTERM inside this block is a Ctrl-C, so that what is to be cleared away is. A run that trains has handlers of
    its own."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def as_user_error(overrides: list[str], is_evaluation: bool = False) -> Iterator[None]:
    """What Hydra and OmegaConf refuse inside this block, which composes `overrides`, becomes a UserError."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise _user_error(error, overrides, is_evaluation) from error
    except MarkedYAMLError as error:  # of a file in a config folder of the user's own
        from ebft.config.schema import UserError

        mark = error.problem_mark
        place = "A config file" if mark is None else f"{mark.name}, line {mark.line + 1},"
        raise UserError(f"{place} is not YAML: {error.problem}.") from error
    except ValueError as error:
        if not _raised_by_hydra(error):
            raise
        raise _user_error(error, overrides, is_evaluation) from error


def check_flags(command: str, arguments: list[str]) -> bool:
    """Whether one of Hydra's flags asks for something to be shown, and nothing to be run. Raises UserError for what its
    parser refuses, which would print a page of usage."""
    from hydra._internal.utils import get_args_parser

    from ebft.config.schema import UserError

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{command}: {message}; {command} --help says what there is.")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    try:
        found = parser.parse_args(arguments)
    except SystemExit:  # of --version, which it has shown
        end_if_cut()
        raise
    return any((found.cfg, found.info, found.hydra_help, found.shell_completion))


def _user_error(error: Exception, overrides: list[str], is_evaluation: bool) -> Exception:
    from ebft.cli.messages import explain
    from ebft.config.schema import UserError

    return UserError(explain(error, overrides, is_evaluation=is_evaluation))


def _raised_by_hydra(error: Exception) -> bool:
    """Hydra refuses some command lines, such as trainer=null, with a plain ValueError of its own."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals["__name__"].startswith("hydra.")
