"""One function: its queues, its workers, its limits; and the table of all functions. Decides nothing.

Three indexes make the steps of a job O(1) or O(log n), however many
workers, abilities and functions there are. Two of them are lazy: an entry that
has become untrue is dropped by whoever comes across it, and whoever dropped it
sees to its return.

    workers    every party that can do the function
    sleepers   the parties to wake. A party that is awake may still be in it:
               the wake-up that comes across it moves it to the party's
               `unslept`, and it returns when that party next falls asleep
    unaware    per priority, the parties whose `ready` list lacks this
               function. A job that enters the queue makes them all aware; a
               party that finds the queue empty becomes unaware

Hence, for every party that can do the function and per priority: either the
function is in its `ready` list or the party is in `unaware`, never both; and a
queue that is not empty has nobody unaware of it, unless the function is not
`open`: then it gives out nothing, and counts as empty.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, Deque, Dict, Iterator, List, Optional, Sequence, Set, Tuple, Union

from gearmand.jobs import ENDED, Job, Priority
from gearmand.policy import ANY, Burial, Policy
from gearmand.tally import Tally

if TYPE_CHECKING:
    from gearmand.parties import Party


class Queue:
    """The jobs of one function and one priority, first in first out; `live` counts them.

    Plain jobs (see `plain`) are their own entries.

    A job that leaves from the middle (cancelled, abandoned, taken back) leaves
    a dead entry behind, which goes when it comes to the front or when the dead
    are the majority. A job is its own entry, dead once the job has ENDED. One
    that comes back after a worker lost it may leave and come back again, so
    its entry is a cell of its own, dead once emptied.
    """

    __slots__ = ("function", "priority", "live", "_entries", "_gone")

    def __init__(self, function: Optional["Function"] = None, priority: int = Priority.NORMAL) -> None:
        self.function = function
        self.priority = priority
        self.live = 0
        self._entries: Deque[Any] = deque()
        # The numbers of plain jobs that have left from the middle.
        self._gone: Set[int] = set()

    def __iter__(self) -> Iterator[Any]:
        """What `pop` would return, one after another."""
        return filter(None, map(self._alive, self._entries))

    def push(self, job: Job, again: bool = False) -> None:
        """Put `job` at the tail. `again`: it has been in a queue before, as one with retries has."""
        if job.retries or again:
            job.entry = [job]
            self._entries.append(job.entry)
        else:
            self._entries.append(job)
        self.live += 1

    def push_plain(self, entry: "PlainEntry") -> None:
        """Put a plain job at the tail."""
        self._entries.append(entry)
        self.live += 1

    def push_all(self, entries: Sequence[Union[Job, "PlainEntry"]]) -> None:
        """Put plain jobs, or jobs that have been in no queue yet, at the tail."""
        self._entries.extend(entries)
        self.live += len(entries)

    def pop(self) -> Union[Job, "PlainEntry"]:
        """Take the first job out. IndexError when there is none."""
        while True:
            entry = self._entries.popleft()
            if type(entry) is tuple:
                if entry[0] not in self._gone:
                    self.live -= 1
                    return entry
                self._gone.discard(entry[0])
                continue
            found = self._alive(entry)
            if found is not None:
                self.live -= 1
                if type(found) is Job:
                    found.entry = None
                return found

    def head(self) -> Union[Job, "PlainEntry", None]:
        """What `pop` would return; `None`: there is none."""
        while self._entries:
            entry = self._entries[0]
            found = self._alive(entry)
            if found is not None:
                return found
            if type(entry) is tuple:
                self._gone.discard(entry[0])
            self._entries.popleft()
        return None

    def remove(self, job: Job) -> None:
        """Take `job` out wherever it stands. Its state must be ENDED already, or its entry a cell."""
        if job.entry is not None:
            job.entry[0] = None
            job.entry = None
        self._one_less()

    def withdraw(self, job: Job) -> None:
        """Take out a job that is to live on. Looks at the whole queue where the job came there first (measured: 50 ms in a million)."""
        if job.entry is None:
            self._entries.remove(job)
            self.live -= 1
        else:
            self.remove(job)

    def remove_plain(self, number: int) -> None:
        """Take the plain job of that number out wherever it stands."""
        self._gone.add(number)
        self._one_less()

    def _one_less(self) -> None:
        self.live -= 1
        if len(self._entries) > 2 * self.live + 64:
            self._entries = deque(entry for entry in self._entries if self._alive(entry) is not None)
            self._gone.clear()

    def _alive(self, entry: Any) -> Any:
        """The job of an entry; `None`: it is dead."""
        kind = type(entry)
        if kind is tuple:
            return None if self._gone and entry[0] in self._gone else entry
        job = entry[0] if kind is list else entry
        return None if job is None or job.state is ENDED else job


PlainEntry = Tuple[int, bytes, Queue, float]
"""A plain job: its number, its workload, its queue, and since when it is there (monotonic seconds)."""


Limits = List[Optional[int]]
"""Per priority: how many jobs a function may have, in all, for another one to be accepted. `None`: any number."""


class Function:
    """A function by its name, with all that is counted of it."""

    __slots__ = (
        "name", "queues", "jobs", "running", "scheduled", "retrying", "pending", "workers", "sleepers", "unaware", "claims", "limits",
        "limited", "submitted", "tally", "policy", "open", "free", "next_at", "opens", "sweeps", "buried",
    )  # fmt: skip

    def __init__(self, name: bytes, limits: Limits = [None for _ in Priority]) -> None:
        self.name = name
        self.queues = tuple(Queue(self, priority) for priority in map(int, Priority))
        # Its jobs in every state, then those of them in two of the states.
        self.jobs = 0
        self.running = 0
        self.scheduled = 0
        # Of the scheduled ones, those that have been tried and back off.
        self.retrying = 0
        # Jobs to be, which are being stored: counted from when they are
        # accepted, so that what has been stored need not be refused.
        self.pending = 0
        self.workers: Dict["Party", None] = {}
        self.sleepers: Dict["Party", None] = {}
        self.unaware: List[Dict["Party", None]] = [{} for _ in Priority]
        # How many parties have been woken for it and have not grabbed yet.
        self.claims = 0
        self.limits = limits
        # Whether they are its own.
        self.limited = False
        # Jobs accepted since the start; and what has become of them, once
        # anything has.
        self.submitted = 0
        self.tally: Optional[Tally] = None
        # What was set for it; and whether it gives out jobs at this moment,
        # and how many, which `Books.reconsider` sees to.
        self.policy: Optional[Policy] = None
        self.open = True
        self.free = ANY
        # Where there is a rate: when the next job may be given out. And the
        # deadlines of that, and of its jobs' expiry, where there are any.
        self.next_at = 0.0
        self.opens: Optional[List[Any]] = None
        self.sweeps: Optional[List[Any]] = None
        # Why, by handle; oldest first. They are none of its `jobs`.
        self.buried: Optional[Dict[bytes, Burial]] = None

    def __repr__(self) -> str:
        return "<Function %s>" % self.name.decode("utf-8", "backslashreplace")

    def counted(self) -> Tally:
        """Its tally, to count in."""
        if self.tally is None:
            self.tally = Tally()
        return self.tally

    @property
    def queued(self) -> int:
        """Jobs that workers could take now."""
        live, free = self.live, self.free
        return live if live < free else free

    @property
    def live(self) -> int:
        """Jobs in its queues, whether or not they may be given out."""
        high, normal, low = self.queues
        return high.live + normal.live + low.live

    @property
    def paused(self) -> bool:
        return self.policy is not None and self.policy.paused

    @property
    def has_more(self) -> bool:
        """Whether it has jobs for a worker, now or once they are no longer held back."""
        return bool(self.live or self.retrying) and not self.paused

    @property
    def used(self) -> bool:
        return bool(self.jobs or self.pending or self.workers or self.buried)

    @property
    def is_set(self) -> bool:
        """Whether anything was set for it that is to be remembered."""
        return self.limited or self.policy is not None

    def is_full(self, limit: int) -> bool:
        return self.jobs + self.pending >= limit


IDLE_FUNCTIONS = 100_000
"""How many functions without jobs, workers and limits are remembered."""


class Functions(Dict[bytes, Function]):
    """Every function seen, by name. One that is asked for by `[name]` is there from then on.

    `most_jobs`: the limit of those that have none of their own; `most_limited`: for how many anything may be set.
    """

    def __init__(self, most_jobs: Optional[int] = None, most_limited: int = 2**62) -> None:
        super().__init__()
        self._limits: Limits = [most_jobs for _ in Priority]
        self._most_limited = most_limited
        self._set = 0
        # Oldest first. A function may have become busy since; whoever takes
        # it out looks.
        self._idle: "OrderedDict[Function, None]" = OrderedDict()

    def __missing__(self, name: bytes) -> Function:
        function = self[name] = Function(name, self._limits)
        self.note_if_idle(function)
        return function

    def drop(self, name: bytes) -> Optional[bool]:
        """Forget a function: True; False while it has workers or jobs; `None` when there is none of that name."""
        function = self.get(name)
        if function is None:
            return None
        if function.used:
            return False
        self._forget(function)
        return True

    def limit_queue(self, name: bytes, limits: Limits) -> bool:
        """Refuse new jobs of a function and priority while it has that many jobs in all. False: too many functions have something set."""
        limited = limits != self._limits
        if limited and not self.may_set(name):
            return False
        function = self[name]
        was_set, function.limits, function.limited = function.is_set, limits, limited
        self._recount(function, was_set)
        return True

    def set_policy(self, function: Function, policy: Optional[Policy]) -> None:
        """Whoever calls has asked `may_set`, or restores what was."""
        was_set, function.policy = function.is_set, policy
        self._recount(function, was_set)

    def may_set(self, name: bytes) -> bool:
        """Whether something may be set for that function."""
        function = self.get(name)
        return self._set < self._most_limited or (function is not None and function.is_set)

    def _recount(self, function: Function, was_set: bool) -> None:
        self._set += function.is_set - was_set
        self.note_if_idle(function)

    def note_if_idle(self, function: Function) -> None:
        """Call when it may have become idle; beyond `IDLE_FUNCTIONS` the one that is idle longest is forgotten."""
        if function.used:
            return
        self._idle[function] = None
        self._idle.move_to_end(function)
        if len(self._idle) > IDLE_FUNCTIONS:
            oldest, _ = self._idle.popitem(last=False)
            if not (oldest.used or oldest.is_set):
                self._forget(oldest)

    def _forget(self, function: Function) -> None:
        del self[function.name]
        self._set -= function.is_set
        self._idle.pop(function, None)
