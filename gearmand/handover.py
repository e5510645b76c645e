"""What a server hands over to its successor, and how that takes it in. Pure, like the registry.

    the old one                                 the new one
    let_go: background jobs that wait go  ───▶  take_in: they wait there
            jobs that run stay, held      ───▶  elsewhere: it knows of them
            jobs that somebody waits for stay
    they end                              ───▶  settle: they are removed
    their worker is lost, or they fail    ───▶  take_back: they wait there, or are buried

A job that a client waits for can only be answered on the connection that it
came by. So it stays, and so do the workers that could do it, until it has
ended. Whoever has nothing left is dismissed, and connects again: to the new
one, because that is who listens now.
"""

from __future__ import annotations

from typing import Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional

from gearmand import recurring
from gearmand.dormant import JOB_BYTES, Dormant
from gearmand.functions import Function
from gearmand.jobs import BURIED, RUNNING, SCHEDULED, Job
from gearmand.parties import Party
from gearmand.protocol import SUBMISSIONS, Body, PacketType
from gearmand.registry import Registry
from gearmand.revival import cancel, restore, status_of
from gearmand.policy import Burial, of_burial
from gearmand.rows import Change, Row, Setting
from gearmand.steering import restore_buried, restore_functions, restored, setting_of


# More than a handle and a unique may have.
_NAME_BYTES = 128


class Estate(NamedTuple):
    """What the old server leaves."""

    next_number: int
    """That of the next job."""
    held: Dict[int, Optional[Row]]
    """The background jobs that stay until they end, by number; their rows where there is no store that has them."""
    moved: List[Row]
    """Those that go, in the order of their queues, where there is no store that has them."""
    settings: List[Setting]
    """What was set, where there is no store that has it."""
    where: Optional[str] = None
    """What the store is called, where there is one."""
    recurring: Mapping[bytes, int] = {}
    """When each recurring job is due next (seconds since 1970), so that none is missed meanwhile."""


# -- the old server ----------------------------------------------------------------


def let_go(registry: Registry) -> Estate:
    """Accept no more, and drop what goes."""
    registry.handed_over = registry.draining = True
    for (function, _), tail in registry.dormant.tails.items():
        function.jobs -= len(tail)
    registry.dormant.tails.clear()
    moved = [row for function in list(registry.functions.values()) for row in _queued(registry, function)]
    settings = [setting_of(function) for function in registry.functions.values() if function.is_set]
    entries = list(registry.recurring.entries.values())
    settings += [recurring.setting_of(entry.job) for entry in entries]
    recurs = {entry.job.name: entry.next_s for entry in entries}
    registry.recurring.clear()
    for job in list(registry.jobs.values()):
        if job.state in (SCHEDULED, BURIED) and _goes(job):
            row = _row(registry, job)
            if job.state is BURIED:
                assert job.function.buried is not None
                settings.append(of_burial(row.number, job.function.buried[job.handle]))
            moved.append(row)
            registry.forget(job)
    held: Dict[int, Optional[Row]] = {}
    for job in registry.jobs.values():
        if job.background:
            row = _row(registry, job)
            job.rows = job.rows or (row.number,)
            held.update(dict.fromkeys(job.rows, None if registry.stored else row))
    next_number = registry.handles.reserve(1)[0][0]
    if registry.stored:
        return Estate(next_number, held, [], [], None, recurs)
    return Estate(next_number, held, moved, settings, None, recurs)


def _queued(registry: Registry, function: Function) -> Iterator[Row]:
    """Empties the function's queues but for the jobs that somebody waits for."""
    for queue in function.queues:
        for entry in list(queue):
            if type(entry) is Job:
                if _goes(entry):
                    yield _row(registry, entry)
                    registry.forget(entry)
            else:
                yield _row(registry, registry.job_of(entry))
                registry.plain.remove(entry[0])
                registry.room += JOB_BYTES + len(entry[1])
                function.jobs -= 1


def _goes(job: Job) -> bool:
    return job.background and not job.listeners and job.state is not RUNNING


def _row(registry: Registry, job: Job) -> Row:
    number = job.rows[0] if job.rows else registry.handles.number_of(job.handle)
    if number < 0:
        number = registry.handles.reserve(1)[0][0]
    return Row(
        number, job.handle, job.function.name, job.unique, bytes(job.workload), job.priority, job.due_s, registry.epoch_s,
        job.retries, job.reducer,
    )  # fmt: skip


class Gone(NamedTuple):
    """Jobs that go later, as they are by then."""

    changes: List[Change]
    burials: Dict[int, Burial]
    """Of those whose last attempt has failed here."""


