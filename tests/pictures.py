"""Charts are drawn in tests and saved as one pixel: to render them takes a second a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from matplotlib.figure import Figure

RENDERED = Figure.savefig
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c636000000002000148afa471"
    "0000000049454e44ae426082"
)


def save_pixel(self: Figure, file: IO[bytes], **settings: Any) -> None:
    file.write(PIXEL)


def install() -> None:
    Figure.savefig = save_pixel  # type: ignore[method-assign,assignment]


@contextmanager
def rendered() -> Iterator[None]:
    """For what a picture looks like."""
    Figure.savefig = RENDERED  # type: ignore[method-assign]
    yield
    install()
