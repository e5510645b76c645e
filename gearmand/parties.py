"""One party: what the registry knows of whoever is connected or waits in process. Decides nothing.

A party can be client and worker at once. How a packet reaches it is its own
business: the registry only posts.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Sequence, Tuple

from gearmand.jobs import Priority, Workload

if TYPE_CHECKING:
    from gearmand.functions import Function, Queue
    from gearmand.gate import Gate
    from gearmand.jobs import Job

REMEMBERED_HANDLES = 1024
"""How many of the handles that a party held and holds no longer it is known by. Only their hashes are kept, 8 bytes each: 5,000
workers that have all done a thousand jobs cost 40 MB here, and would cost 360 MB as handles."""
_NO_PAST = array("q")
_PRIORITIES = tuple(Priority)

Assign = Callable[["Party", "Job"], None]
"""Posts a party the job that it was given, in the form that it asked for."""


class Ability:
    """That a party can do a function: its place in the order of CAN_DO, and the timeout of its jobs."""

    __slots__ = ("index", "timeout_s")

    def __init__(self, index: int, timeout_s: Optional[float]) -> None:
        # Counts down, so that in ascending order the newest ability is first.
        self.index = index
        self.timeout_s = timeout_s


class Party:
    """The registry's record of one party. A subclass says what `post` does."""

    __slots__ = (
        "abilities",
        "by_index",
        "ready",
        "last_served",
        "asleep",
        "idle_since",
        "lingering",
        "lingers",
        "unslept",
        "claim",
        "claim_number",
        "running",
        "_past",
        "_oldest",
        "listening",
        "client_id",
        "exceptions",
        "cancellations",
        "gate",
    )

    def __init__(self, exceptions: bool = False) -> None:
        self.abilities: Dict["Function", Ability] = {}
        # The same by Ability.index; and per priority the indexes, ascending,
        # of functions that had a job to give out when last looked at (see
        # `functions`).
        self.by_index: Dict[int, "Function"] = {}
        self.ready: List[List[int]] = [[] for _ in _PRIORITIES]
        self.last_served = 0
        # Between PRE_SLEEP and the wake-up, a GRAB_JOB or new work; or while
        # it lingers.
        self.asleep = False
        self.idle_since = 0.0
        # While its GRAB_JOB waits for an answer (see `wakeups`): how to give
        # it the job. And whether the next one that finds nothing waits too.
        self.lingering: Optional[Assign] = None
        self.lingers = False
        # Functions whose `sleepers` lack this party, to be mended when it
        # next falls asleep.
        self.unslept: Dict["Function", None] = {}
        # The function that it was woken for and has not grabbed for yet; the
        # number tells one wake-up from the next.
        self.claim: Optional["Function"] = None
        self.claim_number = 0
        self.running: Dict[bytes, "Job"] = {}
        # The hashes of the handles that it held last; where the oldest one is,
        # once there are as many as are kept.
        self._past = _NO_PAST
        self._oldest = 0
        # The unfinished jobs that it waits for.
        self.listening: Dict["Job", None] = {}
        self.client_id = b"-"
        # Whether it wants WORK_EXCEPTION as such; otherwise it gets WORK_FAIL.
        self.exceptions = exceptions
        # Whether it wants to hear that a job which it runs was cancelled.
        self.cancellations = False
        # Where it may not do everything: what decides.
        self.gate: Optional["Gate"] = None

    def post(self, kind: int, body: Workload, tail: Workload = b"") -> None:
        """Take a packet for this party, to be sent after the lock is released. Must not block.

        `body` and `tail` together are the packet's body; they may not change any more.
        """
        raise NotImplementedError

    def post_all(self, kind: int, bodies: Sequence[bytes]) -> None:
        """Take packets of one kind, at least one of them, and small ones."""
        for body in bodies:
            self.post(kind, body)

    def remember(self, handle: bytes) -> None:
        """The party holds that handle no longer."""
        past = self._past
        if len(past) == REMEMBERED_HANDLES:
            past[self._oldest] = hash(handle)
            self._oldest = (self._oldest + 1) % REMEMBERED_HANDLES
            return
        if not past:
            # Not before: most peers hold none, and making it takes a page of the handler's stack.
            past = self._past = array("q")
        past.append(hash(handle))

    def held(self, handle: bytes) -> bool:
        """Whether that is one of the last `REMEMBERED_HANDLES` handles that it held."""
        return hash(handle) in self._past

    def next_queue(self, newest_first: bool) -> Optional[Tuple["Function", "Queue", int]]:
        """Where its next job is: the function, the queue, and the index of the ability. `None`: nowhere.

        The highest priority of all its functions; within it the function
        after the one served last, or, if `newest_first`, the newest.
        """
        for priority, ready in enumerate(self.ready):
            while ready:
                at = 0
                if len(ready) > 1 and not newest_first:
                    at = bisect_right(ready, self.last_served) % len(ready)
                index = ready[at]
                function = self.by_index[index]
                queue = function.queues[priority]
                if queue.live and function.open:
                    return function, queue, index
                del ready[at]
                function.unaware[priority][self] = None
        return None
