"""Jobs that are no Job yet: plain ones, dormant ones, those that are being stored, and rows at the start.

Pure, like the registry. A background job that is stored is submitted in two
turns, with the store's transaction between them:

    expect ──▶ [its row is stored] ──▶ admit      acknowledged, with the handle that the row has
                        └─ failed ───▶ give_up    refused

`expect` decides: whether the job is accepted, and whether it is a job of its
own or one with the unfinished job of its unique. What it joins it belongs to at
once, so that nothing which happens before `admit` can part them. It is given
out only once it is stored; what is pending takes up room under `maxqueue`.
"""

from __future__ import annotations

from typing import Hashable, List, Optional, Sequence, Tuple, Union

from gearmand.audit import CANCELLED, COALESCED
from gearmand.books import Pending
from gearmand.dormant import JOB_BYTES, Wanted
from gearmand.errors import MEMORY_FULL, QUEUE_FULL, SHUTTING_DOWN, Refusal
from gearmand.functions import Function
from gearmand.jobs import RUNNING, Job
from gearmand.parties import Party
from gearmand.registry import Registry
from gearmand.rows import Row, Submission
from gearmand.uniques import key_of

Kept = Union[Row, Refusal, None]
"""What has become of a submission: its row, for `admit` once it is stored, or why it is refused. `None`: it is for
another server to take, which has the store now."""


def expect(registry: Registry, submissions: Sequence[Submission]) -> List[Kept]:
    """Accept background jobs that are about to be stored. Each row goes to `admit` or to `give_up`."""
    if registry.handed_over:
        return [None] * len(submissions)
    return [_expect(registry, submission) for submission in submissions]


def _expect(registry: Registry, submission: Submission) -> Kept:
    if registry.draining or registry.room <= 0:
        return SHUTTING_DOWN if registry.draining else MEMORY_FULL
    function = registry.functions[submission.function]
    key = key_of(submission.unique, submission.workload) if submission.unique else None
    if key is not None:
        twin = registry.uniques.find(key, function)
        if twin is not None:
            number = registry.handles.new()[0]
            registry.add_rows(twin, (number,))
            twin.background = True
            function.counted().coalesced += 1
            return submission.row(number, twin.handle, registry.epoch_s, twin.retries)
        pending = registry.pending.get((function, key))
        if pending is not None:
            number = registry.handles.new()[0]
            pending.rows.append(number)
            function.counted().coalesced += 1
            return submission.row(number, pending.handle, registry.epoch_s)
    limit = function.limits[submission.priority]
    if limit is not None and function.is_full(limit):
        return QUEUE_FULL
    function.pending += 1
    number, handle = registry.handles.new()
    if key is not None:
        registry.pending[function, key] = Pending(handle, [number])
    return submission.row(number, handle, registry.epoch_s)


def admit(registry: Registry, row: Row) -> bytes:
    """Submit what was expected and is stored now. Returns its handle, which is the row's."""
    function = registry.functions[row.function]
    key = _key(row) if row.unique else None
    if key is None:
        function.pending -= 1
        submit_row(registry, row, True)
        return row.handle
    pending = registry.pending.get((function, key))
    if pending is not None and pending.handle == row.handle:
        submit_row(registry, row)
        return row.handle
    job = registry.jobs.get(row.handle)
    if job is not None and registry.events is not None:
        registry.note(COALESCED, job, registry.asking)
    if job is None:
        # Its job has ended meanwhile, and perhaps was removed before this row was there.
        registry.notes.removed.append(row.number)
    elif job.retries != row.retries:
        registry.notes.differs(job)
    return row.handle


def pass_on(registry: Registry, row: Row) -> bytes:
    """`admit`, where another server has the store now, and the row in it."""
    key = _key(row) if row.unique else None
    pending = None if key is None else registry.pending.get((registry.functions[row.function], key))
    if key is None or pending is not None and pending.handle == row.handle:
        give_up(registry, [row])
    return row.handle


def give_up(registry: Registry, rows: Sequence[Row]) -> None:
    """What was expected could not be stored, and is refused."""
    for row in rows:
        function = registry.functions[row.function]
        key = _key(row)
        pending = None if key is None else registry.pending.get((function, key))
        if key is None:
            function.pending -= 1
        elif pending is not None and pending.handle == row.handle:
            pending.rows.remove(row.number)
            if not pending.rows:
                del registry.pending[function, key]
                function.pending -= 1
        elif row.handle in registry.jobs:
            registry.drop_row(registry.jobs[row.handle], row.number)
        registry.functions.note_if_idle(function)


def _key(row: Row) -> Optional[Hashable]:
    return key_of(row.unique, row.workload) if row.unique else None


def submit_row(registry: Registry, row: Row, is_ours: bool = False) -> Union[Job, bytes, Refusal]:
    """Submit what the store has. Returns the job, or the handle of a plain one; it is not refused.

    `is_ours`: its handle is known to be of our prefix and its number.
    """
    number, handle, name, unique, workload, priority, due_s, _, retries, reducer = row
    if due_s is not None and due_s <= registry.epoch_s:
        due_s = None
    if not unique and due_s is None and reducer is None and not retries and type(workload) is bytes:
        if is_ours or handle == registry.handles.of(number):
            return registry.submit_plain(name, workload, priority, row)
    return registry.submit(None, name, unique, workload, priority, due_s, reducer, row)


