"""The contract of a store: which jobs survive the server. One module per kind of store keeps it.

    load    at the start, before anything else
    commit  again and again, by one thread

Whatever a store raises is a StoreError, and after one of `commit` the next
`commit` is tried as if nothing had happened: it is the store's to open a new
connection, or to find that its file is writable again. Where the cause is a
value that it cannot take, as one that is too large, it is an Unstorable, and
without that row the rest may be stored.
"""

from __future__ import annotations

from typing import Callable, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from gearmand.rows import Change, Row, Setting


Numbers = Callable[[], Tuple[int, bytes]]
"""Gives out numbers of rows with their handles."""


class Work(NamedTuple):
    """What one transaction does, in this order."""

    added: Sequence[Row]
    changed: Sequence[Change]
    removed: Sequence[int]
    """Numbers of rows, which need not be there."""
    settings: Sequence[Setting]


class Store:
    """Threads: one at a time."""

    where: str
    """What a person calls it: a file's name, an address."""

    def load(self) -> Iterator[Row]:
        """Every row, in the order of its numbers. StoreError, which names a row that is damaged (`rows.whole`)."""
        raise NotImplementedError

    def load_settings(self) -> List[Setting]:
        """Every setting, in any order. StoreError."""
        raise NotImplementedError

    def take_over(self, numbers: Numbers) -> List[Row]:
        """Make rows of what a C server has left where this store is, and remove that. ConfigError, StoreError."""
        return []

    def commit(self, work: Work) -> None:
        """Do all of it, or nothing. Returns when it survives. StoreError: nothing of it is done, as far as the store knows."""
        raise NotImplementedError

    def fetch(self, numbers: Sequence[int]) -> List[Row]:
        """The rows of these numbers, in this order; those that are not there are left out. StoreError."""
        raise NotImplementedError

    def shrink(self) -> bool:
        """Give back some of the room that removed rows have left; quick. Returns whether there is more to give back."""
        return False

    def size_bytes(self) -> Optional[int]:
        """How large it is; `None`: it does not tell. By any thread."""
        return None

    def close(self) -> None:
        """Let go of everything. Nothing is lost by not calling it."""


def ranges_of(numbers: Iterable[int]) -> List[List[int]]:
    """First and last of each run of consecutive numbers: jobs of one time end at one time."""
    ranges: List[List[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges
