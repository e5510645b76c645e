"""What an operator does with one function's jobs, or with one job: pausing, purging, burying and the like. Pure, like the registry.

What was set for a function is its `Policy`; whether it gives out jobs follows
from that, see `Books.reconsider`. Long work is done in pieces, a turn each.
"""

from __future__ import annotations

from itertools import islice, takewhile
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from gearmand.audit import CANCELLED, EXPIRED
from gearmand.dormant import JOB_BYTES
from gearmand.functions import Function
from gearmand.jobs import BURIED, QUEUED, SCHEDULED, Job, Workload
from gearmand.parties import Party
from gearmand.policy import BURIED as BURIED_KEY, FUNCTION as FUNCTION_KEY, NOTHING, Burial, Policy, checked, of_function, to_burial, to_function
from gearmand.recurring import KEY as RECURRING_KEY, to_recurring
from gearmand.registry import Registry
from gearmand.revival import drop_dormant
from gearmand.rows import Row, Setting

_AT_ONCE = 1000
# How often jobs are looked at that may have waited too long, at most.
_SWEEP_S = 0.05


# -- settings ------------------------------------------------------------------------


def limit(registry: Registry, name: bytes, limits: Sequence[Optional[int]]) -> bool:
    """See `Functions.limit_queue`."""
    if not registry.functions.limit_queue(name, list(limits)):
        return False
    _note(registry, registry.functions[name])
    return True


def drop(registry: Registry, name: bytes) -> Optional[bool]:
    """See `Functions.drop`: what was set for it goes too."""
    function = registry.functions.get(name)
    dropped = registry.functions.drop(name)
    if dropped and function is not None:
        if function.is_set and registry.stored:
            registry.notes.settings.append(of_function(name, None, None))
        # Nobody looks after its deadlines any more.
        function.policy = None
    return dropped


def change(registry: Registry, name: bytes, values: Dict[str, Any]) -> Policy:
    """Set some of a function's `Policy`, by name. ValueError: a value is wrong, or as many functions have something set as may have."""
    checked(values)
    if not registry.functions.may_set(name):
        raise ValueError("something is set for as many functions as may be (--max-limited-functions)")
    function = registry.functions[name]
    policy = (function.policy or NOTHING)._replace(**values)
    follow(registry, function, policy)
    _note(registry, function)
    return policy


def policy_of(registry: Registry, name: bytes) -> Optional[Policy]:
    """`None`: there is no function of that name."""
    function = registry.functions.get(name)
    return None if function is None else function.policy or NOTHING


def follow(registry: Registry, function: Function, policy: Optional[Policy]) -> None:
    """What was set for the function is that from now on."""
    registry.functions.set_policy(function, policy if policy != NOTHING else None)
    if policy is not None and policy.expiry_s is not None:
        # It may be shorter than it was.
        if function.sweeps is not None:
            registry.sweeps.call_off(function.sweeps)
        _sweep_at(registry, function, registry.now)
    rate = None if policy is None else policy.rate
    function.next_at = 0.0 if rate is None else min(function.next_at, registry.now + 1 / rate)
    registry.reconsider(function)


def _note(registry: Registry, function: Function) -> None:
    if registry.stored:
        registry.notes.settings.append(setting_of(function))


def setting_of(function: Function) -> Setting:
    return of_function(function.name, function.limits if function.limited else None, function.policy)


class Restored(NamedTuple):
    """The settings of a store."""

    functions: List[Any]
    burials: Dict[int, Burial]
    recurring: List[Any]


def restored(settings: Sequence[Setting]) -> Restored:
    """Settings of other kinds are left alone. ValueError, which names it: one is damaged."""
    found = Restored([], {}, [])
    for setting in settings:
        try:
            if setting.key.startswith(FUNCTION_KEY):
                found.functions.append(to_function(setting))
            elif setting.key.startswith(BURIED_KEY):
                number, burial = to_burial(setting)
                found.burials[number] = burial
            elif setting.key.startswith(RECURRING_KEY):
                found.recurring.append(to_recurring(setting))
        except ValueError as error:
            raise ValueError("the setting %r is damaged: %s: correct or remove it" % (setting.key, error)) from None
    return found


def restore_functions(registry: Registry, functions: Sequence[Any]) -> None:
    """After the jobs, which were accepted whatever was set."""
    for name, limits, policy in functions:
        if limits is not None:
            registry.functions.limit_queue(name, limits)
        if policy is not None:
            follow(registry, registry.functions[name], policy)


def restore_buried(registry: Registry, row: Row, burial: Burial) -> None:
    """A job of a store that was buried, and is again."""
    registry.handles.skip(row.number)
    job = registry.jobs.get(row.handle)
    if job is None:
        function = registry.functions[row.function]
        job = registry.jobs[row.handle] = Job(row.handle, function, row.unique, row.workload, row.priority, True, row.reducer)
        job.retries, job.state = row.retries, BURIED
        function.jobs += 1
        registry.room -= JOB_BYTES + len(row.workload)
        registry.lay(job, burial)
    registry.add_rows(job, (row.number,))


# -- expiry --------------------------------------------------------------------------


def sweep(registry: Registry) -> None:
    """End jobs that have waited too long, some of them, where it is time to look."""
    for function in registry.sweeps.pop_due(registry.now):
        function.sweeps = None
        expiry_s = None if function.policy is None else function.policy.expiry_s
        if expiry_s is not None:
            _sweep_at(registry, function, _sweep(registry, function, expiry_s))


def _sweep_at(registry: Registry, function: Function, due: float) -> None:
    function.sweeps = registry.add_deadline(registry.sweeps, max(due, registry.now + _SWEEP_S), function)


