"""One connected peer: its socket and what waits to be sent to it. Decides nothing about jobs.

Posting and sending are apart. Whoever holds the broker's lock posts to any
peer; afterwards, with no lock, the same thread calls `flush`, which sends what
the socket takes at once and never waits. What does not fit is the flusher's.

    post ──▶ outbox ──▶ flush ──▶ socket
                          │ would block
                          └─────▶ Flusher: flushes when the socket takes more

Threads: `post` and `post_text` with the broker's lock held; `flush`, `abort` and
`waiting_bytes` by any thread; `close` by the handler thread alone, because a
socket that another thread closes leaves its `recv` blocked.

The peer's own lock, `_sending`, guards the sending end: the head of the
outbox, `backed_up`, `closed` and the socket's life. It is only held around a
send that cannot block. Whoever finds it taken goes away: its holder looks at
the outbox once more after letting go.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import Any, Callable, List, Optional, Sequence, Union

from gearmand.parties import Party
from gearmand.protocol import RESPONSE_HEADS, packed_size

Buffer = Union[bytes, memoryview]

# Below this, joining costs less than sending from several places (measured:
# they break even between 16 and 64 KiB).
_JOIN_BYTES = 32 * 1024
_SEND_PIECES = 256
_DONTWAIT = socket.MSG_DONTWAIT


class Peer(Party):
    """A party at the other end of a socket, or of a Channel, which is used like one.

    `limit_bytes` bounds what may wait behind the packet at the head of the
    outbox; a peer that exceeds it is aborted. 0: no bound.
    """

    __slots__ = (
        "socket",
        "fileno",
        "address",
        "common_name",
        "outbox",
        "touched",
        "pipelines",
        "backed_up",
        "closed",
        "progress_at",
        "why_aborted",
        "received_bytes",
        "sent_bytes",
        "dismissed_at",
        "_sending",
        "_touched_peers",
        "_on_backed_up",
        "_limit_bytes",
        "_posted_bytes",
    )

    def __init__(
        self,
        sock: Any,
        address: str,
        touched_peers: List["Peer"],
        on_backed_up: Callable[["Peer"], None],
        limit_bytes: int,
        exceptions: bool,
    ) -> None:
        super().__init__(exceptions)
        self.socket = sock
        self.fileno = sock.fileno()
        self.address = address
        # The CN of its certificate, where it had to show one.
        self.common_name: Optional[str] = None
        self.outbox: List[Buffer] = []
        # Whether it is among the touched peers already: guarded, as they are,
        # by the broker's lock.
        self.touched = False
        # Whether it has just asked for many things at a time and waits for no
        # job; its handler says so.
        self.pipelines = False
        self.backed_up = False
        self.closed = False
        # When it last took a byte; kept while it is backed up.
        self.progress_at = 0.0
        self.why_aborted: Optional[str] = None
        # When it was told to go to another server (monotonic); 0: it was not.
        self.dismissed_at = 0.0
        self._sending = threading.Lock()
        self._touched_peers = touched_peers
        self._on_backed_up = on_backed_up
        self._limit_bytes = limit_bytes or 2**62
        self._posted_bytes = 0
        self.sent_bytes = 0
        # Counted by its handler.
        self.received_bytes = 0

    def __repr__(self) -> str:
        return "<Peer %s>" % self.address

    @property
    def host(self) -> str:
        """Its address without the port; empty for a Unix socket."""
        return "" if self.address.startswith("unix:") else self.address.rpartition(":")[0].strip("[]")

    # -- with the broker's lock ----------------------------------------------

    def post(self, kind: int, body: Buffer, tail: Buffer = b"") -> None:
        size = len(body) + len(tail)
        if size < _JOIN_BYTES:
            self.post_text(b"".join((RESPONSE_HEADS[kind], packed_size(size), body, tail)))
            return
        header = RESPONSE_HEADS[kind] + packed_size(size)
        self.post_text(b"".join((header, body)) if tail else header)
        self.post_text(tail or body)

    def post_all(self, kind: int, bodies: Sequence[bytes]) -> None:
        head = RESPONSE_HEADS[kind]
        if len(set(map(len, bodies))) == 1:
            head += packed_size(len(bodies[0]))
            self.post_text(head + head.join(bodies))
            return
        self.post_text(b"".join([part for body in bodies for part in (head, packed_size(len(body)), body)]))

    def post_text(self, piece: Buffer) -> None:
        """Take bytes as they are, which need not be a packet."""
        if self.why_aborted is not None:
            return
        self.outbox.append(piece)
        self._posted_bytes += len(piece)
        if self._posted_bytes - self.sent_bytes > self._limit_bytes:
            self._check_limit(len(piece))
        if not self.touched:
            self.touched = True
            self._touched_peers.append(self)

    def _check_limit(self, newest_bytes: int) -> None:
        with self._sending:
            head_bytes = len(self.outbox[0]) if self.outbox else 0
        if self.waiting_bytes > self._limit_bytes + max(head_bytes, newest_bytes):
            # The next flush carries it out: this thread holds the broker's lock.
            self.why_aborted = "%d bytes wait for it" % self.waiting_bytes

    # -- by any thread ---------------------------------------------------------

    @property
    def waiting_bytes(self) -> int:
        """What has been posted and not sent; may be out of date when it returns."""
        return max(0, self._posted_bytes - self.sent_bytes)

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it at once."""
        if self.why_aborted is not None:
            self.abort(self.why_aborted)
            return
        while self.outbox and not self.backed_up:
            if not self._sending.acquire(False):
                return
            try:
                backed_up = self._send()
            finally:
                self._sending.release()
            if backed_up:
                self._on_backed_up(self)

    def resume(self) -> None:
        """The same for the flusher, once the socket takes bytes again. Look at `backed_up` afterwards."""
        with self._sending:
            self._send()
        self.flush()

    def abort(self, why: str) -> None:
        """Give the peer up: it is sent nothing more, and its handler sees the connection's end."""
        with self._sending:
            if self.why_aborted is None:
                self.why_aborted = why
            self._give_up()

    def dismiss(self) -> None:
        """Tell the peer that nothing more will come, so that it closes. Again: let its handler see the connection's end without it."""
        with self._sending:
            how = socket.SHUT_RD if self.dismissed_at else socket.SHUT_WR
            self.dismissed_at = time.monotonic()
            if not self.closed:
                try:
                    self.socket.shutdown(how)
                except OSError:
                    pass  # It has gone by itself.

    def close(self) -> None:
        """Close the socket. By the handler thread alone, as its last act."""
        with self._sending:
            self.closed = True
            self.outbox.clear()
            self.socket.close()

    # -- with the peer's lock --------------------------------------------------

    def _give_up(self) -> None:
        self.outbox.clear()
        if not self.closed:
            try:
                self.socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # It has gone by itself.

    def _send(self) -> bool:
        """Send until the outbox is empty or the socket is full. Returns `backed_up`: the socket is full."""
        outbox = self.outbox
        while outbox:
            if self.closed or self.why_aborted is not None:
                outbox.clear()
                break
            pieces = outbox[:_SEND_PIECES]
            count = len(pieces)
            if count > 1 and max(map(len, pieces)) < _JOIN_BYTES:
                pieces = [b"".join(pieces)]
            try:
                if len(pieces) == 1:
                    sent = self.socket.send(pieces[0], _DONTWAIT)
                else:
                    sent = self.socket.sendmsg(pieces, (), _DONTWAIT)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self.why_aborted = "sending to it failed: %s" % (error.strerror or error)
                self._give_up()
                break
            self.sent_bytes += sent
            if len(pieces) == 1 and sent == len(pieces[0]):
                del outbox[:count]
                continue
            rest = _after(pieces, sent)
            outbox[:count] = rest
            if rest:
                if sent or not self.backed_up:
                    self.progress_at = time.monotonic()
                self.backed_up = True
                return True
        self.backed_up = False
        return False


def _after(pieces: List[Buffer], sent: int) -> List[Buffer]:
    """The pieces without their first `sent` bytes."""
    for at, piece in enumerate(pieces):
        if sent < len(piece):
            return [memoryview(piece)[sent:] if sent else piece, *pieces[at + 1 :]]
        sent -= len(piece)
    return []
