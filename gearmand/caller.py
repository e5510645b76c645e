"""One in-process caller: submits a job without a socket and waits for it on a Condition.

Threads: a caller belongs to the thread that calls `run`; `post` and `lose` come
from other threads, with the broker's lock held.

    changed    Notify whenever `events` grows or `lost` is set. Waited on by
               the caller's thread. A Condition on the broker's lock.
"""

from __future__ import annotations

import threading
import time
from typing import Callable, Deque, List, Optional, Tuple, Union

from collections import deque

from gearmand.broker import Broker
from gearmand.errors import JobException, JobFailed, JobLost, JobRefused, JobTimeout, SHUTTING_DOWN, Refusal
from gearmand.jobs import Job, Priority, Workload
from gearmand.parties import Party
from gearmand.protocol import PacketType, split
from gearmand.registry import Registry
from gearmand.revival import admit
from gearmand.rows import Row, Submission

OnData = Optional[Callable[[bytes], None]]
OnStatus = Optional[Callable[[int, int], None]]


class Caller(Party):
    __slots__ = ("events", "lost", "changed")

    def __init__(self, broker: Broker) -> None:
        super().__init__(exceptions=True)
        self.events: Deque[Tuple[int, bytes]] = deque()
        self.lost = False
        self.changed = threading.Condition(broker.lock)

    def post(self, kind: int, body: Workload, tail: Workload = b"") -> None:
        self.events.append((kind, b"".join((body, tail))))
        self.changed.notify_all()

    def lose(self) -> None:
        """The server stops: nothing more will come."""
        self.lost = True
        self.changed.notify_all()


def submit_in_background(broker: Broker, function: str, workload: bytes, unique: bytes, priority: Priority) -> str:
    """Submit a background job and return its handle. JobRefused: the server did not take it."""
    with broker.lock:
        _check_that_it_runs(broker, function)
    if broker.keeper is None:
        return _handle(function, broker.turn(Registry.submit, None, _bytes(function), unique, workload, priority))
    (kept,) = broker.keep([Submission(_bytes(function), unique, workload, priority)])
    return _handle(function, broker.turn(admit, kept) if isinstance(kept, Row) else kept or SHUTTING_DOWN)


def run(
    broker: Broker,
    function: str,
    workload: bytes,
    unique: bytes,
    priority: Priority,
    timeout_s: Optional[float],
    on_data: OnData,
    on_warning: OnData,
    on_status: OnStatus,
) -> bytes:
    """Submit a foreground job, wait until it ends and return its result.

    `timeout_s` counts from the submission; `None`: for ever. The callbacks are
    called in this thread as reports arrive, with no lock held; what they raise
    ends the wait. Whenever the wait ends before the job does, the job is
    abandoned. Raises JobFailed, JobException, JobTimeout, JobRefused, JobLost.
    """
    ends_at = None if timeout_s is None else time.monotonic() + timeout_s
    caller = Caller(broker)
    with broker.lock:
        _check_that_it_runs(broker, function)
        broker.callers[caller] = None
    try:
        handle = _handle(function, broker.turn(Registry.submit, caller, _bytes(function), unique, workload, priority))
        while True:
            for kind, body in _wait(caller, function, handle, ends_at):
                if kind == PacketType.WORK_FAIL:
                    raise JobFailed("function %s, job %s failed" % (function, handle), function, handle)
                arguments = split(body, 3 if kind == PacketType.WORK_STATUS else 2)
                if kind == PacketType.WORK_COMPLETE:
                    return arguments[1]
                if kind == PacketType.WORK_EXCEPTION:
                    message = "function %s, job %s raised an exception: %r" % (function, handle, arguments[1][:200])
                    raise JobException(message, function, handle, arguments[1])
                if kind == PacketType.WORK_DATA and on_data is not None:
                    on_data(arguments[1])
                elif kind == PacketType.WORK_WARNING and on_warning is not None:
                    on_warning(arguments[1])
                elif kind == PacketType.WORK_STATUS and on_status is not None:
                    on_status(_number(arguments[1]), _number(arguments[2]))
    finally:
        broker.turn(_leave, broker, caller)


def _check_that_it_runs(broker: Broker, function: str) -> None:
    if broker.stopped:
        raise JobLost("function %s: the server has stopped" % function, function, None)


def _wait(caller: Caller, function: str, handle: str, ends_at: Optional[float]) -> List[Tuple[int, bytes]]:
    """The events that have come, at least one."""
    with caller.changed:
        remaining_s = None if ends_at is None else max(0.0, ends_at - time.monotonic())
        if not caller.changed.wait_for(lambda: caller.events or caller.lost, remaining_s):
            raise JobTimeout("function %s, job %s did not end in time" % (function, handle), function, handle)
        if not caller.events:
            raise JobLost("the server stopped before function %s, job %s ended" % (function, handle), function, handle)
        events = list(caller.events)
        caller.events.clear()
        return events


def _leave(registry: Registry, broker: Broker, caller: Caller) -> None:
    del broker.callers[caller]
    registry.leave(caller)


def _handle(function: str, job: Union[Job, bytes, Refusal]) -> str:
    if isinstance(job, Refusal):
        why = (job.code.decode(), job.text.decode("utf-8", "replace"))
        raise JobRefused("function %s: the server refused the job: %s: %s" % (function, *why), function, None)
    return (job if isinstance(job, bytes) else job.handle).decode()


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _number(raw: bytes) -> int:
    return int(raw) if raw.isdigit() else 0