def restore(registry: Registry, row: Row) -> None:
    """Take a job from the store as it was; one that ran waits again."""
    registry.handles.skip(row.number)
    function = registry.functions[row.function]
    submitted = function.submitted
    key = _key(row) if row.unique else None
    if key is None:
        submit_row(registry, row)
    else:
        _restore_unique(registry, row, function, key)
    # It was submitted to an earlier server.
    function.submitted = submitted


def _restore_unique(registry: Registry, row: Row, function: Function, key: Hashable) -> None:
    """Rows of one unique are those of one job where they have one handle.

    Else they are of several: of a job that was kicked, or that comes back from
    another server, beside a later one, which has the unique.
    """
    same = registry.jobs.get(row.handle)
    if same is not None:
        registry.join(same, None, row)
        return
    other = registry.uniques.find(key, function)
    if other is not None:
        registry.uniques.remove(key, other)
    pending = registry.pending.pop((function, key), None)
    submit_row(registry, row)
    if pending is not None:
        registry.pending[function, key] = pending
    if pending is not None or other is not None and registry.handles.number_of(other.handle) > row.number:
        registry.uniques.remove(key, registry.jobs[row.handle])
        if other is not None:
            registry.uniques.add(key, other)


def awake(registry: Registry, wanted: Wanted, rows: Sequence[Row]) -> None:
    """Dormant jobs have been fetched from the store."""
    function = registry.functions[wanted.function]
    for row in registry.dormant.woken(function, wanted, rows):
        job = registry.jobs[row.handle] = Job(row.handle, function, b"", row.workload, row.priority, True, row.reducer)
        job.retries = row.retries
        registry.room -= JOB_BYTES + len(job.workload)
        registry.add_rows(job, (row.number,))
        if registry.awaited:
            registry.meet(job, row.number)
        registry.enqueue(job, registry.since(row))


def waits(registry: Registry, handle: bytes) -> bool:
    """Whether the job of that handle is plain, or dormant."""
    number = registry.handles.number_of(handle)
    return _is_plain(registry, number, handle) or registry.dormant.find(number) is not None


def _is_plain(registry: Registry, number: int, handle: bytes) -> bool:
    return registry.plain.find(number) is not None and registry.handles.of(number) == handle


def listen(registry: Registry, party: Party, handle: bytes) -> bool:
    """The party listens to an unfinished job, whatever it is. False: there is none of that handle."""
    job = registry.jobs.get(handle)
    if job is not None:
        registry.join(job, party)
    elif waits(registry, handle):
        registry.awaited.setdefault(registry.handles.number_of(handle), []).append(party)
    else:
        return False
    return True


def stop_listening(registry: Registry, party: Party, handle: bytes) -> None:
    """The party, which is about to leave, does not wait for a plain or dormant job any more."""
    number = registry.handles.number_of(handle)
    parties = registry.awaited.get(number, [])
    if party in parties:
        parties.remove(party)
        if not parties:
            del registry.awaited[number]


Status = Tuple[bytes, bytes, bytes, bytes]
"""Known, running, numerator, denominator."""

_UNKNOWN: Status = (b"0", b"0", b"0", b"0")
_WAITING: Status = (b"1", b"0", b"0", b"0")
_RUNNING: Status = (b"1", b"1", b"0", b"0")


def status_of(registry: Registry, handle: bytes) -> Status:
    job = registry.jobs.get(handle)
    if job is not None:
        return status_of_job(job)
    if waits(registry, handle):
        return _WAITING
    # At the server before this one.
    return _RUNNING if any(row.handle == handle for row in registry.elsewhere.values()) else _UNKNOWN


def status_of_job(job: Optional[Job]) -> Status:
    if job is None:
        return _UNKNOWN
    return (b"1", b"1" if job.state is RUNNING else b"0", b"%d" % job.numerator, b"%d" % job.denominator)


def cancel(registry: Registry, handle: bytes, asking: Optional[Party] = None) -> bool:
    """`Registry.cancel`, of plain and dormant jobs too. `asking`: who wants it."""
    registry.asking = asking
    if registry.cancel(handle):
        return True
    number = registry.handles.number_of(handle)
    entry = registry.plain.find(number) if _is_plain(registry, number, handle) else None
    if entry is not None:
        entry[2].function.counted().cancelled += 1
        registry.drop_plain(entry, CANCELLED)
        return True
    function = registry.dormant.remove(number)
    if function is None:
        return False
    drop_dormant(registry, function, number, handle)
    return True


def drop_dormant(registry: Registry, function: Function, number: int, handle: bytes) -> None:
    """A dormant job, which is in no tail any more, has been cancelled."""
    if registry.events is not None:
        registry.events.append((CANCELLED, registry.epoch_s, handle, function.name, b"", registry.asking, None, False))
    function.counted().cancelled += 1
    registry.drop_number(function, number, handle)
