"""What is kept of packets that have not come whole, of all peers together.

Threads: each peer's handler notes its own; any of them may have to give a peer
up. Its lock guards the numbers and is not held while a peer is given up.
"""

from __future__ import annotations

import threading
from typing import Dict

from gearmand.peer import Peer


class Halves:
    """`most_bytes`: over it the peer of which most is kept is given up; 0: no bound."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes or 2**62
        self._lock = threading.Lock()
        self._held: Dict[Peer, int] = {}
        self.bytes = 0

    def note(self, peer: Peer, held: int) -> int:
        """So many bytes are kept of the peer now. Returns `held`."""
        largest = None
        with self._lock:
            self.bytes += held - self._held.pop(peer, 0)
            if held:
                self._held[peer] = held
            if self.bytes > self._most_bytes:
                largest = max(self._held, key=self._held.__getitem__)
                self.bytes -= self._held.pop(largest)
        if largest is not None:
            largest.abort("too much is kept of packets that have not come whole, and most of its own (--max-partial-total)")
        return held
