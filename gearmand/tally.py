"""What has been counted of one function's jobs: how they ended, how long they waited and ran. Knows no job.

Counting is on the way of every job, so it is plain integers and two lists.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Deque, List, NamedTuple, Sequence, Tuple

BOUNDS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
"""Up to how many seconds the buckets of a histogram go; one more holds what took longer."""


class Histogram:
    """How often something took how long."""

    __slots__ = ("buckets", "sum_s")

    def __init__(self) -> None:
        self.buckets: List[int] = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        self.buckets[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds

    @property
    def count(self) -> int:
        return sum(self.buckets)

    def figures(self) -> Tuple[Sequence[int], float]:
        """Its buckets and its sum, as they are now."""
        return tuple(self.buckets), self.sum_s


class Tally:
    """Of one function, since the server's start.

    Every job that was accepted ends as one of completed, failed, exceptions,
    cancelled, expired or abandoned. One that is given out again is retried.
    """

    __slots__ = (
        "completed", "failed", "exceptions", "cancelled", "abandoned", "retried", "timed_out", "coalesced", "expired", "buried", "waits",
        "runs",
    )  # fmt: skip

    def __init__(self) -> None:
        self.completed = 0
        # By WORK_FAIL, or because their attempts were used up.
        self.failed = 0
        self.exceptions = 0
        self.cancelled = 0
        # Nobody waited for them any more.
        self.abandoned = 0
        self.retried = 0
        self.timed_out = 0
        # Submissions that joined an unfinished job.
        self.coalesced = 0
        # Had waited for too long.
        self.expired = 0
        # Used their attempts up; each was one of failed or exceptions.
        self.buried = 0
        # From its queue to a worker; from there to the result.
        self.waits = Histogram()
        self.runs = Histogram()

    def go_on(self, ran_s: float, waited_s: float) -> None:
        """One was completed, and another one was given out: all that there is to count, in one call."""
        self.completed += 1
        runs, waits = self.runs, self.waits
        runs.buckets[bisect_left(BOUNDS_S, ran_s)] += 1
        runs.sum_s += ran_s
        waits.buckets[bisect_left(BOUNDS_S, waited_s)] += 1
        waits.sum_s += waited_s


class Failure(NamedTuple):
    """A job that did not end well, for a person to see."""

    epoch_s: float
    function: bytes
    handle: bytes
    unique: bytes
    kind: str
    """failed, exception or timeout."""
    data: bytes
    """What the worker said, or what is to be said; the beginning of it."""


FAILURES = 200
FAILURE_BYTES = 2000
"""How many of them are kept, and how much of what each of them said."""

Failures = Deque[Failure]
