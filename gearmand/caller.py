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
from gearmand.gate import Gate
from gearmand.jobs import Job, Priority, Workload
from gearmand.parties import Party
from gearmand.protocol import PacketType, split
from gearmand.registry import Registry
from gearmand.revival import admit, waits
from gearmand.rows import Row, Submission

ENDS = (int(PacketType.WORK_COMPLETE), int(PacketType.WORK_FAIL), int(PacketType.WORK_EXCEPTION))
"""The packet types that end a job."""

OnData = Optional[Callable[[bytes], None]]
OnStatus = Optional[Callable[[int, int], None]]


class Caller(Party):
    __slots__ = ("events", "ended", "lost", "changed")

    def __init__(self, broker: Broker) -> None:
        super().__init__(exceptions=True)
        self.events: Deque[Tuple[int, Workload]] = deque()
        # Whether the end of its job has come.
        self.ended = False
        self.lost = False
        self.changed = threading.Condition(broker.lock)

    def post(self, kind: int, body: Workload, tail: Workload = b"") -> None:
        self.events.append((kind, b"".join((body, tail)) if len(tail) else body))
        self.ended = kind in ENDS
        self.changed.notify_all()

    def lose(self) -> None:
        """The server stops: nothing more will come."""
        self.lost = True
        self.changed.notify_all()


def submit_in_background(broker: Broker, function: str, workload: bytes, unique: bytes, priority: Priority) -> str:
    """Submit a background job and return its handle. JobRefused: the server did not take it."""
    with broker.lock:
        _check_that_it_runs(broker, function)
    return _handle(function, keep_and_submit(broker, Submission(_bytes(function), unique, workload, priority)))


def keep_and_submit(broker: Broker, submission: Submission, gate: Optional[Gate] = None) -> Union[bytes, Refusal]:
    """Submit a background job, which is stored first where there is a store. Returns its handle, or why it was refused.

    `gate`: of whom it is submitted for, where he has one.
    """
    if gate is not None:
        refusal = broker.turn(lambda registry: gate.submit(registry.now, submission.function))
        if refusal is not None:
            return refusal
    handle: Union[bytes, Refusal]
    if broker.keeper is not None:
        (kept,) = broker.keep([submission])
        handle = broker.turn(admit, kept) if isinstance(kept, Row) else kept or SHUTTING_DOWN
    else:
        handle = broker.turn(_submit_in_background, submission)
    if gate is not None and isinstance(handle, bytes):
        broker.turn(_own, gate, handle)
    return handle


def _submit_in_background(registry: Registry, submission: Submission) -> Union[bytes, Refusal]:
    function, unique, workload, priority, due_s, reducer = submission
    if not unique and due_s is None and reducer is None:
        return registry.submit_plain(function, workload, priority)
    job = registry.submit(None, function, unique, workload, priority, due_s, reducer)
    return job if isinstance(job, Refusal) else job.handle


def _own(registry: Registry, gate: Gate, handle: bytes) -> None:
    # It may have ended meanwhile.
    if handle in registry.jobs or waits(registry, handle):
        gate.own(registry.load, handle)


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
    enter(broker, caller, function)
    try:
        handle = _handle(function, broker.turn(Registry.submit, caller, _bytes(function), unique, workload, priority))
        while True:
            for kind, body in _wait(caller, function, handle, ends_at):
                if kind == PacketType.WORK_FAIL:
                    raise JobFailed("function %s, job %s failed" % (function, handle), function, handle)
                arguments = [bytes(argument) for argument in split(body, 3 if kind == PacketType.WORK_STATUS else 2)]
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
        leave(broker, caller)


def enter(broker: Broker, caller: Caller, function: str) -> None:
    """The caller is to be told when the server stops; `leave` has to follow. JobLost: it has stopped."""
    with broker.lock:
        _check_that_it_runs(broker, function)
        broker.callers[caller] = None


def leave(broker: Broker, caller: Caller) -> None:
    """The caller waits no longer; what only it waited for is abandoned."""
    broker.turn(_leave, broker, caller)


def _check_that_it_runs(broker: Broker, function: str) -> None:
    if broker.stopped:
        raise JobLost("function %s: the server has stopped" % function, function, None)


def _wait(caller: Caller, function: str, handle: str, ends_at: Optional[float]) -> List[Tuple[int, Workload]]:
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
