"""Connections that do not wait: what a socket does not take is sent later; what comes is read, or taken apart.

A `Fault` is what the server did wrong, in words.
"""

from __future__ import annotations

import collections
import select
import socket
import struct
from typing import Any, Callable, Deque, Dict, List

from gearmand.protocol import PacketType

FUNCTION = b"bench"
OTHER_FUNCTION = b"bench_idle"

REQUEST, RESPONSE = b"\0REQ", b"\0RES"
IN, OUT = select.EPOLLIN, select.EPOLLOUT
HEADER_BYTES = 12
# Measured: to receive up to 256 KiB costs more in memory got and given back than in receiving.
RECEIVE_BYTES = 64 * 1024
LARGE_BYTES = 64 * 1024
"""A body from this size on is counted, not kept; a workload from this size on is sent without being copied."""

_type_and_size = struct.Struct(">II")
head, sizes = _type_and_size.pack, _type_and_size.unpack_from
_scratch = memoryview(bytearray(1024 * 1024))


class Fault(Exception):
    """What the server did wrong, or what keeps the driver from measuring it."""


def packet(kind: int, body: bytes = b"", magic: bytes = REQUEST) -> bytes:
    return magic + head(kind, len(body)) + body


def wrong(kind: int, body: bytes) -> Fault:
    name = PacketType(kind).name if kind in PacketType.__members__.values() else "a packet of type %d" % kind
    return Fault("the server sent %s %r" % (name, bytes(body[:200]).replace(b"\0", b" ").decode("ascii", "replace")))


class Loop:
    """The sockets of a process, and who serves them: something with `readable`, and `writable` if it is watched for that."""

    def __init__(self) -> None:
        self._poller = select.epoll()
        self._links: Dict[int, Any] = {}
        # Bound once, because each lookup counts.
        self.readable: Dict[int, Callable[[], None]] = {}
        self.poll = self._poller.poll

    def add(self, number: int, link: Any) -> None:
        self._links[number] = link
        self.readable[number] = link.readable
        self._poller.register(number, IN)

    def watch(self, number: int, events: int) -> None:
        self._poller.modify(number, events)

    def remove(self, number: int) -> Any:
        del self.readable[number]
        return self._links.pop(number)

    def serve(self, number: int, event: int) -> None:
        if event & OUT:
            self._links[number].writable()
        if event != OUT:
            self.readable[number]()


def unexpected(data: bytes, first: bytes = b"") -> Fault:
    """What there is in `data`, after what was to come first."""
    if data.startswith(first):
        data = data[len(first) :]
    if not data.startswith(RESPONSE) or len(data) < HEADER_BYTES:
        return Fault("the server sent no packet: %r" % data[:50])
    kind, size = sizes(data, 4)
    return wrong(kind, data[HEADER_BYTES : HEADER_BYTES + size])


class Link:
    """One connection. `read` gets its bytes as they come."""

    def __init__(self, loop: Loop, connection: socket.socket) -> None:
        self.loop = loop
        self.socket = connection
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._receive, self._send = self.socket.recv, self.socket.send
        self._unsent: Deque[memoryview] = collections.deque()
        loop.add(self.socket.fileno(), self)

    def read(self, data: bytes) -> None:
        raise NotImplementedError

    def readable(self) -> None:
        try:
            data = self._receive(RECEIVE_BYTES)
        except BlockingIOError:
            return
        if not data:
            raise Fault("the server closed a connection")
        self.read(data)

    def send(self, data: bytes) -> None:
        if self._unsent:
            self._unsent.append(memoryview(data))
            return
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._unsent.append(memoryview(data)[sent:])
            self.loop.watch(self.socket.fileno(), IN | OUT)

    def send_all(self, parts: List[bytes]) -> None:
        """Small ones together, large ones without being copied."""
        if max(map(len, parts)) < LARGE_BYTES:
            self.send(b"".join(parts))
        else:
            for part in parts:
                self.send(part)

    def writable(self) -> None:
        unsent = self._unsent
        while unsent:
            try:
                sent = self._send(unsent[0])
            except BlockingIOError:
                return
            if sent < len(unsent[0]):
                unsent[0] = unsent[0][sent:]
                return
            unsent.popleft()
        self.loop.watch(self.socket.fileno(), IN)


class Parsing:
    """Takes what comes apart: `serve` gets each packet; of a large one its beginning."""

    magic = RESPONSE
    _rest = b""
    _missing = 0
    _large: Any = None

    def readable(self) -> None:
        if not self._missing:
            super().readable()
            return
        try:
            count = self.socket.recv_into(_scratch[: self._missing])
        except BlockingIOError:
            return
        if not count:
            raise Fault("the server closed a connection")
        self._missing -= count
        if not self._missing:
            self.serve(*self._large)
            self.served()

    def read(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        while end - at >= HEADER_BYTES:
            kind, size = sizes(data, at + 4)
            if data[at : at + 4] != self.magic:
                raise Fault("the server sent no packet: %r" % data[at : at + 50])
            after = at + HEADER_BYTES + size
            if after <= end:
                self.serve(kind, data[at + HEADER_BYTES : after], size)
            elif size >= LARGE_BYTES and end - at > 1024:
                self._large = (kind, data[at + HEADER_BYTES : at + 1024], size)
                self._missing = after - end
                at = end
                break
            else:
                break
            at = after
        self._rest = data[at:]
        self.served()

    def serve(self, kind: int, body: bytes, size: int) -> None:
        raise NotImplementedError

    def served(self) -> None:
        """All whole packets that had come are served."""