def let_go_later(registry: Registry) -> Gone:
    """The jobs that have come back into a queue since, or that nobody waits for any more: they go too."""
    gone = Gone([], {})
    for job in list(registry.jobs.values()):
        if _goes(job):
            gone.changes.extend(Change(number, job.handle, job.retries, job.priority, job.due_s) for number in job.rows)
            if job.state is BURIED:
                assert job.function.buried is not None
                gone.burials.update(dict.fromkeys(job.rows, job.function.buried[job.handle]))
            registry.forget(job)
    return gone


def is_done(registry: Registry, party: Party) -> bool:
    """Whether a party has nothing left here, or nothing that could still be done here."""
    if party.running or any(job.state is RUNNING or job.function.workers for job in party.listening):
        return False
    # What waits here, though it may not be given out at this moment, is nobody else's to do.
    return not any(function.has_more for function in party.abilities)


def is_for_the_new_one(registry: Registry, party: Party, kind: int, body: Body) -> bool:
    """Whether a packet has to wait until the party is connected to the new server: a submission, or a question for a job that is not here.

    Not where the party runs a job: its result may be the next packet.
    """
    if registry.draining and party.running:
        return False
    if kind == PacketType.GET_STATUS:
        return status_of(registry, bytes(body[:_NAME_BYTES]).rstrip(b"\0"))[0] == b"0"
    if kind == PacketType.GET_STATUS_UNIQUE:
        return registry.uniques.newest(bytes(body[:_NAME_BYTES]).rstrip(b"\0")) is None
    return kind in SUBMISSIONS


# -- the new server ------------------------------------------------------------------


def take_in(registry: Registry, estate: Estate, still_ours: bool) -> None:
    """Before the server serves, and where it has no store: the jobs that the old one's memory had.

    `still_ours`: it is the old one itself, and what it holds runs here.
    """
    registry.handles.skip(estate.next_number)
    registry.dormant = Dormant(0)
    if not still_ours:
        registry.elsewhere.update({number: row for number, row in estate.held.items() if row is not None})
    found = restored(estate.settings)
    for row in estate.moved:
        _put(registry, row, found.burials)
        _without_row(registry, row)
    restore_functions(registry, found.functions)
    recurring.restore(registry, found.recurring, estate.recurring)


def take_stored(
    registry: Registry, rows: Iterable[Row], burials: Dict[int, Burial], estate: Optional[Estate], still_ours: bool
) -> int:
    """The same of the jobs that a store has, with or without an old server. Returns how many."""
    held: Dict[int, Optional[Row]] = {}
    if estate is not None:
        registry.handles.skip(estate.next_number)
        held = estate.held
    count = 0
    for count, row in enumerate(rows, 1):
        if row.number not in held:
            _put(registry, row, burials)
        elif not still_ours:
            registry.elsewhere[row.number] = row
    return count


def call_back(registry: Registry) -> None:
    """The old server goes on."""
    registry.handed_over = registry.draining = False
    if not registry.stored:
        for job in registry.jobs.values():
            job.rows = ()


def take_back(registry: Registry, change: Change, burial: Optional[Burial] = None) -> None:
    """A job that ran at the old server waits again; or is buried, where that was its last attempt."""
    row = registry.elsewhere.pop(change.number, None)
    if row is None:
        return
    if registry.stored and (change.handle, change.retries, change.priority, change.due_s) != (row.handle, row.retries, row.priority, None):
        registry.notes.changed.append(change)
    if registry.stored and burial is not None:
        registry.notes.settings.append(of_burial(row.number, burial))
    # One that stops leaves it in the store.
    if not (registry.draining and registry.stored):
        due_s = row.due_s if change.due_s is None else change.due_s
        row = row._replace(handle=change.handle, retries=change.retries, priority=change.priority, due_s=due_s)
        _put(registry, row, {} if burial is None else {row.number: burial})
        if not registry.stored:
            _without_row(registry, row)


def take_back_all(registry: Registry) -> int:
    """The old server has ended; what it had not told the end of waits again. Returns how many."""
    left = list(registry.elsewhere.values())
    for row in left:
        take_back(registry, Change(row.number, row.handle, row.retries, row.priority))
    return len(left)


def settle(registry: Registry, number: int) -> None:
    """A job has ended at the old server."""
    if registry.elsewhere.pop(number, None) is None:
        # It ended while it was handed over.
        cancel(registry, registry.handles.of(number))
    elif registry.stored:
        registry.notes.removed.append(number)


def _put(registry: Registry, row: Row, burials: Mapping[int, Burial] = {}) -> None:
    """Into its queue. It was accepted long ago, so that is no event."""
    events, registry.events = registry.events, None
    if row.number in burials:
        restore_buried(registry, row, burials[row.number])
    else:
        restore(registry, row)
    registry.events = events


def _without_row(registry: Registry, row: Row) -> None:
    """There is no store that has it."""
    job = registry.jobs.get(row.handle)
    if job is not None:
        job.rows = ()
