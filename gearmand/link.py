"""One job server as a client sees it: the connection, while there is one, and what is awaited on it.

    ask ──▶ questions, in order      JOB_CREATED, ERROR, STATUS_RES ... answer them in order
                │ created
                ▼
            jobs, by handle          WORK_... tell of them until they end

Who reads? One thread at a time, which holds `_reading`. A caller that waits for
its own answer reads the connection itself where nobody does, so one job after
another costs no change of threads. Whenever somebody asks and does not wait, or
a caller that has read goes away with answers still to come, the link's own
thread reads. It ends after a second with nothing to wait for.

Locks: `_sending` makes asking and sending one step; `_attending` guards the
link's own thread, and its Condition is notified when there is something to
read; `_reading` is the reader's. Order: `_reading`, then `_sending` or
`_attending`; callbacks are called with `_reading` held, and may ask.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Optional

from gearmand.addresses import Address
from gearmand.connection import Connection
from gearmand.errors import ServerLost
from gearmand.protocol import Event, PacketType
from gearmand.submitted import LOG, SubmittedJob

_IDLE_S = 1.0
_FIRST_REST_S = 0.5
_LONGEST_REST_S = 60.0

_ENDS = frozenset(map(int, (PacketType.WORK_COMPLETE, PacketType.WORK_FAIL, PacketType.WORK_EXCEPTION)))
_REPORTS = _ENDS | frozenset(map(int, (PacketType.WORK_DATA, PacketType.WORK_WARNING, PacketType.WORK_STATUS)))


Connect = Callable[[Address, Optional[float]], Connection]


class Link:
    """`connect`: makes the connection within so many seconds, or raises ServerLost. `greeting`: what is sent first; `ignored`: how many answers that gets; `presents`: whether there is a token in it, which gets one more, the first."""

    def __init__(self, address: Address, connect: Connect, greeting: bytes, ignored: int, presents: bool = False) -> None:
        self.address = address
        self._connect = connect
        self._greeting = greeting
        self._greeted = [_Presented()] * presents + [_Ignored()] * ignored
        # No attempt to connect before this time, where there is another server.
        self.rests_until = 0.0
        self._rest_s = 0.0
        # The last attempt that failed, and how many have.
        self._failure: Optional[ServerLost] = None
        self._failures = 0
        self._closed = False
        self.forget()

    def forget(self) -> None:
        """Begin anew, as after a fork: what was awaited is the parent's."""
        connection = getattr(self, "_connection", None)
        if connection is not None:
            connection.close()
        self._connection: Optional[Connection] = None
        self._questions: Deque[Any] = deque()
        # What has been received and not been told yet: a callback may be
        # interrupted by an exception.
        self._events: Deque[Event] = deque()
        # Several submissions may have been given one handle; each is told of everything.
        self._jobs: Dict[bytes, Deque[SubmittedJob]] = {}
        self._sending = threading.Lock()
        self._reading = threading.Lock()
        self._reader: Optional[int] = None
        self._attending = threading.Condition(threading.Lock())
        self._thread: Optional[threading.Thread] = None
        self._wanted = False

    # -- asking ----------------------------------------------------------------

    def ask(self, questions: List[Any], packets: bytes, deadline: Optional[float] = None) -> None:
        """Send packets, and have each question answered in turn, or told that it is lost.

        ServerLost: there is no connection and none can be made, or not before
        the deadline (monotonic); the questions are the caller's again.
        """
        failures = self._failures
        if not self._sending.acquire(timeout=-1 if deadline is None else max(0.0, deadline - time.monotonic())):
            raise ServerLost("%s: others have been waiting for it, too, for too long" % (self.address,), str(self.address))
        try:
            if self._failure is not None and self._failures != failures and self._connection is None:
                raise self._failure  # Somebody else has just tried to connect.
            connection = self._connected(deadline)
            self._questions.extend(questions)
            try:
                connection.send(packets)
            except ServerLost:
                # Whoever reads finds out and tells all who wait.
                connection.shut_down()
        finally:
            self._sending.release()

    def attend(self) -> None:
        """See to it that what comes is read."""
        with self._attending:
            self._wanted = True
            if self._thread is None:
                thread = threading.Thread(target=self._attend, name="gearmand-client %s" % (self.address,), daemon=True)
                thread.start()
                self._thread = thread
            else:
                self._attending.notify()

    def wait(self, question: Any, deadline: Optional[float]) -> None:
        """Read until the question, a Future, is done or the deadline (monotonic) has passed, if nobody else reads.

        Look at it afterwards: it may have gone to another server, or be read
        for by another thread. RuntimeError: called by a callback.
        """
        if self.reads_here():
            raise RuntimeError("a callback cannot wait for the connection that it is called from: use submit")
        if self._reading.acquire(False):
            self._reader = threading.get_ident()
            try:
                while not question.done() and self._connection is not None:
                    left_s = None if deadline is None else deadline - time.monotonic()
                    if left_s is not None and left_s <= 0:
                        break
                    self._read(left_s)
            finally:
                self._reader = None
                self._reading.release()
                if self._awaits_something:
                    self.attend()

    def reads_here(self) -> bool:
        """Whether this thread is the one that reads, so in a callback."""
        return self._reader == threading.get_ident()

    def close(self) -> None:
        """End the connection for good: all who wait are told."""
        self._closed = True
        connection = self._connection
        if connection is not None:
            connection.shut_down()  # Whoever is sending on it stops.
        with self._sending:
            connection = self._connection
        if connection is not None:
            connection.shut_down()
        if connection is not None or self._thread is not None:
            self.attend()

    def rest(self) -> None:
        """It could not be reached, or has not answered: the others come first for a while, longer each time."""
        self._rest_s = min(max(2 * self._rest_s, _FIRST_REST_S), _LONGEST_REST_S)
        self.rests_until = time.monotonic() + self._rest_s

    def _connected(self, deadline: Optional[float]) -> Connection:
        connection = self._connection
        if self._closed:
            raise ServerLost("%s: the client is closed" % (self.address,), str(self.address))
        if connection is not None:
            if self._awaits_something or connection.silent_and_open:
                return connection
            # It was idle when it ended: nobody has lost anything.
            connection.close()
            self._connection = None
        try:
            connection = self._connect(self.address, None if deadline is None else max(0.01, deadline - time.monotonic()))
            connection.send(self._greeting)
        except ServerLost as error:
            self._failure = error
            self._failures += 1
            self.rest()
            raise
        self._rest_s = self.rests_until = 0.0
        self._questions.extend(self._greeted)
        self._connection = connection
        if self._closed:
            connection.shut_down()  # `close` may not have seen it.
        return connection

    # -- reading ---------------------------------------------------------------

    @property
    def _awaits_something(self) -> bool:
        return bool(self._questions or self._jobs)

    def _attend(self) -> None:
        """The link's own thread."""
        while True:
            with self._attending:
                if not self._attending.wait_for(lambda: self._wanted, _IDLE_S):
                    self._thread = None
                    return
                self._wanted = False
            with self._reading:
                self._reader = threading.get_ident()
                try:
                    while self._connection is not None and self._awaits_something:
                        self._read(None)
                    self._end_if_over()
                finally:
                    self._reader = None
            # Whoever asked while this thread held `_reading` has relied on it.
            if self._awaits_something:
                with self._attending:
                    self._wanted = True
            if self._closed:
                with self._attending:
                    if not self._wanted:
                        self._thread = None
                        return

    def _read(self, timeout_s: Optional[float]) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            if not self._events:
                self._events.extend(connection.receive(timeout_s))
            while self._events:
                self._take(self._events.popleft())
        except ServerLost as error:
            self._lose(connection, error)

    def _take(self, event: Event) -> None:
        kind, body = event
        if kind in _REPORTS:
            handle, _, data = body.partition(b"\0")  # type: ignore[union-attr]
            waiting = self._jobs.get(handle)
            if waiting is None:
                return
            job = waiting[0]
            if kind not in _ENDS:
                waiting.rotate(-1)
            else:
                waiting.popleft()
                if not waiting:
                    del self._jobs[handle]
            self._tell(job, job.reported, kind, data)
        elif self._questions:
            # It is among the jobs before it leaves the questions: a connection
            # on which nothing is awaited is taken for an idle one.
            question = self._questions[0]
            if kind == PacketType.JOB_CREATED and not getattr(question, "background", True):
                self._jobs.setdefault(body, deque()).append(question)  # type: ignore[arg-type]
            self._questions.popleft()
            self._tell(question, question.answered, str(self.address), kind, body)
        else:
            LOG.warning("%s: a packet of type %d that nobody asked for", self.address, kind)

    def _tell(self, question: Any, tell: Callable[..., Any], *arguments: Any) -> None:
        try:
            tell(*arguments)
        except Exception as error:  # Its encoder's: it could not decode what came.
            question.end(error)
        except BaseException:
            if threading.current_thread() is not self._thread:
                raise
            # This thread is not the callback's to end.
            LOG.exception("%s: a callback raised an exception", self.address)

    def _lose(self, connection: Connection, error: ServerLost) -> None:
        with self._sending:
            if self._connection is not connection:
                return
            self._connection = None
            questions = list(self._questions)
            questions += [job for waiting in self._jobs.values() for job in waiting]
            self._questions.clear()
            self._jobs.clear()
            self._events.clear()
        connection.close()
        for question in questions:
            self._tell(question, question.lost, error)

    def _end_if_over(self) -> None:
        """Close a connection that was shut down with nothing to wait for."""
        with self._sending:
            connection = self._connection
            if connection is not None and not self._awaits_something and not connection.silent_and_open:
                self._connection = None
                connection.close()


class _Ignored:
    """The answer to a greeting: whatever it is, nobody waits for it."""

    def answered(self, server: str, kind: int, body: bytes) -> None:
        pass

    def lost(self, error: Exception) -> None:
        pass


class _Presented(_Ignored):
    """The answer to a token. One that is refused leaves the client with what everybody may do there."""

    def answered(self, server: str, kind: int, body: bytes) -> None:
        if kind == PacketType.ERROR:
            LOG.warning("%s: the token was refused: %s", server, body.replace(b"\0", b": ").decode("utf-8", "replace"))
