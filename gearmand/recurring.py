"""Recurring jobs: background jobs that are submitted at times of the calendar; the table of them. Pure, like the registry, which has it.

    put, restore ──▶ due ──▶ submitted with no lock held, see `recurrence` ──▶ done ──▶ due again

None is made up for whose time comes while no server is there, or is seen to
`LATE_S` late.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Union

from gearmand import cron
from gearmand.deadlines import Deadlines
from gearmand.errors import Refusal
from gearmand.rows import Setting, Submission, decoded, encoded
from gearmand.schedule import Times, first_time

if TYPE_CHECKING:
    from gearmand.registry import Registry

KEY = b"recurring:"
MOST = 10_000
"""So many there may be."""
MOST_WORKLOAD_BYTES = 65536
LATE_S = 600.0
"""The clock may have been set, the machine been asleep, or the store not have answered."""
_MISSED = Refusal(b"MISSED", b"Its time had passed by more than ten minutes when it was seen to")


class Recurring(NamedTuple):
    """A recurring job, as an operator sets it."""

    name: bytes
    function: bytes
    cron: str
    """See `cron`."""
    workload: bytes
    unique: bytes
    """Empty: a submission does not coalesce with one that is unfinished."""
    priority: int

    def submission(self) -> Submission:
        return Submission(self.function, self.unique, self.workload, self.priority)


class Entry:
    """One of them in the table. `next_s`: when it is due; `last_s`: when it was, since the server started; `outcome`: its handle, or why it was refused."""

    __slots__ = ("job", "times", "next_s", "deadline", "last_s", "outcome")

    def __init__(self, job: Recurring, times: Times, next_s: int) -> None:
        self.job = job
        self.times = times
        self.next_s = next_s
        # `None`: it is being submitted.
        self.deadline: Optional[List[Any]] = None
        self.last_s: Optional[int] = None
        self.outcome: Union[bytes, Refusal, None] = None


class Table:
    """All of them, by name."""

    def __init__(self) -> None:
        self.entries: Dict[bytes, Entry] = {}
        self._deadlines = Deadlines()
        self._seen_s = 0.0

    def next_due(self) -> Optional[float]:
        """When to look again."""
        return self._deadlines.next_due()

    def add(self, entry: Entry) -> None:
        """In the place of one of the same name."""
        self.remove(entry.job.name)
        self.entries[entry.job.name] = entry
        self._wait(entry, entry.next_s)

    def remove(self, name: bytes) -> bool:
        entry = self.entries.pop(name, None)
        if entry is not None and entry.deadline is not None:
            self._deadlines.call_off(entry.deadline)
        return entry is not None

    def clear(self) -> None:
        self.entries.clear()
        self._deadlines = Deadlines()

    def due(self, epoch_s: float) -> List[Entry]:
        """Take out what is due. Each must be given to `done`."""
        if epoch_s < self._seen_s - LATE_S:
            self._reckon(epoch_s)
        self._seen_s = epoch_s
        found = []
        for entry in self._deadlines.pop_due(epoch_s):
            entry.deadline = None
            if epoch_s - entry.next_s > LATE_S:
                self.done(entry, _MISSED, epoch_s)
            else:
                found.append(entry)
        return found

    def done(self, entry: Entry, outcome: Union[bytes, Refusal], epoch_s: float) -> None:
        """It has been submitted: its handle, or why it was refused."""
        entry.last_s, entry.outcome = entry.next_s, outcome
        # Otherwise it has been removed meanwhile, or replaced.
        if self.entries.get(entry.job.name) is entry:
            self._wait(entry, _next(entry.times, max(epoch_s, entry.next_s)))

    def _wait(self, entry: Entry, next_s: int) -> None:
        entry.next_s = next_s
        entry.deadline = self._deadlines.add(next_s, entry)

    def _reckon(self, epoch_s: float) -> None:
        """The clock has been put back."""
        for entry in self.entries.values():
            if entry.deadline is not None:
                self._deadlines.call_off(entry.deadline)
                self._wait(entry, _next(entry.times, epoch_s))


def _next(times: Times, epoch_s: float) -> int:
    next_s = first_time(times, epoch_s)
    assert next_s is not None, "`cron.parse` lets none pass that never comes"
    return next_s


# -- what an operator does -----------------------------------------------------------


def put(registry: "Registry", job: Recurring, times: Times) -> bool:
    """Set a recurring job, or another in its place. False: there are as many as there may be."""
    table = registry.recurring
    if len(table.entries) >= MOST and job.name not in table.entries:
        return False
    before = table.entries.get(job.name)
    entry = Entry(job, times, _next(times, registry.epoch_s))
    if before is not None:
        entry.last_s, entry.outcome = before.last_s, before.outcome
    table.add(entry)
    _note(registry, setting_of(job))
    return True


def remove(registry: "Registry", name: bytes) -> bool:
    """False: there is none of that name. A job that it has submitted stays."""
    removed = registry.recurring.remove(name)
    if removed:
        _note(registry, Setting(KEY + name, None))
    return removed


def _note(registry: "Registry", setting: Setting) -> None:
    if registry.stored:
        registry.notes.settings.append(setting)


def due(registry: "Registry") -> List[Entry]:
    return registry.recurring.due(registry.epoch_s)


def done(registry: "Registry", entry: Entry, outcome: Union[bytes, Refusal]) -> None:
    registry.recurring.done(entry, outcome, registry.epoch_s)


# -- values, and how a store remembers them ------------------------------------------


_BOUNDS = {"name": (1, 64), "function": (1, 8192), "unique": (0, 64), "workload": (0, MOST_WORKLOAD_BYTES)}


def checked(job: Recurring) -> Times:
    """When it comes. ValueError: what is wrong with one of its values."""
    for field, (least, most) in _BOUNDS.items():
        size = len(getattr(job, field))
        if not least <= size <= most:
            raise ValueError("%s: expected %d to %d bytes, got %d" % (field, least, most, size))
    if re.search(rb"[\0- \x7f]", job.name):
        raise ValueError("name: expected neither blanks nor control characters, got %s" % ascii(job.name.decode("latin-1")))
    for field in ("function", "unique"):
        if b"\0" in getattr(job, field):
            raise ValueError("%s: expected no NUL" % field)
    if job.priority not in (0, 1, 2):
        raise ValueError("priority: expected 0, 1 or 2, got %r" % (job.priority,))
    return cron.parse(job.cron)


def setting_of(job: Recurring) -> Setting:
    values = {field: encoded(value) for field, value in job._asdict().items() if field != "name"}
    return Setting(KEY + job.name, json.dumps(values))


def to_recurring(setting: Setting) -> "tuple[Recurring, Times]":
    """ValueError: somebody has damaged it."""
    try:
        values = json.loads(setting.value or "")
        for field in ("function", "workload", "unique"):
            values[field] = decoded(values[field])
        job = Recurring(name=setting.key[len(KEY) :], **values)
        return job, checked(job)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("expected an object with %s: %r" % (", ".join(Recurring._fields[1:]), error)) from None


def restore(registry: "Registry", jobs: Iterable["tuple[Recurring, Times]"], due_s: Mapping[bytes, int]) -> None:
    """`due_s`: when those are due that an earlier server was about to submit."""
    for job, times in jobs:
        registry.recurring.add(Entry(job, times, due_s.get(job.name) or _next(times, registry.epoch_s)))
