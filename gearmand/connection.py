"""One blocking connection to a job server: bytes out, packets and lines in. Knows nothing of jobs.

Threads: one may send while another receives; two that send, or two that
receive, need a lock of their own. `close` when neither is in it, `shut_down`
at any time.
"""

from __future__ import annotations

import select
import socket
import time
from typing import List, Optional

from gearmand.addresses import Address
from gearmand.errors import ServerLost
from gearmand.protocol import RESPONSE, Decoder, Event

# Not more: from 128 KiB on, the C library takes each buffer from the system
# anew (measured: 15 microseconds a receive).
_RECEIVE_BYTES = 64 * 1024
_LONGEST_POLL_S = 2e6


class Connection:
    """Connects at once. ServerLost: it cannot, within `connect_timeout_s`.

    `io_timeout_s`: how long the server may take not a single byte of what is
    sent; `None`: for ever. `waker`: an open socket; a `receive` that waits
    returns as soon as it is readable.
    """

    def __init__(
        self,
        address: Address,
        connect_timeout_s: Optional[float] = 5.0,
        io_timeout_s: Optional[float] = 30.0,
        waker: Optional[socket.socket] = None,
    ) -> None:
        self.address = address
        self._io_timeout_s = io_timeout_s
        self._decoder = Decoder(0, 0, RESPONSE)
        try:
            self._socket = socket.create_connection(address, connect_timeout_s)
        except (OSError, UnicodeError) as error:
            raise ServerLost("%s: cannot connect: %s" % (address, _why(error)), str(address)) from None
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._readable = select.poll()
        self._readable.register(self._socket, select.POLLIN)
        if waker is not None:
            self._readable.register(waker, select.POLLIN)

    def __repr__(self) -> str:
        return "<Connection to %s>" % (self.address,)

    def fileno(self) -> int:
        """-1 once closed."""
        return self._socket.fileno()

    def send(self, data: bytes) -> None:
        """Send all of it. ServerLost: it has gone, or takes nothing any more."""
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise self._lost(_why(error)) from None
        if sent < len(data):
            self._send_rest(memoryview(data)[sent:])

    def _send_rest(self, rest: memoryview) -> None:
        writable = select.poll()
        writable.register(self._socket, select.POLLOUT)
        while rest:
            if not writable.poll(None if self._io_timeout_s is None else self._io_timeout_s * 1000):
                raise self._lost("it took no byte for %g s" % (self._io_timeout_s or 0))
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                pass
            except OSError as error:
                raise self._lost(_why(error)) from None

    def receive(self, timeout_s: Optional[float] = None) -> List[Event]:
        """What has come, as soon as there is any: events of `protocol`, their bodies as `bytes`.

        Nothing after `timeout_s`, when the waker became readable, or while a
        packet is still incomplete. ServerLost: it has gone, or speaks no Gearman.
        """
        if self._decoder.failure is not None:
            raise self._lost("it does not speak Gearman: %s" % self._decoder.failure)
        try:
            if timeout_s != 0:
                self._readable.poll(None if timeout_s is None else min(max(0.0, timeout_s), _LONGEST_POLL_S) * 1000)
            room = self._decoder.room()
            if room is None:
                data = self._socket.recv(_RECEIVE_BYTES)
                if not data:
                    raise self._lost("it closed the connection")
                events = self._decoder.feed(data)
            else:
                count = self._socket.recv_into(room)
                if not count:
                    raise self._lost("it closed the connection in the middle of a packet")
                events = [(kind, bytes(body)) for kind, body in self._decoder.filled(count)]
        except BlockingIOError:
            return []
        except OSError as error:
            raise self._lost(_why(error)) from None
        # A failure after good events is for the next call.
        return events if events or self._decoder.failure is None else self.receive(0)

    def receive_some(self, deadline: Optional[float]) -> List[Event]:
        """The same, but at least one event, before `deadline` (monotonic; `None`: whenever). ServerLost, TimeoutError."""
        while True:
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise TimeoutError("%s: no answer in time" % (self.address,))
            events = self.receive(left_s)
            if events:
                return events

    @property
    def silent_and_open(self) -> bool:
        """Whether nothing has come, not even the end: to be asked of a connection that owes nothing."""
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def shut_down(self) -> None:
        """End the connection; a `receive` in another thread raises ServerLost."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # It has gone by itself.

    def close(self) -> None:
        self._socket.close()

    def _lost(self, why: str) -> ServerLost:
        return ServerLost("%s: lost: %s" % (self.address, why), str(self.address))


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
