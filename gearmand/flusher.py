"""The one thread that finishes what sockets would not take at once, and gives up peers that do not read.

    peer.flush ── would block ──▶ add ──▶ mailbox ──▶ [poll: writable] ──▶ peer.resume

Threads: `add` by any thread; everything else by the flusher's own. It polls
backed-up sockets only, so an ordinary day passes without it.
"""

from __future__ import annotations

import fcntl
import queue
import select
import socket
import struct
import termios
import threading
import time
from typing import Dict, List, Optional

from gearmand.peer import Peer

_PASS_S = 1.0


class Flusher:
    """`unread_timeout_s`: how long a peer may take no byte while something waits for it (0: for ever).

    `total_bytes`: how much may wait in all backed-up peers together (0: any
    amount); over it the peer with most waiting is aborted.
    """

    def __init__(self, unread_timeout_s: float, total_bytes: int) -> None:
        self._unread_timeout_s = unread_timeout_s or float("inf")
        self._pass_s = min(_PASS_S, self._unread_timeout_s / 4)
        self._total_bytes = total_bytes or 2**62
        self._mailbox: "queue.SimpleQueue[Peer]" = queue.SimpleQueue()
        self._backed_up: Dict[int, Peer] = {}
        # What the kernel held for each of them when last asked.
        self._held: Dict[Peer, int] = {}
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self._stopping = False
        # Made by `start`: the process may fork before, and a thread object
        # that was made before a fork cannot be started after it.
        self._thread: Optional[threading.Thread] = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="gearmand-flusher", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, if it was started; what is still backed up stays unsent."""
        self._stopping = True
        self._ring()
        if self._thread is not None:
            self._thread.join()
        self._bell.close()
        self._ear.close()

    def add(self, peer: Peer) -> None:
        """Take over a peer whose socket is full."""
        self._mailbox.put(peer)
        self._ring()

    def _ring(self) -> None:
        try:
            self._bell.send(b"\0")
        except BlockingIOError:
            pass  # It has been ringing for a while: that is loud enough.

    def _run(self) -> None:
        while not self._stopping:
            ready = self._poll()
            self._take_mail()
            for fileno in ready:
                peer = self._backed_up.get(fileno)
                if peer is not None:
                    peer.resume()
            for fileno, peer in list(self._backed_up.items()):
                if not peer.backed_up or peer.closed:
                    del self._backed_up[fileno]
                    self._held.pop(peer, None)
            self._give_up_unread()

    def _poll(self) -> List[int]:
        poll = select.poll()
        poll.register(self._ear, select.POLLIN)
        for fileno in self._backed_up:
            poll.register(fileno, select.POLLOUT)
        ready = [fileno for fileno, _ in poll.poll(self._pass_s * 1000 if self._backed_up else None)]
        if self._ear.fileno() in ready:
            try:
                self._ear.recv(4096)
            except BlockingIOError:
                pass
        return ready

    def _take_mail(self) -> None:
        while True:
            try:
                peer = self._mailbox.get_nowait()
            except queue.Empty:
                return
            # A closed one may have left its number to this one.
            self._held.pop(self._backed_up.get(peer.fileno, peer), None)
            self._backed_up[peer.fileno] = peer

    def _give_up_unread(self) -> None:
        now = time.monotonic()
        waiting = {peer: peer.waiting_bytes for peer in self._backed_up.values()}
        for peer, waiting_bytes in waiting.items():
            # A socket takes bytes again only when a third of its buffer is
            # free, which a slow reader of a large one needs minutes for.
            held = _held_by_the_kernel(peer)
            if held < self._held.get(peer, 0):
                peer.progress_at = now
            self._held[peer] = held
            if now - peer.progress_at > self._unread_timeout_s:
                peer.abort("it took no byte for %g s while %d bytes waited" % (self._unread_timeout_s, waiting_bytes))
        if sum(waiting.values()) > self._total_bytes:
            peer = max(waiting, key=waiting.__getitem__)
            peer.abort("%d bytes waited for it and too many for all peers together" % waiting[peer])


def _held_by_the_kernel(peer: Peer) -> int:
    """How many bytes have been sent to the peer that its machine has not taken."""
    try:
        return struct.unpack("@i", fcntl.ioctl(peer.socket, termios.TIOCOUTQ, b"\0\0\0\0"))[0]
    except (OSError, ValueError):
        return 0  # It has just been closed.