def _sweep(registry: Registry, function: Function, expiry_s: float) -> float:
    """When to look again."""
    again = registry.now + expiry_s
    for queue in function.queues:
        for _ in range(_AT_ONCE):
            head = queue.head() if queue.live else None
            if head is None:
                break
            is_job = isinstance(head, Job)
            ends_at = (head.since if is_job else head[3]) + expiry_s
            if ends_at > registry.now:
                again = min(again, ends_at)
                break
            function.counted().expired += 1
            if is_job:
                registry.drop(head, EXPIRED)
            else:
                registry.drop_plain(head, EXPIRED)
        else:
            again = registry.now
        if not queue.live and registry.dormant.count(function, queue.priority):
            # They are on their way, and may be as old.
            again = registry.now
    return again


# -- jobs ----------------------------------------------------------------------------


class Extent(NamedTuple):
    """What there was of a queue."""

    dormant: int
    until: float
    """No job came later (monotonic)."""


def extent(registry: Registry, name: bytes, priority: int) -> Extent:
    function = registry.functions.get(name)
    return Extent(0 if function is None else registry.dormant.count(function, priority), registry.now)


def purge_dormant(registry: Registry, name: bytes, priority: int, most: int, asking: Optional[Party]) -> int:
    """Cancel jobs of a queue that lie in the store alone, the first ones, so many at most. Returns how many."""
    function = registry.functions.get(name)
    if function is None:
        return 0
    registry.asking = asking
    numbers = registry.dormant.drop_first(function, priority, min(most, _AT_ONCE))
    for number in numbers:
        drop_dormant(registry, function, number, registry.handles.of(number))
    return len(numbers)


def purge(registry: Registry, name: bytes, priority: int, until: float, asking: Optional[Party]) -> int:
    """Cancel jobs of a queue that are in memory, the first ones, that came until then. Returns how many, some at a time."""
    function = registry.functions.get(name)
    if function is None:
        return 0
    registry.asking = asking
    first = islice(function.queues[priority], _AT_ONCE)
    entries = list(takewhile(lambda entry: (entry.since if isinstance(entry, Job) else entry[3]) <= until, first))
    for entry in entries:
        function.counted().cancelled += 1
        if isinstance(entry, Job):
            registry.drop(entry, CANCELLED)
        else:
            registry.drop_plain(entry, CANCELLED)
    return len(entries)


class Waiting(NamedTuple):
    """A job that waits, for a person to see."""

    handle: bytes
    unique: bytes
    priority: int
    waits_s: float
    workload: Workload
    retries: int


def peek(registry: Registry, name: bytes, most: int) -> List[Waiting]:
    """The first jobs of a function, in the order of service."""
    function = registry.functions.get(name)
    entries = [] if function is None else islice(_entries(function), min(most, _AT_ONCE))
    jobs = [entry if isinstance(entry, Job) else registry.job_of(entry) for entry in entries]
    return [Waiting(job.handle, job.unique, job.priority, registry.now - job.since, job.workload, job.retries) for job in jobs]


def _entries(function: Function) -> Iterator[Any]:
    for queue in function.queues:
        yield from queue


def reprioritise(registry: Registry, handle: bytes, priority: int) -> Optional[bool]:
    """Move a job that waits to another queue of its function, to the end. False: it cannot be moved now; `None`: there is none.

    It cannot while it runs, nor while it lies in the store alone.
    """
    number = registry.handles.number_of(handle)
    entry = registry.plain.find(number)
    job = registry.jobs.get(handle)
    if job is not None and job.state is QUEUED:
        job.function.queues[job.priority].withdraw(job)
    elif job is None and entry is not None and registry.handles.of(number) == handle:
        job = _awake(registry, entry, number)
    if job is None:
        return None if registry.dormant.find(number) is None else False
    if job.state not in (QUEUED, SCHEDULED, BURIED):
        return False
    before, job.priority = job.priority, priority
    registry.notes.differs(job)
    if job.state is QUEUED:
        registry.look_after(job.function, before)
        registry.enqueue(job, job.since, again=True)
    return True


def _awake(registry: Registry, entry: Any, number: int) -> Job:
    """The plain job as a Job, in no queue yet."""
    job = registry.job_of(entry)
    registry.plain.remove(number)
    registry.jobs[job.handle] = job
    registry.meet(job, number)
    return job


class Buried(NamedTuple):
    """A buried job, for a person to see."""

    handle: bytes
    unique: bytes
    epoch_s: float
    why: bytes
    workload: Workload


def buried(registry: Registry, name: bytes, most: int) -> List[Buried]:
    """The buried jobs of a function, oldest first."""
    return [
        Buried(job.handle, job.unique, burial.epoch_s, burial.why, job.workload) for job, burial in _buried(registry, name, most)
    ]


def _buried(registry: Registry, name: bytes, most: int) -> List[Tuple[Job, Burial]]:
    function = registry.functions.get(name)
    found = {} if function is None or function.buried is None else function.buried
    return [(registry.jobs[handle], burial) for handle, burial in islice(found.items(), min(most, _AT_ONCE))]


def count_buried(registry: Registry, name: bytes) -> int:
    function = registry.functions.get(name)
    return 0 if function is None or function.buried is None else len(function.buried)


def kick(registry: Registry, name: bytes, most: int) -> int:
    """Have buried jobs wait again, the oldest first. Returns how many."""
    found = _buried(registry, name, most)
    for job, _ in found:
        registry.kick(job)
    return len(found)


def discard(registry: Registry, name: bytes, most: int, asking: Optional[Party]) -> int:
    """End buried jobs, the oldest first. Returns how many."""
    registry.asking = asking
    found = _buried(registry, name, most)
    for job, _ in found:
        registry.drop(job, CANCELLED)
    return len(found)
