"""Stored jobs that lie in the store alone, because memory is for those that are next. Decides which.

A queue of one function and priority has its head in memory and may have a tail
of dormant jobs, of which only the numbers are in memory, 8 bytes each:

    head: jobs  ◀── rows ◀── [store] ◀── coming ◀── tail: numbers

Once a queue has a tail, jobs that may lie down go to its end, so their order
is kept. A job may lie down if it is background, at once due, and has no unique:
whatever else can be asked of it while it waits is answered from its number.
When the head runs short the next numbers are `wanted`: whoever owns the store
fetches their rows, and they wake up.

The budget counts the bytes of stored jobs in memory, `JOB_BYTES` each and
their workloads.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING, Dict, List, NamedTuple, Optional, Sequence, Tuple

if TYPE_CHECKING:
    from gearmand.functions import Function
    from gearmand.rows import Row

JOB_BYTES = 500
"""What a job costs beside its workload (measured, with its row's number and its place in every table)."""

_AT_ONCE = 8000
_SHORT = 8000
_BYTES_AT_ONCE = 64 * 1024**2


class Wanted(NamedTuple):
    """Rows to be fetched from the store, for one queue."""

    function: bytes
    priority: int
    numbers: Sequence[int]


class Tail:
    __slots__ = ("numbers", "first", "coming")

    def __init__(self) -> None:
        # Those before `first` have gone.
        self.numbers = array("q")
        self.first = 0
        # On their way from the store.
        self.coming: List[int] = []

    def __len__(self) -> int:
        return len(self.numbers) - self.first + len(self.coming)

    def add(self, number: int) -> None:
        self.numbers.append(number)

    def next(self, count: int) -> List[int]:
        """Take the next numbers off; they are coming."""
        taken = self._take(count)
        self.coming += taken
        return taken

    def _take(self, count: int) -> List[int]:
        taken = self.numbers[self.first : self.first + count].tolist()
        self.first += len(taken)
        if self.first > 100_000 and self.first * 2 > len(self.numbers):
            del self.numbers[: self.first]
            self.first = 0
        return taken

    def find(self, number: int) -> bool:
        return number in self.coming or self._place(number) is not None

    def remove(self, number: int) -> bool:
        if number in self.coming:
            self.coming.remove(number)
            return True
        at = self._place(number)
        if at is not None:
            del self.numbers[at]
        return at is not None

    def drop_first(self, most: int) -> List[int]:
        dropped, self.coming = self.coming[:most], self.coming[most:]
        return dropped + self._take(most - len(dropped))

    def _place(self, number: int) -> Optional[int]:
        # Nearly in order: rows are numbered before they are stored, so
        # neighbours of different peers may have changed places.
        at = bisect_left(self.numbers, number, self.first)
        for near in range(max(self.first, at - _AT_ONCE), min(len(self.numbers), at + _AT_ONCE)):
            if self.numbers[near] == number:
                return near
        return None


class Dormant:
    """`budget_bytes`: how much stored jobs may take in memory; 0: any amount, so that none lies down."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes or 2**62
        self.bytes = 0
        self.tails: Dict[Tuple["Function", int], Tail] = {}
        # What a fetched row takes, as last seen: how many to fetch at once.
        self._row_bytes = JOB_BYTES

    def takes(self, function: "Function", row: "Row") -> bool:
        """Whether the job of that row lies down, which it does then."""
        if row.unique or row.due_s is not None:
            return False
        key = (function, row.priority)
        tail = self.tails.get(key)
        if tail is None:
            if self.bytes < self._budget_bytes:
                return False
            tail = self.tails[key] = Tail()
        tail.add(row.number)
        return True

    def count(self, function: "Function", priority: int) -> int:
        tail = self.tails.get((function, priority)) if self.tails else None
        return 0 if tail is None else len(tail)

    def look_after(self, function: "Function", priority: int, live: int) -> List[Wanted]:
        """What to fetch where the head, of which `live` jobs are left, runs short."""
        tail = self.tails.get((function, priority))
        if tail is None or tail.coming or live > _SHORT:
            return []
        numbers = tail.next(max(1, min(_AT_ONCE, _BYTES_AT_ONCE // self._row_bytes)))
        return [Wanted(function.name, priority, numbers)] if numbers else []

    def woken(self, function: "Function", wanted: Wanted, rows: Sequence["Row"]) -> List["Row"]:
        """Of the rows that have been fetched, those that are still wanted."""
        priority = wanted.priority
        tail = self.tails.get((function, priority))
        if tail is None:
            return []  # All of them were cancelled meanwhile.
        fetched = set(wanted.numbers)
        coming = fetched.intersection(tail.coming)
        # Others may be wanted by now, where all of these were cancelled.
        tail.coming = [number for number in tail.coming if number not in fetched]
        if rows:
            self._row_bytes = JOB_BYTES + max(len(row.workload) for row in rows)
        if not len(tail):
            del self.tails[function, priority]
        return [row for row in rows if row.number in coming]

    def find(self, number: int) -> Optional[Tuple["Function", int]]:
        """The queue of a dormant job."""
        return next((key for key, tail in self.tails.items() if tail.find(number)), None)

    def drop_first(self, function: "Function", priority: int, most: int) -> List[int]:
        """Take the first ones of a queue out, so many at most. Returns their numbers."""
        tail = self.tails.get((function, priority))
        if tail is None:
            return []
        numbers = tail.drop_first(most)
        if not len(tail):
            del self.tails[function, priority]
        return numbers

    def remove(self, number: int) -> Optional["Function"]:
        """Take a dormant job out. Returns its function; `None`: there is none of that number."""
        key = self.find(number)
        if key is None:
            return None
        tail = self.tails[key]
        tail.remove(number)
        if not len(tail):
            del self.tails[key]
        return key[0]
