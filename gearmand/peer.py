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
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

from gearmand.parties import Party
from gearmand.protocol import HEADER_BYTES, JOIN_BYTES, RESPONSE_HEADS, packed_size

Buffer = Union[bytes, memoryview]

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
        "pipelines",
        "backed_up",
        "closed",
        "progress_at",
        "why_aborted",
        "received_bytes",
        "posted_bytes",
        "sent_bytes",
        "dismissed_at",
        "_sending",
        "_touched",
        "_on_backed_up",
        "_limit_bytes",
    )

    def __init__(
        self,
        sock: Any,
        address: str,
        touched: Dict["Peer", None],
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
        # Those that were posted to: guarded by the broker's lock.
        self._touched = touched
        self._on_backed_up = on_backed_up
        self._limit_bytes = limit_bytes or 2**62
        # The first counted by its handler, the second with the broker's lock,
        # the third with the peer's.
        self.received_bytes = self.posted_bytes = self.sent_bytes = 0

    def __repr__(self) -> str:
        return "<Peer %s>" % self.address

    @property
    def host(self) -> str:
        """Its address without the port; empty for a Unix socket."""
        return "" if self.address.startswith("unix:") else self.address.rpartition(":")[0].strip("[]")

    # -- with the broker's lock ----------------------------------------------

    def post(self, kind: int, body: Buffer, tail: Buffer = b"") -> None:
        size = len(body) + len(tail)
        if size < JOIN_BYTES:
            # What `post_text` does, written out: every packet but the large
            # ones goes this way. (Measured, with `_send`'s short way for one
            # piece: `drain` 5 to 8 % more jobs a second.)
            if self.why_aborted is None:
                self.outbox.append(b"".join((RESPONSE_HEADS[kind], packed_size(size), body, tail)))
                self.posted_bytes += HEADER_BYTES + size
                if self.posted_bytes - self.sent_bytes > self._limit_bytes:
                    self._check_limit(HEADER_BYTES + size)
                self._touched[self] = None
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
        self.posted_bytes += len(piece)
        if self.posted_bytes - self.sent_bytes > self._limit_bytes:
            self._check_limit(len(piece))
        self._touched[self] = None

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
        return max(0, self.posted_bytes - self.sent_bytes)

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
            several = self._several() if len(outbox) > 1 else None
            try:
                sent = self.socket.sendmsg(several, (), _DONTWAIT) if several else self.socket.send(outbox[0], _DONTWAIT)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self.why_aborted = "sending to it failed: %s" % (error.strerror or error)
                self._give_up()
                break
            self.sent_bytes += sent
            if not several and sent == len(outbox[0]):
                del outbox[0]
                continue
            pieces = several or outbox[:1]
            rest = _after(pieces, sent)
            outbox[: len(pieces)] = rest
            if rest:
                if sent or not self.backed_up:
                    self.progress_at = time.monotonic()
                self.backed_up = True
                return True
        self.backed_up = False
        return False

    def _several(self) -> Optional[List[Buffer]]:
        """What is to leave of an outbox with more than one piece; `None`: they were small, and are one now."""
        pieces = self.outbox[:_SEND_PIECES]
        if max(map(len, pieces)) >= JOIN_BYTES:
            return pieces
        self.outbox[: len(pieces)] = [b"".join(pieces)]
        return None


def _after(pieces: List[Buffer], sent: int) -> List[Buffer]:
    """The pieces without their first `sent` bytes."""
    for at, piece in enumerate(pieces):
        if sent < len(piece):
            return [memoryview(piece)[sent:] if sent else piece, *pieces[at + 1 :]]
        sent -= len(piece)
    return []
