"""Rows that cannot be used: dropped and counted by kind, or refused all at once, as `data.bad_rows` says."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ebft.config.schema import UserError

EMPTY, NULL, LONG, COPY, MALFORMED = "empty", "null", "too long", "duplicate", "malformed"
UNTESTABLE, FAILING = "untestable", "with a failing reference"
KEYS = {UNTESTABLE: "data.drop_untestable=true"}  # what drops a kind, where it is not data.bad_rows
DROP = "data.bad_rows=drop"
SHOWN = 10


@dataclass(frozen=True)
class BadRow:
    kind: str
    problem: str  # with the row's origin in front
    fix: str = "correct or remove the row"

    def sentence(self) -> str:
        return f"{self.problem}; {self.fix}, or drop all such rows with {KEYS.get(self.kind, DROP)}."


class BadCell(UserError):
    """A cell of a row that cannot be used."""

    def __init__(self, row: BadRow) -> None:
        super().__init__(f"{row.problem}; {row.fix}.")
        self.row = row


class BadRows(UserError):
    """The rows of a source that are refused: the first of them, and how many there are of each kind."""

    def __init__(self, first: list[BadRow], counts: Mapping[str, int]) -> None:
        self.first, self.counts = first[:SHOWN], Counter(counts)
        super().__init__(first[0].sentence() if self.counts.total() == 1 else self._sentence())

    @classmethod
    def of(cls, rows: Iterable[BadRow]) -> "BadRows":
        found = list(rows)
        return cls(found, Counter(row.kind for row in found))

    @classmethod
    def joined(cls, errors: "list[BadRows]") -> "BadRows":
        return cls([row for error in errors for row in error.first], sum((error.counts for error in errors), Counter()))

    def _sentence(self) -> str:
        total, more = self.counts.total(), self.counts.total() - len(self.first)
        named = [row.problem for row in self.first] + ([f"and {more:,} more"] if more else [])
        longer = "raise data.sequence_length, " if LONG in self.counts else ""
        keys = " and ".join(sorted({KEYS.get(kind, DROP) for kind in self.counts}))
        return (
            f"{total:,} rows cannot be used ({counted(self.counts)}): {', '.join(named)}; correct or remove them, "
            f"{longer}or drop them with {keys}."
        )


def counted(counts: Mapping[str, int]) -> str:
    """3 empty, 1 duplicate."""
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)


class Sieve:
    """Takes down the bad rows of one source while it is read: those that are dropped, and those that are refused."""

    def __init__(self, drops: bool, keeps_copies: bool = False) -> None:
        """`keeps_copies` of a validation set of its own, which is what it is."""
        self.drops, self.keeps_copies = drops, keeps_copies
        self.dropped: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._first: list[BadRow] = []
        self._seen: set[bytes] = set()

    def add(self, row: BadRow) -> None:
        if self.drops and row.kind not in KEYS:
            self.dropped[row.kind] += 1
            return
        self.refused[row.kind] += 1
        if len(self._first) < SHOWN:
            self._first.append(row)

    def is_copy(self, digest: bytes) -> bool:
        """Whether a row with this digest has been read before."""
        known = digest in self._seen
        self._seen.add(digest)
        return known and not self.keeps_copies

    def error(self) -> BadRows | None:
        return BadRows(self._first, self.refused) if self.refused else None


def too_long(origin: str, length: int, sequence_length: int) -> BadRow:
    """A pair that no row has room for."""
    return BadRow(
        LONG,
        f"{origin} has {length} tokens with its EOS, above data.sequence_length={sequence_length}",
        "raise data.sequence_length, shorten the row, use data.layout=packed",
    )
