"""Does something with each of some things after a while, in a thread of its own while there are any.

Threads: any. The Condition is notified whenever something is added or is to be hurried.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Callable, Optional

from gearmand.deadlines import Deadlines


class Later:
    """`act`: called with each thing, with no lock held."""

    def __init__(self, act: Callable[[Any], None]) -> None:
        self._act = act
        self._changed = threading.Condition(threading.Lock())
        self._deadlines = Deadlines()
        self._thread: Optional[threading.Thread] = None
        self._hurried = False

    def add(self, thing: Any, delay_s: float) -> None:
        with self._changed:
            self._deadlines.add(time.monotonic() + max(0.0, delay_s), thing)
            self._changed.notify()
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="gearmand-client-later", daemon=True)
                thread.start()
                self._thread = thread

    def hurry(self) -> None:
        """Do it all now, and whatever is added from now on without delay."""
        with self._changed:
            self._hurried = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                due = self._deadlines.next_due()
                if due is None:
                    self._thread = None
                    return
                self._changed.wait_for(self._is_due, max(0.0, due - time.monotonic()))
                things = list(self._deadlines.pop_due(float("inf") if self._hurried else time.monotonic()))
            for thing in things:
                try:
                    self._act(thing)
                except BaseException:
                    # A callback's, whose to end this thread is not.
                    logging.getLogger("gearmand.client").exception("a callback raised an exception")

    def _is_due(self) -> bool:
        due = self._deadlines.next_due()
        return self._hurried or due is None or due <= time.monotonic()
