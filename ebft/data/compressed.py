"""Lines of a file, compressed or not: its first bytes say which, whatever its name."""

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

from ebft.config.schema import UserError

GZIP, ZSTANDARD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


def lines(path: Path) -> Iterator[bytes]:
    """Raises UserError for a file that cannot be read, or not to its end."""
    try:
        with _opened(path) as file:
            yield from file
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}); write it again, or correct data.path.") from error


def _opened(path: Path) -> io.BufferedIOBase:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic.startswith(GZIP):
        return gzip.open(path)
    if magic == ZSTANDARD:
        import pyarrow

        return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"))
    return path.open("rb")
