"""One job: what it is, and which way it can go. Knows no other job and no server.

The life of a job:

                     submit                      due
    (client) ──┬──────────────▶ SCHEDULED ─────────────────┐
               │                                           ▼
               └───────────────────────────────────────▶ QUEUED ──grab──▶ RUNNING
                                                           ▲                 │
                                                           └────requeue──────┘
    RUNNING ──hold back──▶ SCHEDULED     it has failed, and has another attempt later
    RUNNING ──bury──▶ BURIED ──kick──▶ QUEUED
    all of them ──complete, fail, cancel, abandon──▶ ENDED

Each verb is one literal dict from the state before to the state after; a move
that is not in its dict is a KeyError, that is, a bug of ours.
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple, Union

if TYPE_CHECKING:
    from gearmand.functions import Function
    from gearmand.parties import Party


class JobState(enum.IntEnum):
    SCHEDULED = 0
    """Waits for its due time."""
    QUEUED = 1
    """Waits for a worker."""
    RUNNING = 2
    """A worker holds it."""
    ENDED = 3
    """Off the books: no table but a worker's memory of handles knows it."""
    BURIED = 4
    """Has used its attempts up, and waits for a person."""


class Priority(enum.IntEnum):
    """The order of service; also the index of a function's queue."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


SCHEDULED, QUEUED, RUNNING, ENDED, BURIED = JobState

DUE = {SCHEDULED: QUEUED}
ASSIGN = {QUEUED: RUNNING}
REQUEUE = {RUNNING: QUEUED}
HOLD_BACK = {RUNNING: SCHEDULED}
BURY = {RUNNING: BURIED}
KICK = {BURIED: QUEUED}
END = {SCHEDULED: ENDED, QUEUED: ENDED, RUNNING: ENDED, BURIED: ENDED}

Workload = Union[bytes, memoryview]


class Job:
    """A unit of work, from its submission to its end.

    There may be ten million of these: every slot costs 80 MB then. One that has
    ended may be used again (see `rounds`): nobody keeps one from turn to turn, but
    to show it, and for a job that somebody waits for or that has a unique.
    """

    __slots__ = (
        "handle",
        "function",
        "unique",
        "workload",
        "priority",
        "background",
        "state",
        "worker",
        "listeners",
        "numerator",
        "denominator",
        "retries",
        "reducer",
        "rows",
        "entry",
        "since",
        "was_reported",
    )

    def __init__(
        self,
        handle: bytes,
        function: "Function",
        unique: bytes,
        workload: Workload,
        priority: int,
        background: bool,
        reducer: Optional[bytes],
    ) -> None:
        self.handle = handle
        self.function = function
        self.unique = unique
        self.workload = workload
        self.priority = priority
        self.background = background
        self.state = QUEUED
        self.worker: Optional["Party"] = None
        # Who is told of it, and how many times each packet: a connection that
        # submits the same unique twice gets everything twice.
        self.listeners: Optional[Dict["Party", int]] = None
        self.numerator = 0
        self.denominator = 0
        # Assignments that ended without a result.
        self.retries = 0
        self.reducer = reducer
        # The numbers of its rows in the store: one for each submission that
        # was stored, none for a job that nobody has promised to keep.
        self.rows: Tuple[int, ...] = ()
        # Its entry in the table that its state puts it in, where that table has
        # entries: the due times, the timeouts, or a queue that it came back to.
        self.entry: Optional[list[Any]] = None
        # When it came to its queue, or to its worker (monotonic seconds).
        self.since = 0.0
        # Whether its worker said that its last attempt failed, so that no
        # further report of that worker's is about the job.
        self.was_reported = False

    def __repr__(self) -> str:
        return "<Job %s %s %s>" % (
            self.handle.decode("ascii", "replace"),
            self.function.name.decode("utf-8", "backslashreplace"),
            JobState(self.state).name,
        )

    @property
    def wanted(self) -> bool:
        """Whether anybody is served by running it: a background job always, a foreground one while somebody listens."""
        return self.background or self.listeners is not None

    @property
    def due_s(self) -> Optional[int]:
        """When it is due (seconds since 1970), where it waits for that."""
        return math.ceil(self.entry[0]) if self.state is SCHEDULED and self.entry is not None else None


class Handles:
    """Job handles and their numbers, which count up from `first_number`."""

    def __init__(self, prefix: bytes, first_number: int) -> None:
        self._format = prefix.replace(b"%", b"%%") + b":%d"
        self.of: Callable[[int], bytes] = self._format.__mod__
        """The handle of a number."""
        self._next = first_number
        # Ours, and those of the stored jobs that we know by number alone.
        self._prefixes = {prefix}

    def new(self) -> Tuple[int, bytes]:
        """A number and its handle."""
        number = self._next
        self._next = number + 1
        return number, self._format % number

    def reserve(self, count: int) -> List[Tuple[int, bytes]]:
        """Numbers and handles for jobs to be."""
        first, self._next = self._next, self._next + count
        return [(number, self._format % number) for number in range(first, first + count)]

    def number_of(self, handle: bytes) -> int:
        """The number in a handle of ours, or one whose prefix has been recognised; -1: it is none."""
        prefix, _, text = handle.rpartition(b":")
        if prefix not in self._prefixes or not text.isdigit() or len(text) >= 20:
            return -1
        number = int(text)
        return number if text == b"%d" % number else -1

    def recognise(self, handle: bytes, number: int) -> bool:
        """Know handles with this one's prefix from now on. False: it is no handle of that number.

        An earlier server over the same store may have had another prefix.
        """
        prefix, colon, text = handle.rpartition(b":")
        if not colon or text != b"%d" % number:
            return False
        self._prefixes.add(prefix)
        return True

    def skip(self, number: int) -> None:
        """Give out only greater numbers from now on."""
        self._next = max(self._next, number + 1)
