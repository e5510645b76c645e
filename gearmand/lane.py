"""One thread of a worker: to every server a worker of its own. Grabs jobs, runs them, sleeps when there are none.

Lanes share no connection, so nothing is locked from grab to result; what they
do share is the `Shift`.

One GRAB_JOB at a time is unanswered, over all servers, so a lane holds one job
at a time; only where a server has not answered for a second do the others have
their turn all the same. The grab that follows a job leaves together with its
result where the same server is next: with one server always, and with several
as long as no other has said NOOP.
"""

from __future__ import annotations

import logging
import select
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Optional

from gearmand.assigned import WORK_COMPLETE, WORK_EXCEPTION, WORK_FAIL, AssignedJob
from gearmand.connection import Connection
from gearmand.errors import ServerLost
from gearmand.protocol import PacketType, pack
from gearmand.shift import Shift, called
from gearmand.station import ASLEEP, AWAKE, CONNECTING, DOWN, GRAB_JOB, GRABBING, NEVER, OWING, Attempt, Station
from gearmand.waker import Waker

LOG = logging.getLogger("gearmand.worker")

PRE_SLEEP = pack(PacketType.PRE_SLEEP)

# How long a worker that stops waits for the answer to its last grab: it may be a job.
_LEAVE_S = 1.0
_UNKNOWN_COMMAND = (b"server_error", b"INVALID_COMMAND")
# How often `stop_if` is asked while there is nothing to do.
_STOP_IF_S = 1.0


