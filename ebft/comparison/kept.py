"""Runs that are kept beside the pages made from them: one archive, `runs.zip`, in place of their folders.

It holds a sweep's folder without models and samples (scripts/keep_results.py) and is read as data alone, whoever made
it: plain files, of bounded number and size, into a temporary folder that is gone afterwards.
"""

import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from ebft.config.schema import UserError

ARCHIVE = "runs.zip"
MOST_FILES, MOST_BYTES = 100_000, 2**30  # of an archive, and of what it unpacks to
IS_ENCRYPTED = 1  # a member's flag


@contextmanager
def unpacked(directory: Path) -> Iterator[Path]:
    """The folder that runs are read from: `directory`, or a temporary one of the same name where they lie in an
    archive. UserErrors that name a file there name it in the archive."""
    archive = directory / ARCHIVE
    if not archive.exists():
        yield directory
        return
    with TemporaryDirectory(prefix="ebft-runs-") as temporary:
        folder = Path(temporary) / (directory.absolute().name or "runs")
        folder.mkdir()
        _unpack(archive, folder)
        try:
            yield folder
        except UserError as error:
            raise UserError(str(error).replace(str(folder), str(archive))) from error


def _unpack(archive: Path, folder: Path) -> None:
    """Raises UserError for what is not an archive of runs."""
    try:
        if not (archive.is_file() or archive.is_dir()):
            raise zipfile.BadZipFile("it is no file")
        if archive.stat().st_size > MOST_BYTES:
            raise zipfile.BadZipFile(f"it is larger than {MOST_BYTES:,} bytes")
        with zipfile.ZipFile(archive) as file:
            members = [member for member in file.infolist() if not member.is_dir()]
            _check(members)
            for member in members:
                target = folder / member.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with file.open(member) as source, target.open("xb") as copy:
                    shutil.copyfileobj(source, copy)  # never more than the size that was checked
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(
            f"{archive} is not an archive of runs ({why}); write it with scripts/keep_results.py."
        ) from error


def _check(members: list[zipfile.ZipInfo]) -> None:
    """BadZipFile for anything but few plain files below the folder."""
    if len(members) > MOST_FILES or sum(member.file_size for member in members) > MOST_BYTES:
        raise zipfile.BadZipFile(f"it holds more than {MOST_FILES:,} files or {MOST_BYTES:,} bytes")
    for member in members:
        path = PurePosixPath(member.filename)
        kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the archive's maker does not say
        is_plain = kind in (0, stat.S_IFREG) and not member.flag_bits & IS_ENCRYPTED
        is_known = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        is_below = not path.is_absolute() and ".." not in path.parts and "\\" not in member.filename
        if not (is_plain and is_known and is_below):
            raise zipfile.BadZipFile(f"{member.filename!r} is not a plain file below it")
