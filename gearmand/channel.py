"""TLS over a connected socket: a channel that is used like the socket below it. Knows no packet and no file.

    send ──▶ session ──▶ outgoing BIO ──▶ socket.send, without waiting
    recv ◀── session ◀── incoming BIO ◀── socket.recv, without the lock

OpenSSL's session may not be used by two threads at once, and receiving waits;
so the session works on memory, and its lock is never held while anything waits.

What has been encrypted cannot be taken back. So `send` counts bytes as sent
only when all of their ciphertext has left: where it returns fewer than it was
given, or raises BlockingIOError, the next call must begin with the rest.

Threads: one may send while another receives; `shutdown` by any.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
import time
from typing import Any, Callable, List, Optional, Sequence, Union

from gearmand.errors import TlsFailure

Buffer = Union[bytes, memoryview]

_RAW_BYTES = 64 * 1024
# As long as no more comes at a time: it is what a thread that waits holds.
_FEW_RAW_BYTES = 1024
_RECORD_BYTES = 16 * 1024
_HEAD_BYTES = 5
_PLAIN_BYTES = 64 * 1024
# How much of the session's own answers (to a demand for new keys, say) may
# wait for a peer that reads nothing, beside the data that it was sent last.
_UNREAD_BYTES = 4 * _PLAIN_BYTES
_DONTWAIT = socket.MSG_DONTWAIT
_NOTHING = memoryview(b"")
# For how long a peer that is refused may go on sending, so that the alert which
# says why is not lost with a reset.
_REFUSAL_S = 1.0


class _Records:
    """Where the records of a TLS stream end: of each a type, a version, a length of two bytes and that many more (RFC 8446, 5.1)."""

    __slots__ = ("_left", "_head")

    def __init__(self) -> None:
        # How many bytes the last one still lacks; or what there is of its
        # head, where that is not whole.
        self._left = 0
        self._head = b""

    def feed(self, raw: bytes) -> None:
        raw = self._head + raw
        at, end = self._left, len(raw)
        while at + _HEAD_BYTES <= end:
            at += _HEAD_BYTES + int.from_bytes(raw[at + 3 : at + _HEAD_BYTES], "big")
        self._left = max(0, at - end)
        self._head = raw[at:]

    @property
    def partial(self) -> bool:
        return bool(self._left or self._head)


class Channel:
    """Call `handshake` first. Closed with close_notify, unless this process is a fork of the one that made it."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_side: bool, name: Optional[str] = None) -> None:
        self.pending = False
        """Whether the next `recv` need not wait; for the thread that receives."""
        self._socket = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._records = _Records()
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_side, name)
        # Guards the session, its BIOs and the two below.
        self._lock = threading.Lock()
        self._unsent = _NOTHING
        # How many bytes given to `send` are in there.
        self._covered = 0
        self._most_raw = _FEW_RAW_BYTES
        self._has_ended = False
        # Why, and no exception: one that is kept keeps its frames, and this, alive.
        self._has_failed = ""
        self._process = os.getpid()

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def partial(self) -> bool:
        """Whether the peer owes the rest of a record; for the thread that receives."""
        return self._records.partial

    @property
    def version(self) -> str:
        return self._session.version() or "TLS"

    @property
    def common_name(self) -> Optional[str]:
        """The CN of the peer's certificate; the last one, where there are several. `None`: it has none that was verified."""
        found = None
        for names in (self._session.getpeercert() or {}).get("subject", ()):
            for kind, value in names:  # type: ignore[misc]
                if kind == "commonName":
                    found = value
        return found

    # -- the handshake ---------------------------------------------------------

    def handshake(self, timeout_s: Optional[float]) -> None:
        """TlsFailure: there is none; any other OSError: the peer has gone before it has begun."""
        ends_at = None if timeout_s is None else time.monotonic() + timeout_s
        raw = first = b""
        while not self._step(raw, ends_at):
            self._wait(select.POLLIN, ends_at)
            raw = self._socket.recv(_RAW_BYTES, _DONTWAIT)
            if not raw:
                raise TlsFailure("it closed the connection during the TLS handshake") if first else ConnectionAbortedError("closed")
            self._records.feed(raw)
            # A handshake or an alert. Anything else OpenSSL would call by many names.
            first = first or raw[:4]
            if first[:1] not in (b"\x16", b"\x15") or first[1:2] not in (b"", b"\x03"):
                raise TlsFailure("it does not speak TLS: what it sent begins with %r" % first)

    def _step(self, raw: bytes, ends_at: Optional[float]) -> bool:
        """Take what came, and send the answer; True: the handshake is done."""
        why = ""
        with self._lock:
            self._incoming.write(raw)
            try:
                self._session.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            except ssl.SSLError as error:
                why = self._failed(error)
        if why:
            self._linger()
            raise TlsFailure(why)
        while True:
            with self._lock:
                if self._push():
                    # The first data may have come along with the end of the handshake.
                    self.pending = done
                    return done
            self._wait(select.POLLOUT, ends_at)

    def _wait(self, event: int, ends_at: Optional[float]) -> None:
        left_ms = None if ends_at is None else max(0.0, ends_at - time.monotonic()) * 1000
        poll = select.poll()
        poll.register(self._socket, event)
        if not poll.poll(left_ms):
            raise TlsFailure("the TLS handshake was not done in time")

    def _linger(self) -> None:
        """Let a peer that is refused read why before the connection is closed."""
        ends_at = time.monotonic() + _REFUSAL_S
        try:
            self._socket.shutdown(socket.SHUT_WR)
            while True:
                self._wait(select.POLLIN, ends_at)
                if not self._socket.recv(_RAW_BYTES, _DONTWAIT):
                    return
        except OSError:
            pass

    # -- receiving -------------------------------------------------------------

    def recv(self, most: int, flags: int = 0) -> bytes:
        """As a socket's: empty when the peer has ended the connection, with close_notify or without. TlsFailure: what came is no TLS.

        What came in one receive of the socket is decrypted together.
        """
        pieces: List[bytes] = []

        def read(done: int) -> int:
            pieces.append(self._session.read(min(most - done, _RECORD_BYTES)))
            return len(pieces[-1])

        self._receive(most, read, flags)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def recv_into(self, room: memoryview) -> int:
        return self._receive(len(room), lambda done: self._session.read(len(room) - done, room[done:]))  # type: ignore[arg-type, return-value]

    def _receive(self, most: int, read: Callable[[int], int], flags: int = 0) -> int:
        raw = b""
        while True:
            if raw or self.pending:
                with self._lock:
                    count = self._decrypt(raw, most, read)
                if count is not None:
                    return count
            raw = self._socket.recv(self._most_raw, flags)
            self._most_raw = _RAW_BYTES if len(raw) >= _FEW_RAW_BYTES else _FEW_RAW_BYTES
            self._records.feed(raw)
            if not raw:
                self._has_ended = self.pending = True

    def _decrypt(self, raw: bytes, most: int, read: Callable[[int], int]) -> Optional[int]:
        """How much was read; 0: the connection has ended; `None`: more has to come."""
        if self._has_failed:
            raise TlsFailure(self._has_failed)
        if raw:
            self._incoming.write(raw)
        done = 0
        self.pending = True
        try:
            while done < most:
                count = read(done)
                if not count:
                    break
                done += count
                if not self._incoming.pending and not self._session.pending():
                    self.pending = False
                    break
            ended = not done
        except ssl.SSLWantReadError:
            self.pending = False
            ended = self._has_ended
        except ssl.SSLError as error:
            ended = self._has_ended or isinstance(error, ssl.SSLZeroReturnError)
            if not ended:
                self._has_failed = self._failed(error)
                if not done:
                    raise TlsFailure(self._has_failed) from None
                # After good data it is for the next call.
        if self._outgoing.pending:
            self._answer()
        return done if done or ended else None

    def _answer(self) -> None:
        """Send what the session has to say for itself; what does not fit leaves with the next data."""
        try:
            self._push()
        except OSError:
            pass  # It has gone: the next receive, or send, tells.
        if len(self._unsent) > _UNREAD_BYTES:
            raise TlsFailure("it demands TLS answers and reads none")

    def _failed(self, error: ssl.SSLError) -> str:
        """What is wrong, after an alert that says so has been sent."""
        try:
            self._push()
        except OSError:
            pass
        verification = getattr(error, "verify_message", None)
        if verification:
            return "its certificate is not accepted: %s" % verification.rstrip(".")
        return "TLS: %s" % (error.reason or str(error)).lower().replace("_", " ")

    # -- sending ---------------------------------------------------------------

    def send(self, data: Buffer, flags: int = 0) -> int:
        """As a socket's with MSG_DONTWAIT, and with the condition above."""
        left = memoryview(data)
        sent = 0
        with self._lock:
            while self._push():
                sent += self._covered
                self._covered = 0
                if sent >= len(left):
                    return sent
                self._covered = self._session.write(left[sent : sent + _PLAIN_BYTES])
        if not sent:
            raise BlockingIOError("the socket is full")
        return sent

    def sendmsg(self, pieces: Sequence[Buffer], ancillary: Any = (), flags: int = 0) -> int:
        sent = 0
        for piece in pieces:
            try:
                count = self.send(piece)
            except BlockingIOError:
                if not sent:
                    raise
                break
            sent += count
            if count < len(piece):
                break
        return sent

    def _push(self) -> bool:
        """Send ciphertext as far as the socket takes it at once; True: there is none left."""
        if self._outgoing.pending:
            fresh = self._outgoing.read()
            self._unsent = memoryview(b"".join((self._unsent, fresh)) if self._unsent else fresh)
        if self._unsent:
            try:
                sent = self._socket.send(self._unsent, _DONTWAIT)
            except BlockingIOError:
                return False
            # Not an empty end of it, which would keep all of it.
            self._unsent = self._unsent[sent:] if sent < len(self._unsent) else _NOTHING
        return not self._unsent

    # -- the end ---------------------------------------------------------------

    def shutdown(self, how: int) -> None:
        self._say_goodbye()
        self._socket.shutdown(how)

    def close(self) -> None:
        self._say_goodbye()
        self._socket.close()

    def _say_goodbye(self) -> None:
        """Send close_notify where nothing stands in its way."""
        # A fork that said it would end the connection of its parent, and the
        # lock may be held there by a thread that is not here.
        if self._process != os.getpid() or not self._lock.acquire(False):
            return
        try:
            if not self._unsent:
                self._session.unwrap()
        except (OSError, ValueError):
            pass  # The peer has not said it yet; or there was no handshake.
        try:
            self._push()
        except OSError:
            pass
        finally:
            self._lock.release()
