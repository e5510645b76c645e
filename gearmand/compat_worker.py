"""python-gearman's GearmanWorker: one thread, one job at a time. See `compat` for where it differs.

It stands on `connection`, not on `worker`: `work` runs in the thread that calls
it, calls its hooks between any two polls, lets out what they raise, and gives
up when no server is left, none of which a Worker does.

    asleep ──NOOP──▶ awake ──GRAB_JOB_UNIQ──▶ grabbing ──JOB_ASSIGN_UNIQ──▶ the job runs
      ▲                                           │                           │
      └──────────────── PRE_SLEEP ◀───────────────┴──NO_JOB                   │
      └──────────────── PRE_SLEEP ◀───────────────────────────────────────────┘

One connection grabs at a time, so that no second job waits while one runs; the
sleep after each job gives every server its turn.
"""

from __future__ import annotations

import logging
import random
import select
import sys
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from gearmand.compat_names import (
    GearmanConnection,
    GearmanConnectionManager,
    GearmanJob,
    ServerUnavailable,
    wire_bytes,
    wire_name,
)
from gearmand.connection import Connection
from gearmand.errors import ServerLost
from gearmand.protocol import Event, PacketType, pack

LOG = logging.getLogger("gearmand.worker")

POLL_TIMEOUT_IN_SECONDS = 60.0

ASLEEP, AWAKE, GRABBING = range(3)

_PRE_SLEEP = pack(PacketType.PRE_SLEEP)
_GRAB = pack(PacketType.GRAB_JOB_UNIQ)

# Poll takes no more than 2**31 ms.
_LONGEST_S = 1e6


