"""Standard output and error that a program outlives: what `| head -1` or a full disk behind `>` no longer takes is
dropped, and a run goes on without a console. A command whose output is all that it makes says so at its end."""

import errno
import io
import os
import sys
from typing import Any

_refused: list[str] = []  # why standard output or error took no more, unless its reader had seen enough


class _Outlived(io.FileIO):
    """A descriptor that becomes /dev/null when nobody reads it any more, or it cannot take more."""

    def write(self, data: Any, /) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except BlockingIOError:  # which says nothing about later
            raise
        except OSError as error:
            if error.errno != errno.EPIPE:
                _refused.append(os.strerror(error.errno or 0))
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return super().write(data)


def outlive_console() -> None:
    """Makes the program's own standard output and error such streams; those that somebody has replaced stay theirs."""
    if type(sys.stdout) is io.TextIOWrapper and sys.stdout is sys.__stdout__:
        sys.stdout = _outlived(sys.stdout)
    if type(sys.stderr) is io.TextIOWrapper and sys.stderr is sys.__stderr__:
        sys.stderr = _outlived(sys.stderr)


def end_if_cut() -> None:
    """Ends the program with one sentence and exit code 1 where not all that it printed could be written."""
    if sys.stdout is not None:  # as behind `>&-`
        sys.stdout.flush()
    if _refused:
        print(f"Not all of the output could be written ({_refused[0]}).", file=sys.stderr)
        sys.exit(1)


def _outlived(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Outlived(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
