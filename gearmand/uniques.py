"""Which unfinished job has a unique: the index behind coalescing and GET_STATUS_UNIQUE. Knows nothing else."""

from __future__ import annotations

from typing import Dict, Hashable, Optional, Union

from gearmand.functions import Function
from gearmand.jobs import Job, Workload


def key_of(unique: bytes, workload: Workload) -> Optional[Hashable]:
    """By what a job coalesces within its function; `None` when by nothing.

    An empty unique never coalesces. `-` stands for the workload, and without
    one for nothing.
    """
    if unique != b"-":
        return unique or None
    return (bytes(workload),) if len(workload) else None


class Uniques:
    """Jobs by key; several functions may have a job of the same key.

    Nearly every key has one job, so that one is stored as it is, and only a
    second one makes a dict, in order of submission.
    """

    def __init__(self) -> None:
        self._jobs: Dict[Hashable, Union[Job, Dict[Function, Job]]] = {}

    def __len__(self) -> int:
        return sum(1 if isinstance(held, Job) else len(held) for held in self._jobs.values())

    def find(self, key: Hashable, function: Function) -> Optional[Job]:
        """The job of this key and this function."""
        held = self._jobs.get(key)
        if held is None:
            return None
        if isinstance(held, Job):
            return held if held.function is function else None
        return held.get(function)

    def newest(self, key: Hashable) -> Optional[Job]:
        """The job of this key that was submitted last, whatever its function."""
        held = self._jobs.get(key)
        if held is None or isinstance(held, Job):
            return held
        return held[next(reversed(held))]

    def add(self, key: Hashable, job: Job) -> None:
        """Note a job; its key and function have none yet."""
        held = self._jobs.get(key)
        if held is None:
            self._jobs[key] = job
        elif isinstance(held, Job):
            self._jobs[key] = {held.function: held, job.function: job}
        else:
            held[job.function] = job

    def remove(self, key: Hashable, job: Job) -> None:
        """Forget a job that `add` noted."""
        held = self._jobs[key]
        if isinstance(held, Job):
            del self._jobs[key]
            return
        del held[job.function]
        if len(held) == 1:
            self._jobs[key] = next(iter(held.values()))
