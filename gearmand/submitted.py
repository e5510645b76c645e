"""One job as its client sees it: a Future that also tells what happens on the way.

    submitted ──▶ created ──▶ data, warning, status ... ──▶ complete │ fail │ exception
         ▲                                                      │ failed or lost,
         └────────────────────── retry ─────────────────────────┘ and tries are left

Threads: any may wait, iterate or add callbacks. What arrives is noted by the
one thread that reads the connection (see `link`), which also calls the
callbacks: a callback must not wait for another job of the same client.
"""

from __future__ import annotations

import concurrent.futures
import logging
import os
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional

from gearmand.errors import ConfigError, JobError, JobException, JobFailed, JobLost, JobRefused, JobTimeout, ServerLost
from gearmand.protocol import PacketType

LOG = logging.getLogger("gearmand.client")

CALLBACKS = ("created", "data", "warning", "status", "complete", "fail", "exception", "retry")
"""What happens to a job; `on_` before it makes the name of the callback."""

# Before Python 3.11 a Future's timeout is an exception of its own.
if issubclass(JobTimeout, concurrent.futures.TimeoutError):
    _Timeout = JobTimeout
else:
    _Timeout = type("JobTimeout", (JobTimeout, concurrent.futures.TimeoutError), {})


def too_late(text: str, function: str, handle: Optional[str], server: Optional[str]) -> JobTimeout:
    late: JobTimeout = _Timeout(text, function, handle, server)
    return late


_LONGEST_S = threading.TIMEOUT_MAX / 2
# For what happens to few jobs.
_rare = threading.Lock()

TIMEOUTS = (TimeoutError, concurrent.futures.TimeoutError)


class Update(NamedTuple):
    """Something that a worker reported before the job's end."""

    kind: str
    """data, warning or status."""
    value: Any
    """Of data and warnings: what the encoder made of them. Of a status: a pair, numerator and denominator."""


def callbacks_of(options: Dict[str, Any]) -> Dict[str, Callable[..., Any]]:
    """Take the `on_...` out of keyword arguments. ConfigError: one cannot be called."""
    found: Dict[str, Callable[..., Any]] = {}
    if not options:
        return found
    for kind in CALLBACKS:
        callback = options.pop("on_" + kind, None)
        if callback is not None:
            if not callable(callback):
                raise ConfigError("on_%s: %r cannot be called" % (kind, callback))
            found[kind] = callback
    return found


