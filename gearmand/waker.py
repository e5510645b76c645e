"""Wakes a thread that polls. Knows nothing of what it is woken for."""

from __future__ import annotations

import socket


class Waker:
    """Readable (`fileno`) from `wake` until `drain`; a wake-up before the poll counts.

    Threads: any may call `wake`, and so may a signal handler, also after
    `close`: it takes no lock and does not wait. The rest belongs to the thread
    that polls.
    """

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)

    def fileno(self) -> int:
        return self._receiver.fileno()

    @property
    def signal_fd(self) -> int:
        """What `signal.set_wakeup_fd` takes."""
        return self._sender.fileno()

    def wake(self) -> None:
        try:
            self._sender.send(b"\0")
        except OSError:
            pass  # Full, so it is readable anyway; or closed, so nobody polls.

    def drain(self) -> None:
        try:
            while self._receiver.recv(4096):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        self._receiver.close()
        self._sender.close()
