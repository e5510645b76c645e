"""One job at its worker: what the callable is given, and the packets that it makes of it. Knows no thread.

A job ends once: by what its callable returns or raises, or before that by
`complete`, `fail` or `exception`; what the callable returns then counts no
more. A job whose server is lost meanwhile has no end that anybody hears of.
"""

from __future__ import annotations

import logging
from types import GeneratorType
from typing import Any, Callable, List, NamedTuple, Optional, Union

from gearmand.connection import Connection
from gearmand.errors import GearmandError, JobException, JobFailed, ServerLost
from gearmand.protocol import PacketType, pack, packed_size

LOG = logging.getLogger("gearmand.worker")

WORK_COMPLETE = int(PacketType.WORK_COMPLETE)
WORK_FAIL = int(PacketType.WORK_FAIL)
WORK_EXCEPTION = int(PacketType.WORK_EXCEPTION)

_COMPLETE_HEAD = pack(WORK_COMPLETE)[:8]
_MOST_BYTES = 2**32 - 1

Packets = List[bytes]


class Ability(NamedTuple):
    """A function that a worker can do. `announcement`: the packet that says so."""

    function: str
    call: Callable[[AssignedJob], Any]
    encoder: Any
    announcement: bytes


class AssignedJob:
    """What a worker's callable is given.

    `data`: the workload's bytes; `workload`: what the encoder makes of them.
    `function`, `handle`, `unique` and `server` (its address) are `str`;
    `reducer` is one where the job is a reduce job that came with
    JOB_ASSIGN_ALL, else `None`.

    `cancelled`: whether the job was cancelled at the server, where the worker
    was made with `cancellations` and the server tells. A long job asks now and
    then, and returns; whatever it returns goes nowhere.

    Whatever sends raises ServerLost once the job's server is lost, and
    GearmandError once the job has ended. Threads: one at a time.
    """

    __slots__ = (
        "data", "server", "ended_by", "result", "error", "lost",
        "_ability", "_cancelled", "_connection", "_handle", "_unique", "_reducer", "_workload",
    )  # fmt: skip

    def __init__(
        self,
        ability: Ability,
        connection: Connection,
        server: str,
        handle: bytes,
        unique: bytes,
        data: bytes,
        reducer: Optional[bytes] = None,
    ) -> None:
        self.data = data
        self.server = server
        self.ended_by: Optional[int] = None
        """WORK_COMPLETE, WORK_FAIL or WORK_EXCEPTION, once it has ended."""
        self.result: Any = None
        """Of a completed job: its result as the callable gave it."""
        self.error: Optional[BaseException] = None
        """What the callable raised, or a JobException with what it told."""
        self.lost: Optional[ServerLost] = None
        self._ability = ability
        self._cancelled = False
        self._connection = connection
        self._handle = handle
        self._unique = unique
        self._reducer = reducer
        self._workload = _UNDECODED

    def __repr__(self) -> str:
        return "<AssignedJob %s of %s>" % (self.handle, self.function)

    @property
    def function(self) -> str:
        return self._ability.function

    @property
    def handle(self) -> str:
        return _text(self._handle)

    @property
    def unique(self) -> str:
        return _text(self._unique)

    @property
    def reducer(self) -> Optional[str]:
        return None if self._reducer is None else _text(self._reducer)

    @property
    def workload(self) -> Any:
        """Decoded when first asked for. Raises whatever the encoder raises."""
        if self._workload is _UNDECODED:
            self._workload = self._ability.encoder.decode(self.data)
        return self._workload

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled, as far as the server has told by now. Does not wait. False once the server is lost."""
        if not self._cancelled and self.lost is None and self.ended_by is None:
            told = (int(WORK_FAIL), self._handle)
            try:
                events = self._connection.receive(0)
            except ServerLost:
                return False  # Whoever sends next is told.
            self._cancelled = told in events
            self._connection.put_back([event for event in events if event != told])
        return self._cancelled

    # -- reports -----------------------------------------------------------------

    def send_data(self, data: Any) -> None:
        """A part of the result, encoded; `None`: an empty one."""
        self._send(pack(PacketType.WORK_DATA, self._handle, self._encoded(data)))

    def send_warning(self, data: Any) -> None:
        """A warning, encoded."""
        self._send(pack(PacketType.WORK_WARNING, self._handle, self._encoded(data)))

    def send_status(self, numerator: int, denominator: int) -> None:
        """How far it is: `numerator` of `denominator`."""
        self._send(pack(PacketType.WORK_STATUS, self._handle, b"%d" % numerator, b"%d" % denominator))

    def complete(self, result: Any = None) -> None:
        """End the job at once with a result."""
        self._send(b"".join(self._completed(result)))
        self.ended_by, self.result = WORK_COMPLETE, result

    def fail(self) -> None:
        """End the job at once as failed."""
        self._send(pack(WORK_FAIL, self._handle))
        self.ended_by = WORK_FAIL

    def exception(self, data: Union[bytes, str]) -> None:
        """End the job at once with an exception, which `data` tells of: bytes, or a text. It is not encoded."""
        told = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else bytes(data)
        self._send(pack(WORK_EXCEPTION, self._handle, told))
        self.error = JobException("the callable told an exception", self.function, self.handle, told, self.server)
        self.ended_by = WORK_EXCEPTION

    def _send(self, packet: bytes) -> None:
        if self.lost is not None:
            raise ServerLost(str(self.lost), self.server)
        if self.ended_by is not None:
            raise GearmandError("job %s of %s has ended already: %s" % (self.handle, self.function, PacketType(self.ended_by).name))
        try:
            self._connection.send(packet)
        except ServerLost as error:
            self.lost = error
            raise

    def _encoded(self, value: Any) -> bytes:
        if value is None:
            return b""
        data = self._ability.encoder.encode(value)
        if not isinstance(data, bytes):
            raise TypeError("the encoder made %s of it, not bytes" % type(data).__name__)
        return data

    def _completed(self, result: Any) -> Packets:
        data = self._encoded(result)
        size = len(self._handle) + 1 + len(data)
        if size > _MOST_BYTES:
            raise ValueError("a result of %d bytes is more than a packet holds" % len(data))
        return [_COMPLETE_HEAD, packed_size(size), self._handle, b"\0", data]

    # -- for the lane that runs it -------------------------------------------------

    def perform(self) -> Packets:
        """Run the callable. Returns the packet that ends the job, in pieces; nothing where it has ended or is lost.

        Only KeyboardInterrupt gets out: the job then has no end, so the server
        gives it to another worker once the connection closes.
        """
        try:
            result = self._ability.call(self)
            if type(result) is GeneratorType:
                result = self._yielded(result)
            if self.ended_by is not None or self.lost is not None:
                return []
            packets = self._completed(result)
        except KeyboardInterrupt:
            raise
        except JobFailed as error:
            return self._failed(error)
        except BaseException as error:
            return self._raised(error)
        self.ended_by, self.result = WORK_COMPLETE, result
        return packets

    def _yielded(self, results: Any) -> Any:
        """Send what a generator yields as the result's parts; return what it returns."""
        try:
            while True:
                try:
                    part = next(results)
                except StopIteration as end:
                    return end.value
                self.send_data(part)
        finally:
            results.close()

    def _failed(self, error: JobFailed) -> Packets:
        if self.ended_by is not None or self.lost is not None:
            return []
        LOG.info("%s: job %s of %s failed: %s", self.server, self.handle, self.function, error)
        self.ended_by = WORK_FAIL
        return [pack(WORK_FAIL, self._handle)]

    def _raised(self, error: BaseException) -> Packets:
        if self.lost is not None and isinstance(error, ServerLost):
            return []
        LOG.error("%s: job %s of %s raised an exception", self.server, self.handle, self.function, exc_info=error)
        if self.ended_by is not None or self.lost is not None:
            return []
        self.ended_by, self.error = WORK_EXCEPTION, error
        return [pack(WORK_EXCEPTION, self._handle, _told(error))]


_UNDECODED = object()


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _told(error: BaseException) -> bytes:
    """An exception as its job's client reads it: `TypeName: text`."""
    try:
        text = "%s: %s" % (type(error).__name__, error)
    except Exception:
        text = type(error).__name__  # One whose own text raises.
    return text.encode("utf-8", "backslashreplace")
