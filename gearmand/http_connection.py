"""One connection of an HTTP client: whole requests off its socket, answers onto it, each with a deadline. Knows no job.

Threads: all by the connection's own handler. Another may shut the socket down.

Deadlines: the next request must begin within `_IDLE_S`; its head must be whole
within the partial timeout; of its body some bytes must come within that; some
bytes of an answer must leave within the unread timeout.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Any, Callable, List, NamedTuple, Optional

from gearmand import http_request
from gearmand.http_request import Refused, Request
from gearmand.yielding import Turnstile, let_others_run, pace

if TYPE_CHECKING:
    from gearmand.channel import Channel

_RECEIVE_BYTES = 64 * 1024
_IDLE_S = 60.0
# For how long, and how much, is read of a client that has been refused while
# it still sent: without that a reset could take the answer from it.
_LINGER_S = 2.0
_LINGER_BYTES = 1024**2
# Where the system can tell it, a client that has only shut down its sending
# end counts as gone too.
_GONE = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)


class Gone(Exception):
    """The client has gone, or takes or sends nothing any more."""


class Bounds(NamedTuple):
    """0: none."""

    partial_timeout_s: float
    unread_timeout_s: float
    body_bytes: int


class _Pile:
    """A body as it comes. Putting it together lets go of the interpreter lock, since Python 3.10; a copy of one bytearray does not."""

    def __init__(self) -> None:
        self.size = 0
        self._pieces: List[bytes] = []
        # Not each on its own: they may be of a byte.
        self._last = bytearray()

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        self._last += piece
        if len(self._last) >= _RECEIVE_BYTES:
            self._pieces.append(bytes(self._last))
            self._last.clear()

    def all(self) -> bytes:
        return b"".join([*self._pieces, bytes(self._last)])


class HttpConnection:
    """`tls`: what is spoken over the socket, if anything. `held(self, count)`: told how much of a body is held.

    `turnstile`: passed whenever there is something to read, or to look after.
    (Measured, 100 clients that submit a job and go away at once, again and
    again: the slowest hundredth of another client's jobs 0.6 ms instead of 3.1.)
    """

    def __init__(
        self,
        sock: socket.socket,
        tls: "Optional[Channel]",
        bounds: Bounds,
        held: "Callable[[HttpConnection, int], object]",
        turnstile: Turnstile,
    ) -> None:
        self._socket = sock
        self._stream: Any = tls or sock
        self._partial_timeout_s = bounds.partial_timeout_s or None
        self._unread_timeout_s = bounds.unread_timeout_s or None
        self._limit_bytes = bounds.body_bytes or 2**62
        self._held = held
        self._turnstile = turnstile
        self._crumbs = 0
        # From its front it loses bytes without being copied.
        self._buffer = bytearray()
        # Of the request that was read last: what is left of its body.
        self._body: Optional[Request] = None
        self._expects = False
        self.received_bytes = 0
        self.sent_bytes = 0

    # -- requests ------------------------------------------------------------------

    def next_request(self) -> Optional[Request]:
        """The head of the next request; `None`: the client has finished. Refused, Gone."""
        ends_at: Optional[float] = None
        while True:
            # Empty lines before a request are skipped, as RFC 9112 has it.
            while self._buffer.startswith(b"\r\n"):
                del self._buffer[:2]
            end = self._buffer.find(b"\r\n\r\n")
            # Its blank line may have come in part.
            if end > http_request.HEAD_BYTES or end < 0 and len(self._buffer) > http_request.HEAD_BYTES + 3:
                raise Refused(431, "HEADERS_TOO_LARGE", "the head is larger than %d bytes" % http_request.HEAD_BYTES)
            if end >= 0:
                self._crumbs = 0
                request = http_request.parse(self._cut(end, 4))
                self._body = request
                self._expects = "expect" in request.fields
                return request
            if self._buffer and ends_at is None and self._partial_timeout_s:
                ends_at = time.monotonic() + self._partial_timeout_s
            if not self._receive_head(ends_at):
                return None

    def _receive_head(self, ends_at: Optional[float]) -> bool:
        if not self._buffer:
            try:
                return self._receive(_IDLE_S)
            except socket.timeout:
                return False
        left_s = None if ends_at is None else ends_at - time.monotonic()
        try:
            if left_s is not None and left_s <= 0:
                raise socket.timeout
            if not self._receive(left_s):
                raise Gone
        except socket.timeout:
            raise Refused(408, "REQUEST_TIMEOUT", "the head of the request has not come in time") from None
        return True

    def body(self) -> bytes:
        """The whole body of the request that was read last. Refused, Gone."""
        request, self._body = self._body, None
        assert request is not None
        if request.length is not None:
            self._check_size(request.length)
        if self._expects and not self._buffer and request.length != 0:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        whole = _Pile()
        try:
            if request.length is None:
                self._take_chunks(whole)
            else:
                self._take(request.length, whole)
            return whole.all()
        finally:
            self._held(self, 0)

    def _cut(self, count: int, further: int = 0) -> bytes:
        """The first bytes of the buffer, which loses them and so many more."""
        piece = bytes(self._buffer[:count])
        del self._buffer[: count + further]
        return piece

    @property
    def has_body_left(self) -> bool:
        """Whether the request that was read last has a body that has not been read."""
        return self._body is not None and self._body.length != 0

    def _check_size(self, size: int) -> None:
        if size > self._limit_bytes:
            raise Refused(413, "BODY_TOO_LARGE", "a body may have %d bytes (--max-packet)" % self._limit_bytes)

    def _take_chunks(self, whole: _Pile) -> None:
        while True:
            size = http_request.chunk_size(self._line(http_request.CHUNK_LINE_BYTES))
            if size == 0:
                break
            self._check_size(whole.size + size)
            self._take(size, whole)
            # Thousands of chunks of a byte each come at once; they are no reason to keep the processor.
            let_others_run()
            if self._line(0):
                raise Refused(400, "BAD_REQUEST", "a chunk is longer than its size says")
        # Trailers are read and dropped. One with a bare line feed might be their end to somebody else.
        left = http_request.HEAD_BYTES
        line = self._line(left)
        while line:
            http_request.field_of(line)
            left = max(0, left - len(line) - 2)
            line = self._line(left)

    def _line(self, most: int) -> bytes:
        while True:
            end = self._buffer.find(b"\r\n", 0, most + 2)
            if end >= 0:
                return self._cut(end, 2)
            if len(self._buffer) >= most + 2:
                raise Refused(400, "BAD_REQUEST", "a line of the body is too long")
            self._receive_more()

    def _take(self, count: int, whole: _Pile) -> None:
        """Add as many bytes. Nothing is allocated for what has not come."""
        while True:
            piece = self._cut(count)
            whole.add(piece)
            count -= len(piece)
            if not count:
                return
            self._held(self, whole.size)
            self._receive_more()

    def _receive_more(self) -> None:
        try:
            if self._receive(self._partial_timeout_s):
                return
        except socket.timeout:
            raise Refused(408, "REQUEST_TIMEOUT", "the body of the request has not come in time") from None
        raise Gone

    def _receive(self, timeout_s: Optional[float]) -> bool:
        """Add to the buffer. False: there will be no more."""
        try:
            self._socket.settimeout(timeout_s)
            data = self._stream.recv(_RECEIVE_BYTES)
        except socket.timeout:
            raise
        except OSError:
            data = b""
        self._turnstile.wait()
        self._crumbs = pace(self._crumbs, len(data))
        self._buffer += data
        self.received_bytes += len(data)
        return bool(data)

    # -- answers -------------------------------------------------------------------

    def write(self, data: Any) -> None:
        """Send all of it. Gone: the client does not take it."""
        view = memoryview(data)
        try:
            self._socket.settimeout(self._unread_timeout_s)
            while len(view):
                sent = self._stream.send(view)
                self.sent_bytes += sent
                view = view[sent:]
        except OSError:
            raise Gone from None

    def is_gone(self) -> bool:
        """Whether the client has closed its end. It lets others run first."""
        self._turnstile.wait()
        poll = select.poll()
        try:
            poll.register(self._socket.fileno(), getattr(select, "POLLRDHUP", 0))
            return any(happened & _GONE for _, happened in poll.poll(0))
        except (OSError, ValueError):
            return True

    def finish(self) -> None:
        """The last answer is on its way: end the connection so that it arrives."""
        try:
            self._stream.shutdown(socket.SHUT_WR)
            ends_at = time.monotonic() + _LINGER_S
            left = _LINGER_BYTES
            while left > 0 and time.monotonic() < ends_at:
                self._socket.settimeout(max(0.01, ends_at - time.monotonic()))
                data = self._socket.recv(_RECEIVE_BYTES)
                if not data:
                    return
                left -= len(data)
        except OSError:
            pass  # It has gone.

    def abort(self, why: str) -> None:
        """Give the client up. By any thread."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # It has gone.

    def reset(self) -> None:
        """End the connection so that what was sent cannot be taken for a whole answer."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("@ii", 1, 0))
        except OSError:
            pass  # It has gone.
        self._socket.close()
