"""Jobs that are no Job yet: plain ones, dormant ones, and rows at the start. Pure, like the registry."""

from __future__ import annotations

from typing import Optional, Sequence, Union

from gearmand.audit import CANCELLED
from gearmand.dormant import JOB_BYTES, Wanted
from gearmand.errors import Refusal
from gearmand.jobs import Job
from gearmand.parties import Party
from gearmand.registry import Registry
from gearmand.rows import Row


def submit_row(registry: Registry, row: Row) -> Union[Job, bytes, Refusal]:
    """Submit what the store has kept. Returns the job, or the handle of a plain one, or why it was refused."""
    due_s = row.due_s if row.due_s is not None and row.due_s > registry.epoch_s else None
    plain = not row.unique and due_s is None and row.reducer is None and not row.retries
    if plain and type(row.workload) is bytes and row.handle == registry.handles.of(row.number):
        return registry.submit_plain(row.function, row.workload, row.priority, row)
    return registry.submit(None, row.function, row.unique, row.workload, row.priority, due_s, row.reducer, row)


def restore(registry: Registry, row: Row) -> None:
    """Take a job from the store as it was; one that ran waits again."""
    registry.handles.skip(row.number)
    submit_row(registry, row)


def awake(registry: Registry, wanted: Wanted, rows: Sequence[Row]) -> None:
    """Dormant jobs have been fetched from the store."""
    function = registry.functions[wanted.function]
    for row in registry.dormant.woken(function, wanted.priority, rows):
        job = registry.jobs[row.handle] = Job(row.handle, function, b"", row.workload, row.priority, True, row.reducer)
        registry.put_row(job, row)
        registry.enqueue(job)


def waits(registry: Registry, handle: bytes) -> bool:
    """Whether the job of that handle is plain, or dormant."""
    number = registry.handles.number_of(handle)
    return registry.plain.find(number) is not None or registry.dormant.find(number) is not None


def runs_elsewhere(registry: Registry, handle: bytes) -> bool:
    """Whether the job of that handle still runs at the server before this one."""
    return bool(registry.elsewhere) and any(row.handle == handle for row in registry.elsewhere.values())


def cancel(registry: Registry, handle: bytes, asking: Optional[Party] = None) -> bool:
    """`Registry.cancel`, of plain and dormant jobs too. `asking`: who wants it."""
    registry.asking = asking
    if registry.cancel(handle):
        return True
    number = registry.handles.number_of(handle)
    entry = registry.plain.remove(number)
    if entry is not None:
        if registry.events is not None:
            registry.note(CANCELLED, registry.job_of(entry), asking)
        workload, queue = entry[1:3]
        function = queue.function
        registry.look_after(function, queue.priority)
        if registry.stored:
            registry.dormant.bytes -= JOB_BYTES + len(workload)
    else:
        function = registry.dormant.remove(number)
        if registry.events is not None and function is not None:
            registry.events.append((CANCELLED, registry.epoch_s, handle, function.name, b"", asking, None, False))
    if function is None:
        return False
    function.jobs -= 1
    registry.functions.note_if_idle(function)
    if registry.stored:
        registry.notes.removed.append(number)
    return True
