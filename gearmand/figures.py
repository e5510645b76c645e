"""What a person, or a program that watches, is shown of functions, jobs and peers: each as a dictionary. Decides nothing.

All of it is read with the broker's lock held, and is a copy. Bytes stay bytes:
whoever writes them down says how.
"""

from __future__ import annotations

from typing import Any, Dict, Optional
from urllib.parse import quote_from_bytes

from gearmand.functions import Function
from gearmand.jobs import Job, JobState, Priority
from gearmand.parties import Party
from gearmand.policy import NOTHING
from gearmand.registry import Registry
from gearmand.revival import waits
from gearmand.tally import Tally

PRIORITIES = tuple(priority.name.lower() for priority in Priority)
_NOTHING = Tally()
_JOBS_OF_A_PEER = 100
"""How many of its jobs are shown."""


def of_function(registry: Registry, function: Function) -> Dict[str, Any]:
    tally = function.tally or _NOTHING
    queued = [queue.live + registry.dormant.count(function, at) for at, queue in enumerate(function.queues)]
    return {
        "function": function.name,
        "id": quote_from_bytes(function.name, safe=""),
        "queued": dict(zip(PRIORITIES, queued)),
        "scheduled": function.scheduled,
        "running": function.running,
        "workers": len(function.workers),
        "oldest_s": oldest_s(registry, function),
        "limits": dict(zip(PRIORITIES, function.limits)),
        "paused": function.policy is not None and function.policy.paused,
        "policy": (function.policy or NOTHING)._asdict(),
        "buried": len(function.buried or ()),
        "submitted": function.submitted,
        "coalesced": tally.coalesced,
        "completed": tally.completed,
        "failed": tally.failed,
        "exceptions": tally.exceptions,
        "cancelled": tally.cancelled,
        "abandoned": tally.abandoned,
        "retried": tally.retried,
        "timed_out": tally.timed_out,
        "expired": tally.expired,
        "ever_buried": tally.buried,
        "waits": tally.waits.figures(),
        "runs": tally.runs.figures(),
    }


def oldest_s(registry: Registry, function: Function) -> Optional[float]:
    """For how long the first jobs of its queues have been there at most; `None`: there are none."""
    heads = [head for head in (queue.head() for queue in function.queues if queue.live) if head is not None]
    if not heads:
        return None
    return max(0.0, registry.now - min(head.since if isinstance(head, Job) else head[3] for head in heads))


def of_job(registry: Registry, job: Job) -> Dict[str, Any]:
    return {
        "handle": job.handle,
        "function": job.function.name,
        "unique": job.unique,
        "state": JobState(job.state).name.lower(),
        "priority": PRIORITIES[job.priority],
        "background": job.background,
        "stored": bool(job.rows),
        "retries": job.retries,
        "listeners": sum(job.listeners.values()) if job.listeners else 0,
        "worker": None if job.worker is None else address_of(job.worker),
        "numerator": job.numerator,
        "denominator": job.denominator,
        # In the queue, or at its worker.
        "since_s": None if job.state is JobState.SCHEDULED else max(0.0, registry.now - job.since),
        "due_in_s": None if job.state is not JobState.SCHEDULED else max(0.0, job.entry[0] - registry.epoch_s) if job.entry else 0.0,
        "workload_bytes": len(job.workload),
    }


def of_handle(registry: Registry, handle: bytes) -> Optional[Dict[str, Any]]:
    """The unfinished job of a handle. Of a dormant one little more is known than that it waits."""
    job = registry.jobs.get(handle)
    if job is not None:
        return of_job(registry, job)
    if not waits(registry, handle):
        return None
    entry = registry.plain.find(registry.handles.number_of(handle))
    if entry is not None:
        return of_job(registry, registry.job_of(entry))
    queue = registry.dormant.find(registry.handles.number_of(handle))
    assert queue is not None
    priority = PRIORITIES[queue[1]]
    return {"handle": handle, "function": queue[0].name, "state": "queued", "priority": priority, "background": True, "stored": True}


def of_peer(registry: Registry, party: Party) -> Dict[str, Any]:
    running = list(party.running.values())[:_JOBS_OF_A_PEER]
    listening = [job for job, _ in zip(party.listening, range(_JOBS_OF_A_PEER))]
    return {
        "address": address_of(party),
        "client_id": party.client_id,
        "functions": [party.by_index[index].name for index in sorted(party.by_index)],
        "asleep": party.asleep,
        "running": [of_job(registry, job) for job in running],
        "waits_for": len(party.listening),
        "waits_for_jobs": [of_job(registry, job) for job in listening],
    }


def address_of(party: Party) -> str:
    return getattr(party, "address", "in process")
