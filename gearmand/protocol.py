"""Bytes to packets and packets to bytes (specification: "Binary Packet"). Knows no job and no socket.

A packet is a 12-byte header and a body:

    \\0REQ or \\0RES | type, 4 bytes, big-endian | size of the body, 4 bytes, big-endian

The body is the packet's arguments, separated by NUL bytes; the last one runs to
the end and may hold anything. A line of text may stand wherever a packet may
begin: it is told apart by its first byte, which is not NUL.

`Decoder` takes bytes as they come and yields events, each a pair:

    (packet type, body)     a packet of the expected magic, known type or not
    (TEXT_LINE, line)       a line without its end
    (RESPONSE_MAGIC, body)  at the server's end, a packet that says \\0RES

It never reads past a packet's end, allocates no more for bytes that have not
arrived than for those that have, and once it has failed it yields nothing more.
"""

from __future__ import annotations

import enum
import struct
from typing import Any, Dict, List, Optional, Tuple, Union

from gearmand.errors import ProtocolError


class PacketType(enum.IntEnum):
    CAN_DO = 1
    CANT_DO = 2
    RESET_ABILITIES = 3
    PRE_SLEEP = 4
    UNUSED = 5
    NOOP = 6
    SUBMIT_JOB = 7
    JOB_CREATED = 8
    GRAB_JOB = 9
    NO_JOB = 10
    JOB_ASSIGN = 11
    WORK_STATUS = 12
    WORK_COMPLETE = 13
    WORK_FAIL = 14
    GET_STATUS = 15
    ECHO_REQ = 16
    ECHO_RES = 17
    SUBMIT_JOB_BG = 18
    ERROR = 19
    STATUS_RES = 20
    SUBMIT_JOB_HIGH = 21
    SET_CLIENT_ID = 22
    CAN_DO_TIMEOUT = 23
    ALL_YOURS = 24
    WORK_EXCEPTION = 25
    OPTION_REQ = 26
    OPTION_RES = 27
    WORK_DATA = 28
    WORK_WARNING = 29
    GRAB_JOB_UNIQ = 30
    JOB_ASSIGN_UNIQ = 31
    SUBMIT_JOB_HIGH_BG = 32
    SUBMIT_JOB_LOW = 33
    SUBMIT_JOB_LOW_BG = 34
    SUBMIT_JOB_SCHED = 35
    SUBMIT_JOB_EPOCH = 36
    SUBMIT_REDUCE_JOB = 37
    SUBMIT_REDUCE_JOB_BACKGROUND = 38
    GRAB_JOB_ALL = 39
    JOB_ASSIGN_ALL = 40
    GET_STATUS_UNIQUE = 41
    STATUS_RES_UNIQUE = 42


_SUBMIT = ("function", "unique", "workload")
_REPORT = ("handle", "data")

