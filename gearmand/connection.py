"""One blocking connection to a job server: bytes out, packets and lines in. Knows nothing of jobs.

Threads: one may send while another receives; two that send, or two that
receive, need a lock of their own. `close` when neither is in it, `shut_down`
at any time.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Any, List, Optional

from gearmand.addresses import Address
from gearmand.errors import ServerLost
from gearmand.protocol import RESPONSE, Decoder, Event

if TYPE_CHECKING:
    from gearmand.tls import ClientSide

# Not more: from 128 KiB on, the C library takes each buffer from the system
# anew (measured: 15 microseconds a receive).
_RECEIVE_BYTES = 64 * 1024
_LONGEST_POLL_S = 2e6


def tls_of(tls: Any) -> "Optional[ClientSide]":
    """What a Connection takes, from what a Client, a Worker or an Admin is given (see `tls.client_side`). ConfigError."""
    if tls is None or tls is False:
        return None
    # Loaded where it is needed alone (measured: 8 ms).
    from gearmand.tls import client_side

    return client_side(tls)


class Connection:
    """Connects at once. ServerLost: it cannot, within `connect_timeout_s`.

    `io_timeout_s`: how long the server may take not a single byte of what is
    sent; `None`: for ever. `tls`: whose TLS is spoken, but for Unix-domain
    sockets.
    """

    def __init__(
        self,
        address: Address,
        connect_timeout_s: Optional[float] = 5.0,
        io_timeout_s: Optional[float] = 30.0,
        tls: "Optional[ClientSide]" = None,
    ) -> None:
        self.address = address
        self._io_timeout_s = io_timeout_s
        self._decoder = Decoder(0, 0, RESPONSE)
        self._put_back: List[Event] = []
        try:
            # A Channel, used like a socket, where TLS is spoken.
            self._socket: Any = _connected(address, connect_timeout_s, tls)
        except (OSError, ValueError) as error:
            raise ServerLost("%s: cannot connect: %s" % (address, _why(error)), str(address)) from None
        self._speaks_tls = tls is not None and address.path is None
        self._readable = select.poll()
        self._readable.register(self._socket, select.POLLIN)

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

        Nothing after `timeout_s`, or while a packet is still incomplete. ServerLost: it has gone, or speaks no Gearman.
        """
        if self._put_back:
            events, self._put_back = self._put_back, []
            return events
        if self._decoder.failure is not None:
            raise self._lost("it does not speak Gearman: %s" % self._decoder.failure)
        try:
            # What has been decrypted already no poll would tell of.
            if timeout_s != 0 and not (self._speaks_tls and self._socket.pending):
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
        if self._speaks_tls and self._socket.pending and self._decoder.failure is None:
            # Nor would a poll of the caller's own.
            try:
                return events + self.receive(0)
            except ServerLost:
                if not events:
                    raise
        # A failure after good events is for the next call.
        return events if events or self._decoder.failure is None else self.receive(0)

    def put_back(self, events: List[Event]) -> None:
        """They are received again, first, by a later `receive`; no poll tells of them."""
        self._put_back += events

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
            # With TLS it takes the byte out; nobody wants a connection that is not silent.
            self._socket.recv(1, 0 if self._speaks_tls else socket.MSG_PEEK)
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


def _connected(address: Address, timeout_s: Optional[float], tls: "Optional[ClientSide]") -> Any:
    """A socket that does not wait, or a Channel over one. OSError, ValueError: it cannot be."""
    if address.path is not None:
        return _connected_to_path(address.path, timeout_s)
    ends_at = None if timeout_s is None else time.monotonic() + timeout_s
    sock = socket.create_connection(address, timeout_s)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if tls is None:
            return sock
        return tls.channel(sock, address.host, None if ends_at is None else max(0.0, ends_at - time.monotonic()))
    except BaseException:
        sock.close()
        raise


def _connected_to_path(path: str, timeout_s: Optional[float]) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # While the server's backlog is full the kernel waits; Python, with a
        # timeout of its own, would not.
        sock.settimeout(None)
        whole, fraction = divmod(timeout_s or 0.0, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(whole), int(fraction * 1e6)))
        sock.connect(path)
        sock.setblocking(False)
        return sock
    except BlockingIOError:
        sock.close()
        raise TimeoutError("timed out") from None
    except BaseException:
        sock.close()
        raise


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