class SubmittedJob(concurrent.futures.Future):
    """What `Client.submit` returns. `concurrent.futures.wait` and `as_completed` take it.

    `handle`: the server's name for it, `None` until it is created. `server`:
    the server's address. `numerator`, `denominator`: the newest WORK_STATUS.
    `data`, `warnings`: all so far, decoded; no data where there is an
    `on_data`, which has taken it. `encoder`: see `encoders`. `retries_done`: how many times it was
    submitted again.

    A background job is done as soon as the server has it; its result is its
    handle.

    `cancel` gives up waiting; the server may run the job all the same
    (`Admin.cancel_job` ends it there).
    """

    def __init__(
        self,
        function: str,
        unique: str,
        packet: bytes,
        encoder: Any,
        background: bool,
        retries: int,
        client: Any,
        callbacks: Dict[str, Callable[..., Any]],
    ) -> None:
        super().__init__()
        self.function = function
        self.unique = unique
        self.background = background
        self.handle: Optional[str] = None
        self.server: Optional[str] = None
        self.numerator = 0
        self.denominator = 0
        self.retries_done = 0
        self.affinity = b""
        """Of several servers, jobs of the same go to the same; of none, to each in turn."""
        self._updates: List[Update] = []
        # Only where somebody iterates: notify whenever `_updates` grows, and at
        # the end. (Not the Future's own Condition: whoever waits for a result
        # takes its notification for the end.)
        self._changed: Optional[threading.Condition] = None
        self._packet = packet
        self.encoder = encoder
        self._retries = retries
        self._client = client
        self._callbacks = callbacks
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return "<SubmittedJob %s of %s, %s>" % (self.handle, self.function, "done" if self.done() else "not done")

    # -- for its owner ---------------------------------------------------------

    @property
    def data(self) -> List[Any]:
        return [update.value for update in list(self._updates) if update.kind == "data"]

    @property
    def warnings(self) -> List[Any]:
        return [update.value for update in list(self._updates) if update.kind == "warning"]

    def result(self, timeout: Optional[float] = None) -> Any:
        """The result, decoded, once there is one. `timeout`: seconds.

        Raises JobFailed, JobException, JobLost, JobRefused; JobTimeout (which
        is a `concurrent.futures.TimeoutError`); what the encoder raised.
        """
        self._check_wait()
        try:
            return super().result(timeout)
        except concurrent.futures.TimeoutError as error:
            raise self._own_or_late(error, timeout) from None

    def exception(self, timeout: Optional[float] = None) -> Optional[BaseException]:
        """The same, but returned; `None`: it completed."""
        self._check_wait()
        try:
            return super().exception(timeout)
        except concurrent.futures.TimeoutError as error:
            raise self._own_or_late(error, timeout) from None

    def _own_or_late(self, error: BaseException, timeout: Optional[float]) -> BaseException:
        return error if isinstance(error, JobTimeout) else self.too_late(timeout)

    def cancel(self) -> bool:
        """Give up waiting for it: no callback is called any more. False: it has ended."""
        with _rare:
            if self.cancelled():
                return True
            if not super().cancel():
                return False
            # Without this, `wait` and `as_completed` would not hear of it.
            self.set_running_or_notify_cancel()
            return True

    def too_late(self, timeout_s: Optional[float]) -> JobTimeout:
        text = "%s did not end within %g s" % (self._name(), timeout_s or 0)
        return too_late(text, self.function, self.handle, self.server)

    def __iter__(self) -> Iterator[Any]:
        """The data, as it arrives, until the job ends. If it does not end well: what `result` raises."""
        for update in self.updates():
            if update.kind == "data":
                yield update.value
        self.result()

    def updates(self, timeout_s: Optional[float] = None) -> Iterator[Update]:
        """What has been reported and what is still to come, in order, until the job ends.

        JobTimeout: nothing was reported for `timeout_s`.
        """
        self._check_wait()
        with _rare:
            if self._changed is None:
                self._changed = threading.Condition(threading.Lock())
                self.add_done_callback(SubmittedJob._notify)
            changed = self._changed
        at = 0
        while True:
            with changed:
                if not changed.wait_for(lambda: len(self._updates) > at or self.done(), timeout_s):
                    raise self.too_late(timeout_s)
            news = self._updates[at:]
            if not news:
                return
            at += len(news)
            yield from news

    def _notify(self) -> None:
        if self._changed is not None:
            with self._changed:
                self._changed.notify_all()

    def _check_wait(self) -> None:
        """Before anything that waits: whether what is waited for can come."""
        if self.done():
            return
        if self._client.reads_here():
            raise RuntimeError("%s: a callback cannot wait for the connection that it is called from" % self._name())
        if os.getpid() != self._pid:
            text = "%s: submitted before a fork, it belongs to process %d" % (self._name(), self._pid)
            raise JobLost(text, self.function, self.handle, self.server)

    def take_packet(self) -> bytes:
        """What is sent to a server; kept only where it may have to be sent again."""
        packet = self._packet
        if not self._retries:
            self._packet = b""
        return packet

    # -- for the thread that reads (see `link`) --------------------------------

    def answered(self, server: str, kind: int, body: bytes) -> None:
        """The server has taken the job, or not."""
        self.server = server
        if kind != PacketType.JOB_CREATED:
            code, _, text = body.partition(b"\0")
            said = ": ".join(part.decode("utf-8", "replace") for part in (code, text) if part)
            self.end(JobRefused("%s: refused by %s: %s" % (self._name(), server, said), self.function, None, server))
            return
        self.handle = body.decode("utf-8", "surrogateescape")
        self.call("created", self)
        if self.background:
            self.end(None, self.handle)

    def reported(self, kind: int, data: bytes) -> None:
        if self.cancelled():
            return
        _REPORTS[kind](self, data)

    def lost(self, error: Exception) -> None:
        """The connection has ended."""
        self._retry_or_end(JobLost("%s: %s" % (self._name(), error), self.function, self.handle, getattr(error, "server", None)))

    def _data(self, data: bytes) -> None:
        self._note("data", self.encoder.decode(data))

    def _warning(self, data: bytes) -> None:
        self._note("warning", self.encoder.decode(data))

    def _status(self, data: bytes) -> None:
        numerator, _, denominator = data.partition(b"\0")
        self.numerator, self.denominator = _number(numerator), _number(denominator)
        self._note("status", (self.numerator, self.denominator))

    def _complete(self, data: bytes) -> None:
        self.end(None, self.encoder.decode(data))

    def _fail(self, data: bytes) -> None:
        self._retry_or_end(JobFailed("%s failed" % self._name(), self.function, self.handle, self.server))

    def _exception(self, data: bytes) -> None:
        text = "%s raised an exception: %s" % (self._name(), data[:500].decode("utf-8", "replace"))
        self._retry_or_end(JobException(text, self.function, self.handle, data, self.server))

    def _note(self, kind: str, value: Any) -> None:
        # Data that is taken as it comes is not kept: there may be any amount of it.
        if kind != "data" or "data" not in self._callbacks:
            self._updates.append(Update(kind, value))
            self._notify()
        self.call(kind, *(value if kind == "status" else (value,)))

    def _retry_or_end(self, error: JobError) -> None:
        if self.tries_again(error):
            self._client.resubmit(self)

    def tries_again(self, error: JobError) -> bool:
        """After a failure: whether to submit it again. If not, it has ended."""
        if not self.retries_left or self.done():
            self.end(error)
            return False
        self.retries_done += 1
        self.handle = None
        self.numerator = self.denominator = 0
        self.call("retry", self.retries_done)
        return True

    @property
    def retries_left(self) -> int:
        return max(0, self._retries - self.retries_done)

    def end(self, error: Optional[BaseException], result: Any = None) -> None:
        """The job's end, once; callbacks come before whoever waits for it."""
        if self.done():
            return
        if error is None:
            if not self.background:
                self.call("complete", result)
        elif isinstance(error, JobException) and "exception" in self._callbacks:
            self.call("exception", error.data)
        else:
            self.call("fail")
        try:
            if error is None:
                self.set_result(result)
            else:
                self.set_exception(error)
        except concurrent.futures.InvalidStateError:
            pass  # Cancelled in this moment.

    def call(self, kind: str, *arguments: Any) -> None:
        callback = self._callbacks.get(kind)
        if callback is None or self.cancelled():
            return
        try:
            callback(*arguments)
        except Exception:
            LOG.exception("%s: the callback on_%s raised an exception", self._name(), kind)

    def _name(self) -> str:
        return "function %s, job %s" % (self.function, self.handle)


