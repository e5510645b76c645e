"""One HTTP client that waits for a job: a caller whose patience, memory and presence are bounded.

Threads: it belongs to its connection's handler; `post` and `lose` come from
other threads, with the broker's lock held. It waits on its `changed`, like any
caller (see `caller`), and looks now and then whether the client is still there.
"""

from __future__ import annotations

import time
from typing import Callable, Iterator, List, Optional, Tuple

from gearmand.broker import Broker
from gearmand.caller import ENDS, Caller, enter, leave
from gearmand.errors import JobLost, JobTimeout, Refusal
from gearmand.gate import Gate
from gearmand.jobs import Workload
from gearmand.protocol import PacketType, split
from gearmand.registry import Registry
from gearmand.revival import listen, stop_listening
from gearmand.rows import Submission

# How often it is looked whether the client has gone.
_LOOK_S = 1.0

Report = Tuple[int, List[Workload]]
"""A packet's type and its arguments, the first of which is the handle. The last one is not copied where it is large."""


class Abandoned(Exception):
    """The client has gone, or does not take what there is."""


class Waiter(Caller):
    """Wait in a `with` block. `limit_bytes`: how much may wait for the client; beyond it, it is given up.

    JobLost: the server has stopped.
    """

    __slots__ = ("address", "handle", "waiting_bytes", "_broker", "_is_gone", "limit_bytes", "_ends_at")

    def __init__(
        self, broker: Broker, address: str, timeout_s: Optional[float], limit_bytes: int, is_gone: Callable[[], bool]
    ) -> None:
        super().__init__(broker)
        self.address = address
        self.handle = b""
        self.waiting_bytes = 0
        self._broker = broker
        self._is_gone = is_gone
        self.limit_bytes = limit_bytes or 2**62
        self._ends_at = None if timeout_s is None else time.monotonic() + timeout_s

    def __enter__(self) -> "Waiter":
        enter(self._broker, self, "")
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.handle:
            self._broker.turn(stop_listening, self, self.handle)
        leave(self._broker, self)

    def post(self, kind: int, body: Workload, tail: Workload = b"") -> None:
        if self.waiting_bytes <= self.limit_bytes:
            # The one that goes over the limit is the last that is kept.
            super().post(kind, body, tail)
            self.waiting_bytes += len(body) + len(tail)

    def submit(self, submission: Submission, gate: Optional[Gate]) -> Optional[Refusal]:
        """Submit a job in the foreground and wait for it. Returns why it was refused."""
        return self._broker.turn(self._submit, submission, gate)

    def _submit(self, registry: Registry, submission: Submission, gate: Optional[Gate]) -> Optional[Refusal]:
        function, unique, workload, priority, _, reducer = submission
        refusal = None if gate is None else gate.submit(registry.now, function)
        if refusal is not None:
            return refusal
        job = registry.submit(self, function, unique, workload, priority, None, reducer)
        if isinstance(job, Refusal):
            return job
        if gate is not None:
            gate.own(registry.load, job.handle)
        self.handle = job.handle
        return None

    def listen(self, handle: bytes) -> bool:
        """Wait for an unfinished job. False: there is none of that handle."""
        self.handle = handle
        return self._broker.turn(listen, self, handle)

    def reports(self) -> Iterator[Report]:
        """What is reported of the job; the last one is its end.

        Raises JobTimeout, Abandoned, and JobLost where the server stops.
        """
        while True:
            for kind, body in self._wait():
                arguments = split(body, 3 if kind == PacketType.WORK_STATUS else 2)
                yield kind, arguments
                if kind in ENDS:
                    return

    def _wait(self) -> List[Tuple[int, Workload]]:
        while True:
            with self.changed:
                left_s = None if self._ends_at is None else self._ends_at - time.monotonic()
                look_s = _LOOK_S if left_s is None else max(0.0, min(left_s, _LOOK_S))
                if self.changed.wait_for(lambda: self.events or self.lost, look_s):
                    if not self.events:
                        raise JobLost("the server stopped before the job ended", "", self.handle.decode())
                    if self.waiting_bytes > self.limit_bytes:
                        raise Abandoned("%d bytes wait for it" % self.waiting_bytes)
                    self.waiting_bytes = 0
                    events = list(self.events)
                    self.events.clear()
                    return events
            if self._is_gone():
                raise Abandoned("it has gone")
            if left_s is not None and left_s <= 0:
                raise JobTimeout("the job did not end in time", "", self.handle.decode())