class Lane:
    """`run` belongs to one thread; `waker.wake` and the attributes without underscore are for all to use or read."""

    def __init__(self, shift: Shift) -> None:
        self.waker = Waker()
        self.jobs = 0
        """How many it has begun."""
        self.last_job_at: Optional[float] = None
        self.idle = False
        self._shift = shift
        self._hooks = shift.hooks
        self._tells = shift.stop_if is not None or shift.hooks.follow_a_job
        """Whether something is called after a job. That may say that it was the last, so no grab leaves with its result."""
        self._abilities = shift.abilities
        self._stations: Deque[Station] = deque(Station(address, shift.io_timeout_s) for address in shift.addresses)
        self._connected: Dict[int, Station] = {}
        self._grabbing: Optional[Station] = None
        self._look_at = 0.0
        """No station is due before then."""
        self._poll = select.poll()
        self._poll.register(self.waker, select.POLLIN)

    def run(self) -> None:
        """Work until the shift is over. What is left of the loop's own errors costs one connection."""
        shift = self._shift
        try:
            while not shift.over():
                now = time.monotonic()
                if now >= self._look_at or self._abilities is not shift.abilities:
                    self._tend(now)
                if self._grabbing is None:
                    self._grab_next(now)
                self._hear(self._wait_ms())
            self._take_leave()
        finally:
            self._close()

    # -- waiting -----------------------------------------------------------------

    def _wait_ms(self) -> Optional[float]:
        now = time.monotonic()
        shift = self._shift
        at = self._look_at
        if shift.ends_at is not None and shift.ends_at < at:
            at = shift.ends_at
        if shift.stop_if is not None and self.idle and now + _STOP_IF_S < at:
            at = now + _STOP_IF_S
        return None if at == NEVER else max(0.0, at - now) * 1000

    def _hear(self, wait_ms: Optional[float]) -> None:
        """Wait for whatever comes first, and serve it."""
        for fd, _ in self._poll.poll(wait_ms):
            station = self._connected.get(fd)
            if station is not None:
                self._attend(station)
            else:
                self.waker.drain()
                self._look_at = 0.0

    def _attend(self, station: Station) -> None:
        """Serve what the station's server has sent."""
        connection = station.connection
        assert connection is not None
        try:
            events = connection.receive(0)
            if not events and station.owes:
                station.expects(time.monotonic())  # A part of a packet.
            for kind, body in events:
                serve = _SERVE.get(kind)
                if serve is not None and station.connection is connection:
                    serve(self, station, body)
        except ServerLost as error:
            self._lose(station, error)
        except Exception as error:
            LOG.exception("%s: a bug of gearmand's own", station.server)
            self._lose(station, ServerLost("%s: given up after a bug: %r" % (station.server, error), station.server))

    def _send(self, station: Station, data: bytes) -> None:
        assert station.connection is not None
        try:
            station.connection.send(data)
        except ServerLost as error:
            self._lose(station, error)

    # -- stations: what is due -----------------------------------------------------

    def _tend(self, now: float) -> None:
        """See to every station that is due, and tell all of them what the worker can do now."""
        self._abilities = self._shift.abilities
        for station in list(self._stations):
            if station.connection is not None and not station.owes:
                self._announce(station)
            if station.state == CONNECTING:
                self._see_attempt(station)
            elif station.due_at <= now:
                _DUE[station.state](self, station)
        self._look_at = min(station.due_at for station in self._stations)

    def _connect(self, station: Station) -> None:
        station.state, station.due_at = CONNECTING, NEVER
        try:
            station.attempt = Attempt(station.address, self._shift.connect, self.waker.wake)
        except RuntimeError as error:  # No thread to be had.
            self._lose(station, ServerLost("%s: cannot connect: %s" % (station.server, error), station.server))

    def _see_attempt(self, station: Station) -> None:
        assert station.attempt is not None
        outcome = station.attempt.outcome
        if isinstance(outcome, ServerLost):
            self._lose(station, outcome)
        elif outcome is not None:
            station.connected(outcome)
            self._connected[outcome.fileno()] = station
            self._poll.register(outcome, select.POLLIN)
            self._call(self._hooks.on_connect, station.server)
            if self._shift.greeting:
                self._send(station, self._shift.greeting)
            if station.connection is not None:
                self._announce(station)

    def _announce(self, station: Station) -> None:
        """Tell the server what has changed in what the worker can do."""
        station.told = self._abilities
        told = station.announced
        wanted = {function: ability.announcement for function, ability in self._abilities.items()}
        if told == wanted:
            return
        # Withdrawn first where only the timeout has changed: the C server counts a worker that says it twice as two.
        packets = [pack(PacketType.CANT_DO, function) for function in told if told[function] != wanted.get(function)]
        packets += [packet for function, packet in wanted.items() if told.get(function) != packet]
        station.announced = wanted
        # Jobs may be queued for what is new, and that alone wakes nobody.
        if station.state == ASLEEP:
            station.wakes()
        self._send(station, b"".join(packets))

    def _go_on_without(self, station: Station) -> None:
        """It takes its time to answer: the others have their turn."""
        if station.answer_due_at <= station.due_at:
            self._give_up(station)
        else:
            station.owes_on()
            self._grabbing = None

    def _give_up(self, station: Station) -> None:
        """It has not answered in time, unless it did while a job ran."""
        connection, due_at = station.connection, station.answer_due_at
        assert connection is not None
        if any(fd == connection.fileno() for fd, _ in self._poll.poll(0)):
            self._attend(station)
        if station.connection is connection and station.owes and station.answer_due_at == due_at:
            timeout_s = self._shift.io_timeout_s or 0.0
            self._lose(station, ServerLost("%s: lost: no answer to a GRAB_JOB in %g s" % (station.server, timeout_s), station.server))

    def _wake(self, station: Station) -> None:
        station.wakes()

    def _lose(self, station: Station, error: ServerLost) -> None:
        """The station goes down, for a while."""
        unconfirmed = station.unconfirmed
        connection = station.goes_down(time.monotonic())
        self._look_at = min(self._look_at, station.due_at)
        if self._grabbing is station:
            self._grabbing = None
        if station.server not in self._shift.down:
            self._shift.down.add(station.server)
            LOG.warning("%s; trying again until it is back", error)
        if unconfirmed is not None:
            LOG.warning("%s: the result of job %s may be lost with it", station.server, unconfirmed.decode("utf-8", "replace"))
        if connection is not None:
            self._disconnect(connection)
            self._call(self._hooks.on_disconnect, station.server, error)

    def _disconnect(self, connection: Connection) -> None:
        self._poll.unregister(connection)
        del self._connected[connection.fileno()]
        connection.close()

    # -- grabbing -----------------------------------------------------------------

    def _grab_next(self, now: float) -> None:
        """Ask the next server that may have a job."""
        if len(self._connected) > 1:
            self._hear(0)
        for _ in range(len(self._stations)):
            if self._grabbing is not None:
                return
            self._stations.rotate(-1)
            station = self._stations[-1]
            if station.state == AWAKE:
                station.grabs(now)
                self._grabbing = station
                self._look_at = min(self._look_at, station.due_at)
                self._send(station, station.grab)
        if self._grabbing is None:
            self._rest()

    def _rest(self) -> None:
        """There is nothing to do, unless a server is only just being connected to, or still owes an answer."""
        if not self.idle:
            if any(station.state in (AWAKE, CONNECTING, OWING) for station in self._stations):
                return
            self.idle = True
            self._call(self._hooks.on_idle)
        if self._shift.stop_if is not None:
            self._shift.ask_to_stop()

    def _same_again(self, station: Station) -> bool:
        """Whether the next grab goes to the same server."""
        if self._tells or self._grabbing is not None or self._shift.over() or station.told is not self._shift.abilities:
            return False
        if len(self._connected) == 1:
            return True
        others_awake = any(other.state == AWAKE for other in self._stations if other is not station)
        return not others_awake and not self._poll.poll(0)

    # -- what servers send ----------------------------------------------------------

    def _answered(self, station: Station) -> None:
        """The station's server has answered a grab."""
        if self._grabbing is station:
            self._grabbing = None
        station.unconfirmed = None
        station.wakes()
        if station.told is not self._abilities:
            self._look_at = 0.0
        if not station.answered:
            station.has_answered()
            if station.server in self._shift.down:
                self._shift.down.discard(station.server)
                LOG.info("%s: is back", station.server)

    def _no_job(self, station: Station, body: bytes) -> None:
        if not station.owes:
            return
        self._answered(station)
        if not self._shift.stopping:
            station.sleeps(time.monotonic())
            self._look_at = min(self._look_at, station.due_at)
            self._send(station, PRE_SLEEP)

    def _noop(self, station: Station, body: bytes) -> None:
        # While a grab is unanswered it says nothing new: the answer, or the PRE_SLEEP that follows it, tells.
        if station.state == ASLEEP:
            station.wakes()

    def _complain(self, station: Station, body: bytes) -> None:
        code, _, text = body.partition(b"\0")
        level = logging.DEBUG if code in station.complaints else logging.WARNING
        station.complaints.add(code)
        if code in _UNKNOWN_COMMAND and station.owes and not station.answered and station.grab is not GRAB_JOB:
            # The Perl server knows no GRAB_JOB_UNIQ.
            station.grab = GRAB_JOB
            self._send(station, GRAB_JOB)
            return
        LOG.log(level, "%s: ERROR %s: %s", station.server, code.decode("utf-8", "replace"), text.decode("utf-8", "replace"))

    def _assign(self, station: Station, body: bytes) -> None:
        handle, function, workload = _arguments(station, body, 3)
        self._run(station, handle, function, b"", workload)

    def _assign_uniq(self, station: Station, body: bytes) -> None:
        self._run(station, *_arguments(station, body, 4))

    def _assign_all(self, station: Station, body: bytes) -> None:
        handle, function, unique, reducer, workload = _arguments(station, body, 5)
        self._run(station, handle, function, unique, workload, reducer)

    def _run(
        self, station: Station, handle: bytes, function: bytes, unique: bytes, data: bytes, reducer: Optional[bytes] = None
    ) -> None:
        """Run an assigned job, send its end, and grab the next one along with it where that is next."""
        self._answered(station)
        ability = self._shift.abilities.get(function)
        connection = station.connection
        assert connection is not None
        if ability is None:
            LOG.info("%s: job %r is of %r, which this worker cannot do any more", station.server, handle, function)
            connection.send(pack(WORK_FAIL, handle))
            return
        self.jobs += 1
        self.idle = False
        job = AssignedJob(ability, connection, station.server, handle, unique, data, reducer)
        hooks = self._hooks
        if hooks.on_job_start is not None:
            self._call(hooks.on_job_start, job)
        packets = job.perform()
        self.last_job_at = now = time.monotonic()
        try:
            if job.lost is None:
                station.unconfirmed = handle
                self._end(station, packets, now)
        except ServerLost as error:
            job.lost = error
        if job.lost is not None:
            LOG.warning("%s: job %s of %s: its server was lost, its result is dropped", station.server, job.handle, job.function)
            station.unconfirmed = None
        if self._tells:
            self._tell(job)
        if job.lost is not None and station.connection is connection:
            raise job.lost

    def _end(self, station: Station, packets: List[bytes], now: float) -> None:
        assert station.connection is not None
        if self._same_again(station):
            packets.append(station.grab)
            station.grabs(now)
            self._grabbing = station
            if station.due_at < self._look_at:
                self._look_at = station.due_at
        if packets:
            station.connection.send(b"".join(packets))

    def _tell(self, job: AssignedJob) -> None:
        """Tell the hooks how a job ended; ask whether it was the last."""
        hooks = self._hooks
        if job.lost is not None:
            pass  # Nobody knows how it ends.
        elif job.ended_by == WORK_COMPLETE:
            self._call(hooks.on_job_complete, job, job.result)
        elif job.ended_by == WORK_FAIL:
            self._call(hooks.on_job_fail, job)
        elif job.ended_by == WORK_EXCEPTION:
            self._call(hooks.on_job_exception, job, job.error)
        self._call(hooks.after_job, job)
        if self._shift.stop_if is not None:
            self._shift.ask_to_stop()

    def _call(self, hook: Optional[Callable[..., Any]], *arguments: Any) -> None:
        if hook is not None:
            called(hook, *arguments)

    # -- the end ------------------------------------------------------------------

    def _take_leave(self) -> None:
        """Do the job that may be on its way already; the server would take its loss for a failed attempt.

        Does not work: RESET_ABILITIES, to be told at once that there is none.
        The C server takes every job away from a worker that says so.
        """
        ends_at = time.monotonic() + _LEAVE_S
        while any(station.owes and station.answered for station in self._stations):
            left_s = ends_at - time.monotonic()
            self._hear(max(0.0, left_s) * 1000)
            if left_s <= 0:
                break

    def _close(self) -> None:
        for station in self._stations:
            if station.attempt is not None:
                station.attempt.abandon()
            if station.connection is not None:
                self._disconnect(station.connection)
                self._call(self._hooks.on_disconnect, station.server, None)
        self.idle = True


def _arguments(station: Station, body: bytes, count: int) -> List[bytes]:
    arguments = body.split(b"\0", count - 1)
    if len(arguments) < count:
        raise ServerLost("%s: lost: it assigned a job with %d arguments, not %d" % (station.server, len(arguments), count), station.server)
    return arguments


_SERVE: Dict[int, Callable[[Lane, Station, bytes], None]] = {
    int(PacketType.NOOP): Lane._noop,
    int(PacketType.NO_JOB): Lane._no_job,
    int(PacketType.JOB_ASSIGN): Lane._assign,
    int(PacketType.JOB_ASSIGN_UNIQ): Lane._assign_uniq,
    int(PacketType.JOB_ASSIGN_ALL): Lane._assign_all,
    int(PacketType.ERROR): Lane._complain,
}
"""By packet type. Whatever else comes is for nobody here."""

_DUE: Dict[int, Callable[[Lane, Station], None]] = {
    DOWN: Lane._connect,
    GRABBING: Lane._go_on_without,
    OWING: Lane._give_up,
    ASLEEP: Lane._wake,
}
"""By state: what a station whose time has come needs."""