class GearmanWorkerConnection(GearmanConnection):
    """A server that a worker works for."""

    connect_cooldown_seconds = 1.0
    """How long a server that cannot be reached is left alone."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.state = ASLEEP
        self._wire: Optional[Connection] = None
        self._rests_until = 0.0

    def connect(self, greeting: bytes) -> bool:
        """Connect, where it is not. False: it cannot."""
        if self._wire is None and time.monotonic() >= self._rests_until:
            try:
                self._wire = Connection(self.address, tls=self.tls)
                self.connected, self.state = True, ASLEEP
                self.send(greeting)
            except (ServerLost, ServerUnavailable) as error:
                LOG.info("%s", error)
                self.close()
                self._rests_until = time.monotonic() + self.connect_cooldown_seconds
        return self.connected

    def fileno(self) -> int:
        return -1 if self._wire is None else self._wire.fileno()

    def send(self, packets: bytes) -> None:
        """ServerUnavailable: it has gone."""
        try:
            if self._wire is None:
                raise ServerLost("%s: not connected" % (self.address,))
            self._wire.send(packets)
        except ServerLost as error:
            self.close()
            raise ServerUnavailable(str(error)) from None

    def receive(self) -> List[Event]:
        """What has come. ServerUnavailable: it has gone."""
        try:
            return [] if self._wire is None else self._wire.receive(0)
        except ServerLost as error:
            self.close()
            raise ServerUnavailable(str(error)) from None

    def close(self) -> None:
        wire, self._wire, self.connected = self._wire, None, False
        if wire is not None:
            wire.close()


class GearmanWorker(GearmanConnectionManager):
    """Register functions, then `work`. All of it belongs to one thread."""

    connection_class = GearmanWorkerConnection

    def __init__(self, host_list: Any = None) -> None:
        super().__init__(host_list)
        self.worker_abilities: Dict[Any, Callable[["GearmanWorker", GearmanJob], Any]] = {}
        """By name, as it was registered."""
        self._names: Dict[bytes, Any] = {}
        self.worker_client_id: Any = None
        self._jobs = 0

    def shutdown(self) -> None:
        """Close every connection: a job that runs goes to another worker."""
        for connection in self.connection_list:
            connection.close()

    # -- what it can do ------------------------------------------------------------

    def register_task(self, task: Any, callback_function: Callable[["GearmanWorker", GearmanJob], Any]) -> Any:
        """Do the jobs of a function by `callback_function(worker, job)`, which returns the result or raises. Returns `task`."""
        raw = wire_name(task)
        # "name" and b"name" are one function, whichever is registered.
        self.worker_abilities.pop(self._names.get(raw), None)
        self._names[raw] = task
        self.worker_abilities[task] = callback_function
        self._tell_all(pack(PacketType.CAN_DO, raw))
        return task

    def unregister_task(self, task: Any) -> Any:
        """Returns `task`; a function that is not registered is ignored."""
        raw = wire_name(task)
        if raw in self._names:
            del self.worker_abilities[self._names.pop(raw)]
            self._tell_all(pack(PacketType.CANT_DO, raw))
        return task

    def set_client_id(self, client_id: Any) -> Any:
        """What the server lists it as. Returns `client_id`."""
        self.worker_client_id = client_id
        self._tell_all(pack(PacketType.SET_CLIENT_ID, wire_name(client_id)))
        return client_id

    def _tell_all(self, packet: bytes) -> None:
        for connection in self.connection_list:
            if connection.connected:
                # One that sleeps is woken by jobs that come later, not by those of a new function that are there.
                self._send_to(connection, packet + _PRE_SLEEP * (connection.state == ASLEEP))

    def _greeting(self) -> bytes:
        packets = [] if self.worker_client_id is None else [pack(PacketType.SET_CLIENT_ID, wire_name(self.worker_client_id))]
        packets.append(pack(PacketType.RESET_ABILITIES))
        packets += [pack(PacketType.CAN_DO, raw) for raw in self._names]
        return b"".join(packets) + _PRE_SLEEP

    # -- working -------------------------------------------------------------------

    def work(self, poll_timeout: Optional[float] = POLL_TIMEOUT_IN_SECONDS) -> None:
        """Work until `after_poll` or `after_job` returns False, and close the connections.

        Each `poll_timeout` seconds it connects anew to servers that were lost.
        ServerUnavailable: none is connected any more. Whatever a hook raises
        ends it too; a job that was running goes to another worker.
        """
        try:
            while self._work_for(poll_timeout):
                pass
        finally:
            self.shutdown()

    def establish_worker_connections(self) -> List[Any]:
        """Connect where it can, and return the connections that there are, in random order."""
        greeting = self._greeting()
        connections = [connection for connection in self.connection_list if connection.connect(greeting)]
        random.shuffle(connections)
        return connections

    def _work_for(self, poll_timeout: Optional[float]) -> bool:
        """Work until the timeout. False: a hook says that it is enough."""
        connections = self.establish_worker_connections()
        deadline = None if poll_timeout is None else time.monotonic() + poll_timeout
        go_on = bool(self.after_poll(False))
        while go_on:
            connections = [connection for connection in connections if connection.connected]
            if not connections:
                raise ServerUnavailable("no server is connected: %r" % self)
            left_s = _LONGEST_S if deadline is None else min(max(0.0, deadline - time.monotonic()), _LONGEST_S)
            jobs = self._jobs
            any_activity = self._poll_once(connections, left_s)
            go_on = bool(self.after_poll(any_activity))
            if self._jobs > jobs:
                go_on = go_on and bool(self.after_job())
            if left_s == 0:
                break
        return go_on

    def _poll_once(self, connections: List[Any], timeout_s: float) -> bool:
        """Grab a job where one may be, wait for what comes, and serve it. Returns whether anything has come."""
        if not any(connection.state == GRABBING for connection in connections):
            for connection in connections:
                if connection.state == AWAKE and self._send_to(connection, _GRAB):
                    connection.state = GRABBING
                    break
        poll = select.poll()
        readable = {}
        for connection in connections:
            if connection.connected:
                readable[connection.fileno()] = connection
                poll.register(connection, select.POLLIN)
        ready = poll.poll(timeout_s * 1000) if readable else []
        for fd, _ in ready:
            self._serve(readable[fd])
        return bool(ready)

    def _serve(self, connection: Any) -> None:
        try:
            for kind, body in connection.receive():
                serve = _SERVE.get(kind)
                if serve is not None and connection.connected:
                    serve(self, connection, body)
        except ServerUnavailable as error:
            if connection.connected:
                raise
            LOG.warning("%s", error)

    def _send_to(self, connection: Any, packets: bytes) -> bool:
        """False: it has gone."""
        try:
            connection.send(packets)
        except ServerUnavailable as error:
            LOG.warning("%s", error)
        connected: bool = connection.connected
        return connected

    def _noop(self, connection: Any, body: bytes) -> None:
        if connection.state == ASLEEP:
            connection.state = AWAKE

    def _no_job(self, connection: Any, body: bytes) -> None:
        connection.state = ASLEEP
        connection.send(_PRE_SLEEP)

    def _assign(self, connection: Any, body: bytes) -> None:
        handle, function, data = body.split(b"\0", 2)
        self._assigned(connection, handle, function, None, data)

    def _assign_uniq(self, connection: Any, body: bytes) -> None:
        handle, function, unique, data = body.split(b"\0", 3)
        self._assigned(connection, handle, function, unique, data)

    def _assigned(self, connection: Any, handle: bytes, function: bytes, unique: Optional[bytes], data: bytes) -> None:
        if function in self._names:
            self._jobs += 1
            self._run(self.job_class(connection, handle, self._names[function], unique, data))
        else:
            LOG.warning("%s: job %r is of %r, which is not registered any more", connection.address, handle, function)
            connection.send(pack(PacketType.WORK_FAIL, handle))
        connection.state = ASLEEP
        if connection.connected:
            connection.send(_PRE_SLEEP)

    def _run(self, job: GearmanJob) -> None:
        try:
            job.data = self.decode(job.data)
        except Exception:
            self.on_job_exception(job, sys.exc_info())
        else:
            self.on_job_execute(job)

    def _complain(self, connection: Any, body: bytes) -> None:
        code, _, text = body.partition(b"\0")
        LOG.warning("%s: it said %s: %s", connection.address, code.decode("utf-8", "replace"), text.decode("utf-8", "replace"))

    # -- to override -----------------------------------------------------------------

    def after_poll(self, any_activity: bool) -> bool:
        """Called after each poll, and before the first. False: stop working."""
        return True

    def after_job(self) -> bool:
        """Called once after each job, after `after_poll`. False: stop working."""
        return True

    def on_job_execute(self, current_job: GearmanJob) -> bool:
        """Run a job. Whatever it is overridden with ends the job, by one of the next two or by itself."""
        try:
            result = self.worker_abilities[current_job.task](self, current_job)
        except Exception:
            return self.on_job_exception(current_job, sys.exc_info())
        return self.on_job_complete(current_job, result)

    def on_job_exception(self, current_job: GearmanJob, exc_info: Tuple[Any, Any, Any]) -> bool:
        """The function raised an exception, or the encoder did on its workload or its result: log it, and the job fails."""
        LOG.error("job %r of %r raised an exception", current_job.handle, current_job.task, exc_info=exc_info)
        self.send_job_failure(current_job)
        return False

    def on_job_complete(self, current_job: GearmanJob, job_result: Any) -> bool:
        """The function returned: the job completes."""
        try:
            self.send_job_complete(current_job, job_result)
        except ServerUnavailable:
            raise
        except Exception:
            return self.on_job_exception(current_job, sys.exc_info())
        return True

    # -- reports ---------------------------------------------------------------------
    #
    # Each has been sent on return, so `poll_timeout` has no effect. ServerUnavailable: its server is lost.

    def send_job_status(
        self, current_job: GearmanJob, numerator: float, denominator: float, poll_timeout: Optional[float] = None
    ) -> None:
        """How far it is: two numbers."""
        if not all(isinstance(number, (int, float)) for number in (numerator, denominator)):
            raise TypeError("status %r of %r: expected two numbers" % (numerator, denominator))
        self._report(PacketType.WORK_STATUS, current_job, str(numerator).encode(), str(denominator).encode())

    def send_job_data(self, current_job: GearmanJob, data: Any, poll_timeout: Optional[float] = None) -> None:
        """A part of the result, encoded."""
        self._report(PacketType.WORK_DATA, current_job, self.encode(data))

    def send_job_warning(self, current_job: GearmanJob, data: Any, poll_timeout: Optional[float] = None) -> None:
        """A warning, encoded."""
        self._report(PacketType.WORK_WARNING, current_job, self.encode(data))

    def send_job_complete(self, current_job: GearmanJob, data: Any, poll_timeout: Optional[float] = None) -> None:
        """End the job with a result, encoded."""
        self._report(PacketType.WORK_COMPLETE, current_job, self.encode(data))

    def send_job_failure(self, current_job: GearmanJob, poll_timeout: Optional[float] = None) -> None:
        """End the job: it has failed."""
        self._report(PacketType.WORK_FAIL, current_job)

    def send_job_exception(self, current_job: GearmanJob, data: Any, poll_timeout: Optional[float] = None) -> None:
        """Say that there was an exception, encoded, and end the job: it has failed."""
        # To most servers the exception ends it, to some it does not; the former complain of the failure, which does no harm.
        self._report(PacketType.WORK_EXCEPTION, current_job, self.encode(data))
        self._report(PacketType.WORK_FAIL, current_job)

    def wait_until_updates_sent(self, multiple_gearman_jobs: Any, poll_timeout: Optional[float] = None) -> None:
        """They have been sent."""

    def _report(self, kind: int, job: GearmanJob, *arguments: bytes) -> None:
        connection: Any = job.connection
        connection.send(pack(kind, wire_bytes(job.handle), *arguments))


_SERVE: Dict[int, Callable[[GearmanWorker, Any, bytes], None]] = {
    int(PacketType.NOOP): GearmanWorker._noop,
    int(PacketType.NO_JOB): GearmanWorker._no_job,
    int(PacketType.JOB_ASSIGN): GearmanWorker._assign,
    int(PacketType.JOB_ASSIGN_UNIQ): GearmanWorker._assign_uniq,
    int(PacketType.ERROR): GearmanWorker._complain,
}
"""By packet type. Whatever else comes is for nobody here."""