ARGUMENTS: Dict[int, Tuple[str, ...]] = {
    PacketType.CAN_DO: ("function",),
    PacketType.CANT_DO: ("function",),
    PacketType.RESET_ABILITIES: (),
    PacketType.PRE_SLEEP: (),
    PacketType.NOOP: (),
    PacketType.SUBMIT_JOB: _SUBMIT,
    PacketType.JOB_CREATED: ("handle",),
    PacketType.GRAB_JOB: (),
    PacketType.NO_JOB: (),
    PacketType.JOB_ASSIGN: ("handle", "function", "workload"),
    PacketType.WORK_STATUS: ("handle", "numerator", "denominator"),
    PacketType.WORK_COMPLETE: _REPORT,
    PacketType.WORK_FAIL: ("handle",),
    PacketType.GET_STATUS: ("handle",),
    PacketType.ECHO_REQ: ("data",),
    PacketType.ECHO_RES: ("data",),
    PacketType.SUBMIT_JOB_BG: _SUBMIT,
    PacketType.ERROR: ("code", "text"),
    PacketType.STATUS_RES: ("handle", "known", "running", "numerator", "denominator"),
    PacketType.SUBMIT_JOB_HIGH: _SUBMIT,
    PacketType.SET_CLIENT_ID: ("client id",),
    PacketType.CAN_DO_TIMEOUT: ("function", "timeout"),
    PacketType.ALL_YOURS: (),
    PacketType.WORK_EXCEPTION: _REPORT,
    PacketType.OPTION_REQ: ("option",),
    PacketType.OPTION_RES: ("option",),
    PacketType.WORK_DATA: _REPORT,
    PacketType.WORK_WARNING: _REPORT,
    PacketType.GRAB_JOB_UNIQ: (),
    PacketType.JOB_ASSIGN_UNIQ: ("handle", "function", "unique", "workload"),
    PacketType.SUBMIT_JOB_HIGH_BG: _SUBMIT,
    PacketType.SUBMIT_JOB_LOW: _SUBMIT,
    PacketType.SUBMIT_JOB_LOW_BG: _SUBMIT,
    PacketType.SUBMIT_JOB_SCHED: (
        "function", "unique", "minute", "hour", "day of month", "month", "day of week", "workload",
    ),
    PacketType.SUBMIT_JOB_EPOCH: ("function", "unique", "epoch", "workload"),
    # Some clients put an aggregator between reducer and workload.
    PacketType.SUBMIT_REDUCE_JOB: ("function", "unique", "reducer", "workload"),
    PacketType.SUBMIT_REDUCE_JOB_BACKGROUND: ("function", "unique", "reducer", "workload"),
    PacketType.GRAB_JOB_ALL: (),
    PacketType.JOB_ASSIGN_ALL: ("handle", "function", "unique", "reducer", "workload"),
    PacketType.GET_STATUS_UNIQUE: ("unique",),
    PacketType.STATUS_RES_UNIQUE: ("unique", "known", "running", "numerator", "denominator", "listeners"),
}  # fmt: skip
"""The names of each type's arguments, in order. UNUSED has none and is never sent."""

Body = Union[bytes, memoryview]
Event = Tuple[int, Body]

SUBMISSIONS = frozenset(int(kind) for kind in PacketType if kind.name.startswith("SUBMIT_"))

TEXT_LINE = -1
RESPONSE_MAGIC = -2

HEADER_BYTES = 12
_HEADER = struct.Struct(">III")
REQUEST = 0x00524551
RESPONSE = 0x00524553

RESPONSE_HEADS = [struct.pack(">II", RESPONSE, kind) for kind in range(max(PacketType) + 1)]
"""By packet type: the first eight bytes of a packet from the server. `packed_size` makes the other four."""
packed_size = struct.Struct(">I").pack

JOIN_BYTES = 32 * 1024
"""Below this, joining the parts of a packet costs less than sending from several places (measured: they break even between 16 and 64 KiB)."""

_LARGE_BYTES = 128 * 1024
"""A packet from this size on is received in place, without being joined from pieces."""
_ROOM_BYTES = 512 * 1024
"""How much room a large packet has at first; it doubles as the packet arrives."""


def pack(kind: int, *arguments: bytes, magic: bytes = b"\0REQ") -> bytes:
    """A whole packet from its arguments. A NUL in any but the last one makes it another packet: not checked."""
    body = b"\0".join(arguments)
    return b"".join((magic, struct.pack(">II", kind, len(body)), body))


def split(body: Body, count: int) -> List[Any]:
    """The body's arguments, at most `count`, fewer where there are not enough NUL bytes.

    All but the last are `bytes`; the last one is not copied out of a large body.
    """
    if type(body) is bytes:
        return body.split(b"\0", count - 1)
    underlying = body.obj
    # A packet's body or the last argument of one: both run to the end.
    start = len(underlying) - len(body)
    arguments: List[Any] = []
    at = 0
    while len(arguments) < count - 1:
        nul = underlying.find(b"\0", start + at) - start
        if nul < 0:
            break
        arguments.append(bytes(body[at:nul]))
        at = nul + 1
    arguments.append(body[at:])
    return arguments


