"""What changes something by the wish of an administrator: few functions, which every way to ask for it leads to.

The administrative protocol (`text_commands`) and the JSON API (`api`) read a
request, call one of these and write its result down. No lock is held. What is
changed is stored when they return; a StoreError says that it is not stored,
though it holds in this process.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence, TypeVar

from gearmand import recurring, revival, steering
from gearmand.broker import Broker
from gearmand.jobs import Priority
from gearmand.parties import Party
from gearmand.policy import Policy
from gearmand.registry import Registry
from gearmand.results import Result

Done = TypeVar("Done")
NORMAL = int(Priority.NORMAL)
PRIORITIES = tuple(priority.name.lower() for priority in Priority)
"""What they are called, in the order of their numbers."""


def cancel_job(broker: Broker, handle: bytes, asking: Optional[Party] = None) -> bool:
    """End an unfinished job with WORK_FAIL. False: there is none of that handle. `asking`: who wants it."""
    return _change(broker, revival.cancel, handle, asking)


def create_function(broker: Broker, name: bytes) -> None:
    """List a function before it is used."""
    broker.turn(lambda registry: registry.functions[name])


def drop_function(broker: Broker, name: bytes) -> Optional[bool]:
    """Forget a function: True; False while it has workers or jobs; `None`: there is none of that name."""
    return _change(broker, steering.drop, name)


def limit_function(broker: Broker, name: bytes, limits: Sequence[Optional[int]]) -> bool:
    """Refuse new jobs of a function and priority while it has that many in all; `None`: any number.

    False: something is set for as many functions as may be.
    """
    return _change(broker, steering.limit, name, limits)


def change_policy(broker: Broker, name: bytes, values: Dict[str, Any]) -> Policy:
    """Set some of what there is to be set for a function (see `Policy`), by name, and return all of it. ValueError: a value is wrong."""
    return _change(broker, steering.change, name, values)


def policy_of(broker: Broker, name: bytes) -> Optional[Policy]:
    """`None`: there is no function of that name."""
    return broker.turn(steering.policy_of, name)


def purge(broker: Broker, name: bytes, priority: Optional[int], asking: Optional[Party] = None) -> int:
    """Cancel the jobs of a function that wait, of one priority or of all. Returns how many; those that come meanwhile stay."""
    count = 0
    for each in map(int, Priority) if priority is None else [priority]:
        found = broker.turn(steering.extent, name, each)
        count += _in_pieces(broker, found.dormant, lambda registry, most: steering.purge_dormant(registry, name, each, most, asking))
        count += _in_pieces(broker, None, lambda registry, most: steering.purge(registry, name, each, found.until, asking))
    return count


def peek(broker: Broker, name: bytes, most: int) -> List[steering.Waiting]:
    """The first jobs of a function that wait, in the order of service."""
    return broker.turn(steering.peek, name, most)


def reprioritise(broker: Broker, handle: bytes, priority: int) -> Optional[bool]:
    """Move a waiting job to another queue of its function. False: it runs, or lies in the store alone; `None`: there is none."""
    return _change(broker, steering.reprioritise, handle, priority)


def buried(broker: Broker, name: bytes, most: int) -> List[steering.Buried]:
    """The jobs of a function that have used their attempts up, oldest first."""
    return broker.turn(steering.buried, name, most)


def kick(broker: Broker, name: bytes, most: int) -> int:
    """Have buried jobs wait again, the oldest first. Returns how many."""
    # Those that are buried again meanwhile stay.
    most = min(most, broker.turn(steering.count_buried, name))
    return _in_pieces(broker, most, lambda registry, some: steering.kick(registry, name, some))


def discard(broker: Broker, name: bytes, most: int, asking: Optional[Party] = None) -> int:
    """End buried jobs, the oldest first. Returns how many."""
    most = min(most, broker.turn(steering.count_buried, name))
    return _in_pieces(broker, most, lambda registry, some: steering.discard(registry, name, some, asking))


def result(broker: Broker, handle: bytes) -> Optional[Result]:
    """What a background job has ended with; `None`: it has not ended, or its result is not kept (any more)."""
    return broker.turn(lambda registry: registry.results.find(handle, registry.now))


def result_of_unique(broker: Broker, function: bytes, unique: bytes) -> Optional[Result]:
    """The same of the latest job of a function and unique that has ended."""
    return broker.turn(lambda registry: registry.results.of_unique(function, unique, registry.now))


def put_recurring(
    broker: Broker, name: bytes, function: bytes, cron: str, workload: bytes = b"", unique: Optional[bytes] = None, priority: int = NORMAL
) -> bool:
    """Have a background job submitted at the times of the fields of a crontab; `name` tells it from others, and replaces one of that name.

    `unique`: `None` for the name; empty: none. ValueError: a value is wrong. False: there are as many as there may be.
    """
    job = recurring.Recurring(name, function, " ".join(cron.split()), workload, name if unique is None else unique, priority)
    times = recurring.checked(job)

    def work(registry: Registry) -> bool:
        done = recurring.put(registry, job, times)
        broker.recurs.notify()
        return done

    return _change(broker, work)


def remove_recurring(broker: Broker, name: bytes) -> bool:
    """False: there is none of that name. What it has submitted stays."""
    return _change(broker, recurring.remove, name)


NO_MORE_RECURRING = "there are %d recurring jobs, as many as there may be: remove one" % recurring.MOST


def _in_pieces(broker: Broker, most: Optional[int], act: Callable[[Registry, int], int]) -> int:
    """As often as there is something left to do, `most` at most. Returns how much was done in all."""
    count, most = 0, 2**62 if most is None else most
    while count < most:
        done = broker.turn(act, most - count)
        if not done:
            break
        count += done
    if count:
        broker.settle()
    return count


def _change(broker: Broker, work: Callable[..., Done], *arguments: Any) -> Done:
    """A turn whose effect survives when this returns."""
    done = broker.turn(work, *arguments)
    if done:
        broker.settle()
    return done