_REPORTS = {
    int(PacketType.WORK_DATA): SubmittedJob._data,
    int(PacketType.WORK_WARNING): SubmittedJob._warning,
    int(PacketType.WORK_STATUS): SubmittedJob._status,
    int(PacketType.WORK_COMPLETE): SubmittedJob._complete,
    int(PacketType.WORK_FAIL): SubmittedJob._fail,
    int(PacketType.WORK_EXCEPTION): SubmittedJob._exception,
}


class Question(concurrent.futures.Future):
    """A request that is answered by one packet: its result is that packet's body. ServerLost: it was not."""

    def __init__(self, answer: int) -> None:
        super().__init__()
        self._answer = answer

    def answered(self, server: str, kind: int, body: bytes) -> None:
        if kind == self._answer:
            self.set_result(body)
        else:
            said = body[:500].replace(b"\0", b": ").decode("utf-8", "replace")
            self.end(ServerLost("%s: expected packet type %d, got %d: %s" % (server, self._answer, kind, said), server))

    def end(self, error: BaseException) -> None:
        self.set_exception(error)

    def lost(self, error: Exception) -> None:
        self.end(error)


def deadline_of(timeout_s: Optional[float]) -> Optional[float]:
    """Monotonic seconds; `None`, and more than any lock can wait for, is `None`: never."""
    return None if timeout_s is None or timeout_s > _LONGEST_S else time.monotonic() + timeout_s


def _number(raw: bytes) -> int:
    digits = raw.strip(b"\0 ")
    return int(digits) if digits.isdigit() else 0