class Decoder:
    """The bytes of one connection, in order, to events.

    Call `feed` with bytes as they come. When `room()` is not `None`, a large
    packet is arriving: receive into that memory instead and call `filled`.
    After the returned events have been served, look at `failure`.
    """

    __slots__ = ("failure", "held", "_magic", "_limit_bytes", "_line_bytes", "_rest", "_kind", "_size", "_large", "_arrived", "_view")

    def __init__(self, limit_bytes: int, line_bytes: int, magic: int = REQUEST) -> None:
        """`limit_bytes`: the largest body; `line_bytes`: the longest line, its end included. 0: no bound.

        `magic`: what this end expects, REQUEST or RESPONSE.
        """
        self.failure: Optional[ProtocolError] = None
        self.held = 0
        """How many bytes it keeps of what has not come whole."""
        self._magic = magic
        self._limit_bytes = limit_bytes or 2**32
        self._line_bytes = line_bytes or 2**62
        self._rest = b""
        self._kind = self._size = self._arrived = 0
        self._large: Optional[bytearray] = None
        self._view: Optional[memoryview] = None

    @property
    def partial(self) -> bool:
        """Whether the peer owes the rest of something that it has begun."""
        return self._large is not None or bool(self._rest)

    def feed(self, data: bytes) -> List[Event]:
        """All events that end in `data`."""
        if self.failure is not None:
            return []
        if self._rest:
            data = self._rest + data
            self._rest = b""
            self.held = 0
        events: List[Event] = []
        at, end = 0, len(data)
        while at < end:
            if data[at]:
                if data[at] == 0x16 and data[at + 1 : at + 2] == b"\x03":
                    return self._fail(events, "it speaks TLS, which is not spoken here")
                newline = data.find(b"\n", at)
                length = (newline if newline >= 0 else end) + 1 - at
                if length > self._line_bytes:
                    return self._fail(events, "a line of text longer than %d bytes" % self._line_bytes)
                if newline < 0:
                    break
                events.append((TEXT_LINE, data[at:newline]))
                at = newline + 1
                continue
            body = at + HEADER_BYTES
            if body > end:
                break
            magic, kind, size = _HEADER.unpack_from(data, at)
            if magic != self._magic:
                if magic != RESPONSE:
                    # Not which bytes: they may be somebody's workload.
                    return self._fail(events, "bytes that begin no packet")
                kind = RESPONSE_MAGIC
            if size > self._limit_bytes:
                return self._fail(events, "a packet of %d bytes, where %d are allowed" % (size, self._limit_bytes))
            at = body + size
            if at > end:
                if size >= _LARGE_BYTES:
                    self._begin_large(kind, size, memoryview(data)[body:])
                    return events
                at = body - HEADER_BYTES
                break
            events.append((kind, data[body:at]))
        if at < end:
            self._rest = data[at:]
            self.held = end - at
        return events

    def room(self) -> Optional[memoryview]:
        """Where the next bytes of a large packet belong: at least one byte and never beyond its end."""
        if self._large is None:
            return None
        if self._view is not None:
            # Whoever still holds the last room would keep it from growing.
            self._view.release()
        if self._arrived == len(self._large):
            self._large.extend(bytes(min(self._arrived, self._size - self._arrived)))
            self.held = len(self._large)
        self._view = memoryview(self._large)[self._arrived :]
        return self._view

    def filled(self, count: int) -> List[Event]:
        """Note that `count` bytes were put into `room()`; the packet, once that ends it."""
        assert self._large is not None
        self._arrived += count
        if self._arrived < self._size:
            return []
        body = memoryview(self._large)
        self._large = self._view = None
        self.held = 0
        return [(self._kind, body)]

    def _begin_large(self, kind: int, size: int, arrived: memoryview) -> None:
        self._kind, self._size, self._arrived = kind, size, len(arrived)
        self._large = bytearray(min(size, max(_ROOM_BYTES, self._arrived)))
        self._large[: self._arrived] = arrived
        self.held = len(self._large)

    def _fail(self, events: List[Event], why: str) -> List[Event]:
        self.failure = ProtocolError(why)
        return events
