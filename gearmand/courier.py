"""The thread that sends what need not leave alone, so that what comes for one peer, or for several, leaves together.

    post ──▶ outbox ──▶ give ──▶ [handlers that can run have their turns] ──▶ flush

A client that waits for one job is sent its result at once, by the handler that
has posted it. To one that waits for many each result is one of many, and every
send costs as much as the rest of a job. The courier runs where the handlers
run and does not preempt them: it comes when those that could run have run, and
finds in an outbox what all of them have posted. (Measured, 8 clients with 32
jobs each and 8 workers: a fifth more jobs a second.)

Threads: `give` by any; everything else by the courier's own.
"""

from __future__ import annotations

import queue
import threading
from typing import Callable, Optional

from gearmand.peer import Peer

MANY_JOBS = 4
"""From how many on a peer's results can wait for each other."""


class Courier:
    """`place`: called by the thread first, to go where handlers run."""

    def __init__(self, place: Callable[[], None]) -> None:
        self._place = place
        # Called with a peer that is given up because of an error of ours, while
        # that is being handled.
        self.on_error: Callable[[Peer], None] = lambda peer: None
        self._peers: "queue.SimpleQueue[Optional[Peer]]" = queue.SimpleQueue()
        self._thread: Optional[threading.Thread] = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="gearmand-courier", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, if it was started, once it has sent what it was given."""
        self._peers.put(None)
        if self._thread is not None:
            self._thread.join()

    def give(self, peer: Peer) -> None:
        """Have what waits for a peer sent."""
        self._peers.put(peer)

    def _run(self) -> None:
        self._place()
        while True:
            peer = self._peers.get()
            if peer is None:
                return
            try:
                peer.flush()
            except Exception:
                self.on_error(peer)
                peer.abort("an error of this server")
