"""Rows become jobs again: at the start, and when it is nearly the turn of dormant ones. Pure, like the registry."""

from __future__ import annotations

from typing import Sequence

from gearmand.dormant import JOB_BYTES, Wanted
from gearmand.jobs import Job
from gearmand.registry import Registry
from gearmand.rows import Row


def restore(registry: Registry, row: Row) -> None:
    """Take a job from the store as it was; one that ran waits again."""
    registry.handles.skip(row.number)
    due_s = row.due_s if row.due_s is not None and row.due_s > registry.epoch_s else None
    registry.submit(None, row.function, row.unique, row.workload, row.priority, due_s, row.reducer, row)


def awake(registry: Registry, wanted: Wanted, rows: Sequence[Row]) -> None:
    """Dormant jobs have been fetched from the store."""
    function = registry.functions[wanted.function]
    for row in registry.dormant.woken(function, wanted.priority, rows):
        job = registry.jobs[row.handle] = Job(row.handle, function, b"", row.workload, row.priority, True, row.reducer)
        registry.room -= JOB_BYTES + len(job.workload)
        registry.put_row(job, row)
        registry.enqueue(job)


def is_dormant(registry: Registry, handle: bytes) -> bool:
    """Whether the job of that handle waits in the store alone."""
    return bool(registry.dormant.tails) and registry.dormant.find(registry.handles.number_of(handle)) is not None


def cancel(registry: Registry, handle: bytes) -> bool:
    """`Registry.cancel`, of dormant jobs too."""
    if registry.cancel(handle):
        return True
    number = registry.handles.number_of(handle)
    function = registry.dormant.remove(number)
    if function is None:
        return False
    function.jobs -= 1
    registry.load.disown(handle)
    registry.functions.note_if_idle(function)
    registry.notes.removed.append(number)
    return True
